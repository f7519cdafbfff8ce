// Sums over teams of LANES neighbouring threads.
var<workgroup> team_scratch: array<f32, WORKGROUP>;

// The sum of the values of a thread's team, the same in every thread of it. All threads of the workgroup must call it.
fn team_sum(value: f32, thread: u32) -> f32 {
    if (LANES == 1u) {
        return value;
    }
    let lane = thread % LANES;
    workgroupBarrier(); // the result of an earlier call has been read by all
    team_scratch[thread] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half = half / 2u) {
        if (lane < half) {
            team_scratch[thread] += team_scratch[thread + half];
        }
        workgroupBarrier();
    }
    return team_scratch[thread - lane];
}
