// The end of a loop; a workgroup a row. The table's rows: A, B, w of the halting head, then down, then lora_b, p.rank rows each.
//   x' = x + ((down · x) ⊙ scale[t]) · lora_b;   h = A ⊙ h + B ⊙ e + x'
//   p = sigmoid(w · h + b); weight = halted ? 0 : (cum + p ≥ threshold ? max(1 − cum, 0) : p);  out += weight · h; cum += halted ? 0 : p
// x lies by row, h and e by sequence and position, out and act by place. A row without a place only catches up: it has no part in halting. One
// without a state is left alone.
// act, 8 numbers a place: cum, loops run until halted, p, weight, cap, min_loops, mode, whether it runs on.
struct Params {
    rows: u32,
    list: u32,
    stride: u32,
    rank: u32,
    rank_stride: u32,
    scales: u32,
    sequences: u32,
    context: u32,
    places: u32,
    bias: f32,
    threshold: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> e: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> scale: array<f32>;
@group(0) @binding(6) var<storage, read_write> h: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> act: array<vec4<f32>>;

const MAX_RANK: u32 = 1024u;
const FIXED: f32 = 1.0;

var<workgroup> low: array<f32, MAX_RANK>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let row = list[p.list + group.x];
    let source = group.x * p.stride;
    let has_state = state_has(row);
    let state = state_row(row) * p.stride;
    let down = 3u * p.stride;
    let up = down + p.rank * p.stride;
    // Beyond the trained loops the last row of the table serves.
    let t = min(row.w, p.scales - 1u);
    // A team of LANES threads takes a row of down.
    for (var first = 0u; first < p.rank; first += WORKGROUP / LANES) {
        let k = first + lane.index / LANES;
        var part = 0.0;
        if (k < p.rank) {
            for (var i = lane.index % LANES; i < p.stride; i += LANES) {
                part += dot(table[down + k * p.stride + i], x[source + i]);
            }
        }
        let sum = team_sum(part, lane.index);
        if (k < p.rank && lane.index % LANES == 0u) {
            low[k] = sum * scale[t * p.rank_stride + k];
        }
    }
    workgroupBarrier();
    var part = 0.0;
    for (var i = lane.index; i < p.stride; i += WORKGROUP) {
        var lora = vec4<f32>();
        for (var k = 0u; k < p.rank; k++) {
            lora += low[k] * table[up + k * p.stride + i];
        }
        let next = table[i] * h[state + i] + table[p.stride + i] * e[state + i] + (x[source + i] + lora);
        if (has_state) {
            h[state + i] = next;
        }
        part += dot(table[2u * p.stride + i], next);
    }
    let logit = reduce_sum(part, lane) + p.bias;

    let counts = has_state && row.x < p.places;
    let place = select(0u, row.x, counts);
    let loops = f32(row.w + 1u);
    let before = act[2u * place];
    let limits = act[2u * place + 1u]; // cap, min_loops, mode, running
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
        for (var i = lane.index; i < p.stride; i += WORKGROUP) {
            out[place * p.stride + i] += weight * h[state + i];
        }
        if (lane.index == 0u) {
            let on = loops < limits.x && (limits.z != 0.0 || after.x < p.threshold);
            act[2u * place] = after;
            act[2u * place + 1u].w = select(0.0, 1.0, on);
        }
    }
}
