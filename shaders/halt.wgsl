// Adaptive computation time: p = sigmoid(w · h + b); weight = halted ? 0 : (cum + p ≥ threshold ? max(1 − cum, 0) : p);
// out += weight · h; cum += halted ? 0 : p. A workgroup a row; state = (cum, loops run until halted, p, weight).
struct Params {
    rows: u32,
    list: u32,
    dim: u32,
    stride: u32,
    loops: u32,
    min_loops: u32,
    fixed: u32,
    bias: f32,
    threshold: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> h: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read_write> state: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let row = group.x * p.stride;
    let t = list[p.list + group.x].w;
    let before = state[group.x];
    var part = 0.0;
    for (var i = lane.index; i < p.dim; i += WORKGROUP) {
        part += w[i] * h[row + i];
    }
    let logit = reduce_sum(part, lane) + p.bias;
    storageBarrier(); // all have read the state before thread 0 writes it
    let halting = select(1.0 / (1.0 + exp(-logit)), 0.0, t + 1u < p.min_loops);
    let cum = before.x;
    let running = cum < p.threshold;
    var weight = select(halting, max(1.0 - cum, 0.0), cum + halting >= p.threshold);
    weight = select(0.0, weight, running);
    var after = vec4<f32>(cum + select(0.0, halting, running), before.y + select(0.0, 1.0, running), halting, weight);
    if (p.fixed != 0u) {
        // A fixed number of loops: the output is h after the last.
        weight = select(0.0, 1.0, t + 1u == p.loops);
        after = vec4<f32>(cum, f32(t + 1u), halting, weight);
    }
    for (var i = lane.index; i < p.dim; i += WORKGROUP) {
        out[row + i] += weight * h[row + i];
    }
    if (lane.index == 0u) {
        state[group.x] = after;
    }
}
