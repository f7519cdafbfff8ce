// y[r, s] = silu(G x[r]) ⊙ (U x[r]) for few rows, with [G; U] the matrix of the expert that slot s is for; silu(z) = z / (1 + e^−z).
struct Params {
    rows: u32,
    slots: u32,
    k: u32,
    routed: u32,
    ins: u32,
    outs: u32,
    w_stride: u32,
    k_stride: u32,
    x_stride: u32,
    y_stride: u32,
    first: u32,
    count: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> ids: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

const FOUR: vec4<u32> = vec4<u32>(0u, 1u, 2u, 3u);

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    // Four rows of G and the same four of U are eight products with one x.
    let o = 4u * (group.x * (WORKGROUP / TEAM) + lane.index / TEAM);
    let row = group.y;
    let expert = slot_expert(row, group.z) - p.first;
    // An expert of another part: no steps here, and nothing written.
    let here = expert < p.count;
    let gates = select(0u, expert, here) * 2u * p.outs + min(o + FOUR, vec4<u32>(p.outs - 1u));
    let ins = select(0u, p.ins, here);
    let sums = dots_sum(dots_part(gates * p.w_stride, (gates + p.outs) * p.w_stride, row * p.x_stride, ins, lane), lane);
    var hidden = sums[0] / (1.0 + exp(-sums[0])) * sums[1];
    let count = select(0u, min(4u, p.outs - min(o, p.outs)), here);
    for (var j = lane.index % TEAM; j < count; j += TEAM) {
        y[(row * p.slots + group.z) * p.y_stride + o + j] = hidden[j];
    }
}
