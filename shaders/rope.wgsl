// Rotates adjacent pairs (x₂ᵢ, x₂ᵢ₊₁) of every head by the angle of the row's position; a workgroup a row.
struct Params {
    rows: u32,
    list: u32,
    heads: u32,
    pairs: u32,
    x_stride: u32,
    x_start: u32,
    x_head: u32,
    y_stride: u32,
    y_start: u32,
    y_head: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> angles: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let row = group.x;
    let position = list[p.list + row].z;
    for (var n = thread; n < p.heads * p.pairs; n += WORKGROUP) {
        let head = n / p.pairs;
        let pair = n % p.pairs;
        let angle = rope_angle(position, p.pairs, pair);
        let from_x = row * p.x_stride + p.x_start + head * p.x_head + 2u * pair;
        let to = row * p.y_stride + p.y_start + head * p.y_head + 2u * pair;
        let turned = rope_turn(vec2<f32>(x[from_x], x[from_x + 1u]), angle);
        y[to] = turned.x;
        y[to + 1u] = turned.y;
    }
}
