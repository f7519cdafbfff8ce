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

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let row = group.x * p.x_stride;
    let to = group.x * ((p.vocab + p.part - 1u) / p.part) + group.y;
    let start = group.y * p.part + lane.index;
    let end = min(p.vocab, (group.y + 1u) * p.part);
    var last = Best(LOWEST, NO_ID);
    var largest = LOWEST;
    var bad = 0.0;
    for (var rank = 0u; rank < p.n; rank++) {
        // The best of those that come after the last one found.
        var best = Best(LOWEST, NO_ID);
        for (var i = start; i < end; i += WORKGROUP) {
            let found = Best(x[row + i], i);
            // Tested on the bits: some drivers take NaN for equal to itself.
            if ((bitcast<u32>(found.value) & 0x7f800000u) == 0x7f800000u) {
                bad = 1.0;
            }
            if ((rank == 0u || is_better(last, found)) && is_better(found, best)) {
                best = found;
            }
        }
        last = reduce_best(best, lane.index);
        if (rank == 0u) {
            largest = last.value;
        }
        if (lane.index == 0u) {
            values[to * p.values_stride + 2u + rank] = last.value;
            ids[to * p.ids_stride + rank] = last.id;
        }
    }
    var part = 0.0;
    for (var i = start; i < end; i += WORKGROUP) {
        part += exp(x[row + i] - largest);
    }
    let total = reduce_sum(part, lane);
    let any_bad = reduce_max(bad, lane);
    if (lane.index == 0u) {
        values[to * p.values_stride] = largest + log(total);
        values[to * p.values_stride + 1u] = any_bad;
    }
}
