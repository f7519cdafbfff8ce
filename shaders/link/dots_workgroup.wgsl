// A workgroup makes eight outputs: each thread a share of every sum, added up through shared memory.
const TEAM: u32 = WORKGROUP;

var<workgroup> dots_scratch: array<mat2x4<f32>, WORKGROUP>;

// A thread's part of eight products: of row j of w, from first[j] or last[j − 4] on, with the n vec4s of x from x_start on, as element
// [j / 4][j % 4]; dots_sum adds the parts up.
fn dots_part(first: vec4<u32>, last: vec4<u32>, x_start: u32, n: u32, lane: Lane) -> mat2x4<f32> {
    var sums = mat2x4<f32>();
    for (var i = 2u * lane.index; i < n; i += 2u * WORKGROUP) {
        sums += dots_step(first, last, x_start, n, i);
    }
    return sums;
}

// The sums over all threads of the workgroup, which must all call it.
fn dots_sum(sums: mat2x4<f32>, lane: Lane) -> mat2x4<f32> {
    workgroupBarrier(); // the result of an earlier call has been read by all
    dots_scratch[lane.index] = sums;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half = half / 2u) {
        if (lane.index < half) {
            dots_scratch[lane.index] += dots_scratch[lane.index + half];
        }
        workgroupBarrier();
    }
    return dots_scratch[0];
}
