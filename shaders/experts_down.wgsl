// y[r] += Σ_s gate[r, s] · W[r, s] x[r, s] for few rows: the outputs of all experts of a row, weighed. A shared expert's gate is 1.
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
@group(0) @binding(5) var<storage, read> gates: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let o = group.x * (WORKGROUP / LANES) + thread / LANES;
    let row = group.y;
    var part = 0.0;
    for (var slot = 0u; slot < p.slots; slot++) {
        let expert = slot_expert(row, slot) - p.first;
        if (expert < p.count) {
            let w_start = (expert * p.outs + min(o, p.outs - 1u)) * p.w_stride;
            let own = team_part(w_start, (row * p.slots + slot) * p.x_stride, p.ins, thread);
            if (slot < p.k) {
                part += gates[row * p.k_stride + slot] * own;
            } else {
                part += own;
            }
        }
    }
    let sum = team_sum(part, thread);
    if (thread % LANES == 0u && o < p.outs) {
        y[row * p.y_stride + o] += sum;
    }
}
