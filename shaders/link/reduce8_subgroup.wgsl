// Reductions of eight values at once over a workgroup: first inside each subgroup without memory, then over the subgroups through shared
// memory, which has room for the smallest.
var<workgroup> reduce8_scratch: array<mat2x4<f32>, WORKGROUP>;

// The sums of every thread's values. All threads of the workgroup must call it.
fn reduce_sum8(values: mat2x4<f32>, lane: Lane) -> mat2x4<f32> {
    exchange8(mat2x4<f32>(subgroupAdd(values[0]), subgroupAdd(values[1])), lane);
    var sums = reduce8_scratch[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        sums += reduce8_scratch[i];
    }
    return sums;
}

// The largest of every thread's values.
fn reduce_max8(values: mat2x4<f32>, lane: Lane) -> mat2x4<f32> {
    exchange8(mat2x4<f32>(subgroupMax(values[0]), subgroupMax(values[1])), lane);
    var largest = reduce8_scratch[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        largest = mat2x4<f32>(max(largest[0], reduce8_scratch[i][0]), max(largest[1], reduce8_scratch[i][1]));
    }
    return largest;
}

fn exchange8(part: mat2x4<f32>, lane: Lane) {
    workgroupBarrier(); // the result of an earlier call has been read by all
    if (lane.in_subgroup == 0u) {
        reduce8_scratch[lane.subgroup] = part;
    }
    workgroupBarrier();
}
