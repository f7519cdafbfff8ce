// Adaptive computation time: p = sigmoid(w · h + b); weight = halted ? 0 : (cum + p ≥ threshold ? max(1 − cum, 0) : p);
// out += weight · h; cum += halted ? 0 : p. A workgroup a row. A row without a place only catches up: it has no part in this.
// act, 8 numbers a place: cum, loops run until halted, p, weight, cap, min_loops, mode, whether it runs on.
struct Params {
    rows: u32,
    list: u32,
    dim: u32,
    stride: u32,
    context: u32,
    bias: f32,
    threshold: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> h: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read_write> act: array<vec4<f32>>;

const NO_PLACE: u32 = 0xffffffffu;
const FIXED: f32 = 1.0;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let row = list[p.list + group.x];
    let state = state_row(row) * p.stride;
    let counts = row.x != NO_PLACE;
    let place = select(0u, row.x, counts);
    let loops = f32(row.w + 1u);
    let before = act[2u * place];
    let limits = act[2u * place + 1u]; // cap, min_loops, mode, running
    var part = 0.0;
    for (var i = lane.index; i < p.dim; i += WORKGROUP) {
        part += w[i] * h[state + i];
    }
    let logit = reduce_sum(part, lane) + p.bias;
    storageBarrier(); // all have read act before thread 0 writes it
    let halting = select(1.0 / (1.0 + exp(-logit)), 0.0, loops < limits.y);
    let cum = before.x;
    let running = cum < p.threshold;
    var weight = select(halting, max(1.0 - cum, 0.0), cum + halting >= p.threshold);
    weight = select(0.0, weight, running);
    var after = vec4<f32>(cum + select(0.0, halting, running), before.y + select(0.0, 1.0, running), halting, weight);
    if (limits.z == FIXED) {
        // A fixed number of loops: the output is h after the last.
        weight = select(0.0, 1.0, loops == limits.x);
        after = vec4<f32>(cum, loops, halting, weight);
    }
    if (counts) {
        for (var i = lane.index; i < p.dim; i += WORKGROUP) {
            out[place * p.stride + i] += weight * h[state + i];
        }
        if (lane.index == 0u) {
            let on = loops < limits.x && (limits.z != 0.0 || after.x < p.threshold);
            act[2u * place] = after;
            act[2u * place + 1u].w = select(0.0, 1.0, on);
        }
    }
}
