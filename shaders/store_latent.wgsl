// cache[slot, sequence, position] = [RMSNorm(c) · gain | RoPE(r)] and c_q = RMSNorm(q) · q_gain of every row of x = [q | c | r];
// a workgroup a row.
struct Params {
    rows: u32,
    list: u32,
    rank: u32,
    pairs: u32,
    q_rank: u32,
    x_stride: u32,
    q_stride: u32,
    slot: u32,
    per_loop: u32,
    first_slot: u32,
    slots: u32,
    sequences: u32,
    context: u32,
    cache_stride: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> angles: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read> gain: array<f32>;
@group(0) @binding(5) var<storage, read> q_gain: array<f32>;
@group(0) @binding(6) var<storage, read_write> cache: array<f32>;
@group(0) @binding(7) var<storage, read_write> c_q: array<f32>;

// 1 / the root of the mean square of x[start..start + n], and what is added where the squares overflow: see rmsnorm.wgsl.
fn norm(start: u32, n: u32, lane: Lane) -> vec2<f32> {
    var squares = 0.0;
    for (var i = lane.index; i < n; i += WORKGROUP) {
        squares += x[start + i] * x[start + i];
    }
    let mean = reduce_sum(squares, lane) / f32(n);
    return vec2<f32>(inverseSqrt(mean + p.eps), max(mean - 3.0e38, 0.0));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let row = list[p.list + group.x];
    let slot = cache_slot(row.w);
    let q = group.x * p.x_stride;
    let c = q + p.q_rank;
    let q_norm = norm(q, p.q_rank, lane);
    let c_norm = norm(c, p.rank, lane);
    for (var i = lane.index; i < p.q_rank; i += WORKGROUP) {
        c_q[group.x * p.q_stride + i] = x[q + i] * q_norm.x * q_gain[i] + q_norm.y;
    }
    if (slot >= p.slots || !cache_has(row)) {
        return;
    }
    let to = cache_start(slot, row.y) + row.z * p.cache_stride;
    for (var i = lane.index; i < p.rank; i += WORKGROUP) {
        cache[to + i] = x[c + i] * c_norm.x * gain[i] + c_norm.y;
    }
    for (var n = lane.index; n < p.pairs; n += WORKGROUP) {
        let r = c + p.rank + 2u * n;
        let turned = rope_turn(vec2<f32>(x[r], x[r + 1u]), rope_angle(row.z, p.pairs, n));
        cache[to + p.rank + 2u * n] = turned.x;
        cache[to + p.rank + 2u * n + 1u] = turned.y;
    }
}
