// A 4 × 4 tile of dot products in the registers of one thread, read straight from memory. The body names x, of vec4<f32>; w is
// read through weight4.

// Element [o][r] is Σ weight4(w_start[o] + i) · x[x_start[r] + i] for i < n.
fn tile(w_start: vec4<u32>, x_start: vec4<u32>, n: u32) -> mat4x4<f32> {
    var sums = mat4x4<f32>();
    for (var i = 0u; i < n; i++) {
        let x0 = x[x_start.x + i];
        let x1 = x[x_start.y + i];
        let x2 = x[x_start.z + i];
        let x3 = x[x_start.w + i];
        let w0 = weight4(w_start.x + i);
        let w1 = weight4(w_start.y + i);
        let w2 = weight4(w_start.z + i);
        let w3 = weight4(w_start.w + i);
        sums[0] += vec4<f32>(dot(w0, x0), dot(w0, x1), dot(w0, x2), dot(w0, x3));
        sums[1] += vec4<f32>(dot(w1, x0), dot(w1, x1), dot(w1, x2), dot(w1, x3));
        sums[2] += vec4<f32>(dot(w2, x0), dot(w2, x1), dot(w2, x2), dot(w2, x3));
        sums[3] += vec4<f32>(dot(w3, x0), dot(w3, x1), dot(w3, x2), dot(w3, x3));
    }
    return sums;
}
