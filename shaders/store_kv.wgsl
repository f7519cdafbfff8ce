// cache[slot, sequence, position] = [RoPE(k) | v] of every row; a workgroup a row.
struct Params {
    rows: u32,
    list: u32,
    heads: u32,
    pairs: u32,
    x_stride: u32,
    k_start: u32,
    v_start: u32,
    slot: u32,
    per_loop: u32,
    first_slot: u32,
    slots: u32,
    sequences: u32,
    context: u32,
    cache_stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> angles: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> cache: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let row = list[p.list + group.x];
    let slot = cache_slot(row.w);
    if (slot >= p.slots || !cache_has(row)) {
        return;
    }
    let from_x = group.x * p.x_stride;
    let to = cache_start(slot, row.y) + row.z * p.cache_stride;
    let width = 2u * p.heads * p.pairs;
    for (var n = thread; n < p.heads * p.pairs; n += WORKGROUP) {
        let k = from_x + p.k_start + 2u * n;
        let turned = rope_turn(vec2<f32>(x[k], x[k + 1u]), rope_angle(row.z, p.pairs, n % p.pairs));
        cache[to + 2u * n] = turned.x;
        cache[to + 2u * n + 1u] = turned.y;
    }
    for (var n = thread; n < width; n += WORKGROUP) {
        cache[to + width + n] = x[from_x + p.v_start + n];
    }
}
