// Four numbers of each of four rows of w.
fn weights(at: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(weight4(at.x), weight4(at.y), weight4(at.z), weight4(at.w));
}

// Element [r][o] is w[o] · x[r].
fn products(w: mat4x4<f32>, x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(x[0] * w, x[1] * w, x[2] * w, x[3] * w);
}

