// Rotary position embedding of one pair. The body names the table: angles, (position, pair, [cos, sin]) with rows padded to 4.
fn rope_angle(position: u32, pairs: u32, pair: u32) -> vec2<f32> {
    let at = position * ((2u * pairs + 3u) / 4u * 4u) + 2u * pair;
    return vec2<f32>(angles[at], angles[at + 1u]);
}

fn rope_turn(pair: vec2<f32>, angle: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(pair.x * angle.x - pair.y * angle.y, pair.x * angle.y + pair.y * angle.x);
}
