// A thread alone makes eight outputs: for devices where a thread is a lane of a processor, and barriers and shared memory cost more than
// they save.
const TEAM: u32 = 1u;

// A thread's part of eight products: of row j of w, from first[j] or last[j − 4] on, with the n vec4s of x from x_start on, as element
// [j / 4][j % 4]; dots_sum adds the parts up.
fn dots_part(first: vec4<u32>, last: vec4<u32>, x_start: u32, n: u32, lane: Lane) -> mat2x4<f32> {
    var sums = mat2x4<f32>();
    for (var i = 0u; i < n; i += 2u) {
        sums += dots_step(first, last, x_start, n, i);
    }
    return sums;
}

fn dots_sum(sums: mat2x4<f32>, lane: Lane) -> mat2x4<f32> {
    return sums;
}
