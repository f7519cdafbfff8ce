// Weights in blocks of 32 signed bytes that share a scale: w = scale · q. The body names the arrays: w, of vec4<u32>, and scales, two
// f16 a word.

// Numbers 4 i … 4 i + 3.
fn weight4(i: u32) -> vec4<f32> {
    let word = w[i / 4u][i % 4u];
    let q = bitcast<vec4<i32>>(vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
    return weight_scale(i / 8u) * vec4<f32>(q);
}
