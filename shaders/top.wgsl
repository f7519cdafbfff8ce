// The n largest logits of every part of every row, descending, ties to the lowest index, and log Σ e^logit; a workgroup a part.
// values = [log-sum-exp, 1 if any logit is NaN or infinite, the logits …], ids = the indices in the row. A part of fewer than n
// logits is filled up with the lowest value and no index.
struct Params {
    rows: u32,
    vocab: u32,
    part: u32,
    n: u32,
    x_stride: u32,
    values_stride: u32,
    ids_stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;

const LOWEST: f32 = -0x1.fffffep+127; // the lowest finite one

var<workgroup> best_value: array<f32, WORKGROUP>;
var<workgroup> best_id: array<u32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let row = group.x * p.x_stride;
    let to = group.x * ((p.vocab + p.part - 1u) / p.part) + group.y;
    let start = group.y * p.part + lane.index;
    let end = min(p.vocab, (group.y + 1u) * p.part);
    var last_value = 3.4e38;
    var last_id = 0u;
    var first_value = 0.0;
    var bad = 0.0;
    for (var rank = 0u; rank < p.n; rank++) {
        // The largest of those that come after the last one found.
        var value = LOWEST;
        var id = 0xffffffffu;
        for (var i = start; i < end; i += WORKGROUP) {
            let logit = x[row + i];
            // Tested on the bits: some drivers take NaN for equal to itself.
            if ((bitcast<u32>(logit) & 0x7f800000u) == 0x7f800000u) {
                bad = 1.0;
            }
            let open = rank == 0u || logit < last_value || (logit == last_value && i > last_id);
            if (open && (logit > value || (logit == value && i < id))) {
                value = logit;
                id = i;
            }
        }
        best_value[lane.index] = value;
        best_id[lane.index] = id;
        workgroupBarrier();
        for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
            if (lane.index < half) {
                let other = best_value[lane.index + half];
                let other_id = best_id[lane.index + half];
                if (other > best_value[lane.index] || (other == best_value[lane.index] && other_id < best_id[lane.index])) {
                    best_value[lane.index] = other;
                    best_id[lane.index] = other_id;
                }
            }
            workgroupBarrier();
        }
        last_value = best_value[0];
        last_id = best_id[0];
        if (rank == 0u) {
            first_value = last_value;
        }
        workgroupBarrier(); // before the next rank writes again
        if (lane.index == 0u) {
            values[to * p.values_stride + 2u + rank] = last_value;
            ids[to * p.ids_stride + rank] = last_id;
        }
    }
    var part = 0.0;
    for (var i = start; i < end; i += WORKGROUP) {
        part += exp(x[row + i] - first_value);
    }
    let total = reduce_sum(part, lane);
    let any_bad = reduce_max(bad, lane);
    if (lane.index == 0u) {
        values[to * p.values_stride] = first_value + log(total);
        values[to * p.values_stride + 1u] = any_bad;
    }
}
