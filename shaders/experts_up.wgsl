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

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let o = group.x * (WORKGROUP / LANES) + thread / LANES;
    let row = group.y;
    let expert = slot_expert(row, group.z) - p.first;
    // An expert of another part: no steps here, and nothing written.
    let here = expert < p.count;
    let ins = select(0u, p.ins, here);
    let gate_row = (select(0u, expert, here) * 2u * p.outs + min(o, p.outs - 1u)) * p.w_stride;
    let gate = team_sum(team_part(gate_row, row * p.x_stride, ins, thread), thread);
    let up = team_sum(team_part(gate_row + p.outs * p.w_stride, row * p.x_stride, ins, thread), thread);
    if (thread % LANES == 0u && o < p.outs && here) {
        y[(row * p.slots + group.z) * p.y_stride + o] = gate / (1.0 + exp(-gate)) * up;
    }
}
