// A workgroup makes eight outputs: each thread a share of every sum, added up inside each subgroup without memory, then over the subgroups.
const TEAM: u32 = WORKGROUP;

// Room for the smallest subgroups.
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
    let part = mat2x4<f32>(subgroupAdd(sums[0]), subgroupAdd(sums[1]));
    workgroupBarrier(); // the result of an earlier call has been read by all
    if (lane.in_subgroup == 0u) {
        dots_scratch[lane.subgroup] = part;
    }
    workgroupBarrier();
    var total = dots_scratch[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        total += dots_scratch[i];
    }
    return total;
}
