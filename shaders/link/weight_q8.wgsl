// Weights in blocks of 32 signed bytes that share a scale: w = scale · q. The body names the arrays: w, of vec4<u32>, and scales, two
// f16 a word.

// Numbers 4 i … 4 i + 3.
fn weight4(i: u32) -> vec4<f32> {
    return weight_scale(i / 8u) * bytes(w[i / 4u][i % 4u]);
}

// Numbers 4 i … 4 i + 7, for an even i.
fn weight8(i: u32) -> mat2x4<f32> {
    return weight_scale(i / 8u) * mat2x4<f32>(bytes(w[i / 4u][i % 4u]), bytes(w[i / 4u][i % 4u + 1u]));
}

fn bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}
