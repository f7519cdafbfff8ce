// The scale of a block, of two f16 a word. unpack2x16float may take a number below 2^-14 for 0, and with it the
// whole block.
fn weight_scale(block: u32) -> f32 {
    let bits = (scales[block / 2u] >> (16u * (block & 1u))) & 0xffffu;
    let size = bits & 0x7fffu;
    let normal = bitcast<f32>((size << 13u) + 0x38000000u);
    let number = select(normal, f32(size) * 0x1p-24, size < 0x400u);
    return select(number, -number, bits > 0x7fffu);
}
