// Reductions over a workgroup: first inside each subgroup without memory, then over the subgroups through shared memory.
// The size of a subgroup is a fact of the run, so the shared array has room for the smallest.
struct Lane {
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) in_subgroup: u32,
}

var<workgroup> reduce_scratch: array<f32, WORKGROUP>;

// The sum of every thread's value. All threads of the workgroup must call it.
fn reduce_sum(value: f32, lane: Lane) -> f32 {
    let part = subgroupAdd(value);
    workgroupBarrier(); // the result of an earlier call has been read by all
    if (lane.in_subgroup == 0u) {
        reduce_scratch[lane.subgroup] = part;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < lane.subgroups; i++) {
        sum += reduce_scratch[i];
    }
    return sum;
}

// The largest of every thread's values.
fn reduce_max(value: f32, lane: Lane) -> f32 {
    let part = subgroupMax(value);
    workgroupBarrier();
    if (lane.in_subgroup == 0u) {
        reduce_scratch[lane.subgroup] = part;
    }
    workgroupBarrier();
    var largest = reduce_scratch[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        largest = max(largest, reduce_scratch[i]);
    }
    return largest;
}
