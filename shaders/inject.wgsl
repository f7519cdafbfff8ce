// x = RMSNorm(h + loop_emb(t) + e) · gain, the input of the block at a row's loop t, and normed = RMSNorm(x) · attn_gain, which its
// attention reads; a workgroup a row. The first kernel of a pass: where no token in flight runs on, it closes the gate for all that
// follow and does nothing itself. A row without a state is left alone. The table's rows are gain, attn_gain, then loop_emb loop by loop.
struct Params {
    rows: u32,
    list: u32,
    dim: u32,
    stride: u32,
    sequences: u32,
    context: u32,
    places: u32,
    pass_index: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> h: array<f32>;
@group(0) @binding(3) var<storage, read> e: array<f32>;
@group(0) @binding(4) var<storage, read> table: array<f32>;
@group(0) @binding(5) var<storage, read> act: array<f32>;
@group(0) @binding(6) var<storage, read_write> x: array<f32>;
@group(0) @binding(7) var<storage, read_write> normed: array<f32>;
@group(0) @binding(8) var<storage, read_write> gate: array<u32>;

// Words of gate: whether the pass is on, and the first of the marks of the passes that ran.
const LIVE: u32 = 64u;
const MARKS: u32 = 128u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    var own = 0.0;
    for (var place = lane.index; place < p.places; place += WORKGROUP) {
        own = max(own, act[place * 8u + 7u]);
    }
    let live = reduce_max(own, lane) > 0.0;
    if (group.x == 0u && lane.index == 0u) {
        gate[LIVE] = select(0u, 1u, live);
        gate[MARKS + p.pass_index] = select(0u, 1u, live);
    }
    let row = list[p.list + group.x];
    let write = live && state_has(row);
    let state = state_row(row) * p.stride;
    let emb = (2u + row.w) * p.stride;
    let to = group.x * p.stride;
    var squares = 0.0;
    for (var i = lane.index; i < p.dim; i += WORKGROUP) {
        let u = h[state + i] + table[emb + i] + e[state + i];
        squares += u * u;
    }
    let mean = reduce_sum(squares, lane) / f32(p.dim);
    let scale = inverseSqrt(mean + p.eps);
    let overflow = max(mean - 3.0e38, 0.0); // see rmsnorm.wgsl
    squares = 0.0;
    for (var i = lane.index; i < p.dim; i += WORKGROUP) {
        let u = h[state + i] + table[emb + i] + e[state + i];
        let sum = u * scale * table[i] + overflow;
        squares += sum * sum;
        if (write) {
            x[to + i] = sum;
        }
    }
    let mean_x = reduce_sum(squares, lane) / f32(p.dim);
    let scale_x = inverseSqrt(mean_x + p.eps);
    let overflow_x = max(mean_x - 3.0e38, 0.0);
    if (write) {
        for (var i = lane.index; i < p.dim; i += WORKGROUP) {
            normed[to + i] = x[to + i] * scale_x * table[p.stride + i] + overflow_x;
        }
    }
}
