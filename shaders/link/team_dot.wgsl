// A dot product shared by a team of LANES neighbouring threads. The body names x, of vec4<f32>; w is read through weight4.
var<workgroup> team_scratch: array<f32, WORKGROUP>;

// Σ weight4(w_start + i) · x[x_start + i] for i < n, the same in every thread of the team. All threads of the workgroup must call it.
fn team_dot(w_start: u32, x_start: u32, n: u32, thread: u32) -> f32 {
    let lane = thread % LANES;
    var sum = 0.0;
    for (var i = lane; i < n; i += LANES) {
        sum += dot(weight4(w_start + i), x[x_start + i]);
    }
    if (LANES == 1u) {
        return sum;
    }
    team_scratch[thread] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half = half / 2u) {
        if (lane < half) {
            team_scratch[thread] += team_scratch[thread + half];
        }
        workgroupBarrier();
    }
    return team_scratch[thread - lane];
}
