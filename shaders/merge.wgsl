// The n best of a row from the n best of each of its parts, and its log Σ e^logit from theirs; a workgroup a row. Layouts as in
// top.wgsl.
struct Params {
    rows: u32,
    parts: u32,
    n: u32,
    values_stride: u32,
    ids_stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> part_values: array<f32>;
@group(0) @binding(2) var<storage, read> part_ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> values: array<f32>;
@group(0) @binding(4) var<storage, read_write> ids: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let first_part = group.x * p.parts;
    let to = group.x * p.values_stride;
    var last = Best(LOWEST, NO_ID);
    for (var rank = 0u; rank < p.n; rank++) {
        var best = Best(LOWEST, NO_ID);
        for (var i = lane.index; i < p.parts * p.n; i += WORKGROUP) {
            let part = first_part + i / p.n;
            let found = Best(part_values[part * p.values_stride + 2u + i % p.n], part_ids[part * p.ids_stride + i % p.n]);
            if ((rank == 0u || is_better(last, found)) && is_better(found, best)) {
                best = found;
            }
        }
        last = reduce_best(best, lane.index);
        if (lane.index == 0u) {
            values[to + 2u + rank] = last.value;
            ids[group.x * p.ids_stride + rank] = last.id;
        }
    }
    var largest = LOWEST;
    var bad = 0.0;
    for (var part = lane.index; part < p.parts; part += WORKGROUP) {
        largest = max(largest, part_values[(first_part + part) * p.values_stride]);
        bad = max(bad, part_values[(first_part + part) * p.values_stride + 1u]);
    }
    let top = reduce_max(largest, lane);
    let any_bad = reduce_max(bad, lane);
    var sum = 0.0;
    for (var part = lane.index; part < p.parts; part += WORKGROUP) {
        sum += exp(part_values[(first_part + part) * p.values_stride] - top);
    }
    let total = reduce_sum(sum, lane);
    if (lane.index == 0u) {
        values[to] = top + log(total);
        values[to + 1u] = any_bad;
    }
}
