// Weights in blocks of 32 half bytes n that share a scale: w = scale · (n − 8). A word holds 8 numbers, the first four in the low halves
// of its bytes. The body names the arrays: w, of vec4<u32>, and scales, two f16 a word.

// Numbers 4 i … 4 i + 3.
fn weight4(i: u32) -> vec4<f32> {
    return weight_scale(i / 8u) * low_halves(w[i / 8u][i / 2u % 4u] >> (4u * (i & 1u)));
}

// Numbers 4 i … 4 i + 7, for an even i.
fn weight8(i: u32) -> mat2x4<f32> {
    let word = w[i / 8u][i / 2u % 4u];
    return weight_scale(i / 8u) * mat2x4<f32>(low_halves(word), low_halves(word >> 4u));
}

fn low_halves(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u)) - 8.0;
}
