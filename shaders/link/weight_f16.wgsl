// Weights in f16, eight a vec4. Read without the shader-f16 feature, so that every device can. The body names the arrays: w, of
// vec4<u32>, and scales.

// Numbers 4 i … 4 i + 3.
fn weight4(i: u32) -> vec4<f32> {
    let eight = w[i / 2u];
    let four = select(eight.xy, eight.zw, (i & 1u) == 1u);
    return vec4<f32>(unpack2x16float(four.x), unpack2x16float(four.y));
}

// Numbers 4 i … 4 i + 7, for an even i.
fn weight8(i: u32) -> mat2x4<f32> {
    let eight = w[i / 2u];
    return mat2x4<f32>(
        vec4<f32>(unpack2x16float(eight.x), unpack2x16float(eight.y)),
        vec4<f32>(unpack2x16float(eight.z), unpack2x16float(eight.w)),
    );
}
