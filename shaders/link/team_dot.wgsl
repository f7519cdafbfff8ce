// A dot product shared by a team of LANES neighbouring threads. The body names x, of vec4<f32>; w is read through weight4.

// A thread's part of Σ weight4(w_start + i) · x[x_start + i] for i < n; team_sum adds up the parts.
fn team_part(w_start: u32, x_start: u32, n: u32, thread: u32) -> f32 {
    var sum = 0.0;
    for (var i = thread % LANES; i < n; i += LANES) {
        sum += dot(weight4(w_start + i), x[x_start + i]);
    }
    return sum;
}
