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

const FOUR: vec4<u32> = vec4<u32>(0u, 1u, 2u, 3u);

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let o = 8u * (group.x * (WORKGROUP / TEAM) + lane.index / TEAM);
    let row = group.y;
    let first = min(o + FOUR, vec4<u32>(p.outs - 1u));
    let last = min(o + 4u + FOUR, vec4<u32>(p.outs - 1u));
    var part = mat2x4<f32>();
    for (var slot = 0u; slot < p.slots; slot++) {
        let expert = slot_expert(row, slot) - p.first;
        if (expert < p.count) {
            let rows = expert * p.outs;
            var gate = 1.0;
            if (slot < p.k) {
                gate = gates[row * p.k_stride + slot];
            }
            let x_start = (row * p.slots + slot) * p.x_stride;
            part += gate * dots_part((rows + first) * p.w_stride, (rows + last) * p.w_stride, x_start, p.ins, lane);
        }
    }
    var sums = dots_sum(part, lane);
    for (var j = lane.index % TEAM; j < min(8u, p.outs - min(o, p.outs)); j += TEAM) {
        y[row * p.y_stride + o + j] += sums[j / 4u][j % 4u];
    }
}
