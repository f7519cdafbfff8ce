// Weights in f32, four a vec4. The body names the arrays: w, of vec4<u32>, and scales.

// Numbers 4 i … 4 i + 3.
fn weight4(i: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(w[i]);
}

// Numbers 4 i … 4 i + 7.
fn weight8(i: u32) -> mat2x4<f32> {
    return mat2x4<f32>(weight4(i), weight4(i + 1u));
}
