// Reductions of eight values at once over a workgroup, for as many barriers as one takes.
var<workgroup> reduce8_scratch: array<mat2x4<f32>, WORKGROUP>;

// The sums of every thread's values. All threads of the workgroup must call it.
fn reduce_sum8(values: mat2x4<f32>, lane: Lane) -> mat2x4<f32> {
    workgroupBarrier(); // the result of an earlier call has been read by all
    reduce8_scratch[lane.index] = values;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if (lane.index < half) {
            reduce8_scratch[lane.index] += reduce8_scratch[lane.index + half];
        }
        workgroupBarrier();
    }
    return reduce8_scratch[0];
}

// The largest of every thread's values.
fn reduce_max8(values: mat2x4<f32>, lane: Lane) -> mat2x4<f32> {
    workgroupBarrier();
    reduce8_scratch[lane.index] = values;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if (lane.index < half) {
            reduce8_scratch[lane.index] = max8(reduce8_scratch[lane.index], reduce8_scratch[lane.index + half]);
        }
        workgroupBarrier();
    }
    return reduce8_scratch[0];
}

fn max8(a: mat2x4<f32>, b: mat2x4<f32>) -> mat2x4<f32> {
    return mat2x4<f32>(max(a[0], b[0]), max(a[1], b[1]));
}
