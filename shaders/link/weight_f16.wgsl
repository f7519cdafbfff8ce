// Weights in f16, eight a vec4. Read without the shader-f16 feature, so that every device can. The body names the arrays: w, of
// vec4<u32>, and scales.

// Numbers 4 i … 4 i + 3.
fn weight4(i: u32) -> vec4<f32> {
    let eight = w[i / 2u];
    let four = select(eight.xy, eight.zw, (i & 1u) == 1u);
    return vec4<f32>(unpack2x16float(four.x), unpack2x16float(four.y));
}
