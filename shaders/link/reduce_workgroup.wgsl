// Reductions over a workgroup through shared memory, for devices without subgroup operations.
struct Lane {
    @builtin(local_invocation_index) index: u32,
}

var<workgroup> reduce_scratch: array<f32, WORKGROUP>;

// The sum of every thread's value. All threads of the workgroup must call it.
fn reduce_sum(value: f32, lane: Lane) -> f32 {
    workgroupBarrier(); // the result of an earlier call has been read by all
    reduce_scratch[lane.index] = value;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if (lane.index < half) {
            reduce_scratch[lane.index] += reduce_scratch[lane.index + half];
        }
        workgroupBarrier();
    }
    return reduce_scratch[0];
}

// The largest of every thread's values.
fn reduce_max(value: f32, lane: Lane) -> f32 {
    workgroupBarrier();
    reduce_scratch[lane.index] = value;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if (lane.index < half) {
            reduce_scratch[lane.index] = max(reduce_scratch[lane.index], reduce_scratch[lane.index + half]);
        }
        workgroupBarrier();
    }
    return reduce_scratch[0];
}
