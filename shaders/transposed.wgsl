// y[r, b, j] = Σ w[b, i, j] · x[r, b, i]: a product with the transpose of w, four neighbouring results a thread.
struct Params {
    rows: u32,
    ins: u32,
    outs: u32,
    batch: u32,
    w_stride: u32,
    w_step: u32,
    w_start: u32,
    x_stride: u32,
    x_step: u32,
    x_start: u32,
    y_stride: u32,
    y_step: u32,
    y_start: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let four = group.x * WORKGROUP + thread;
    if (4u * four >= p.outs) {
        return;
    }
    let row = group.y;
    let b = group.z;
    let w_start = (p.w_start + b * p.w_step) * p.w_stride + four;
    let x_start = row * p.x_stride + p.x_start + b * p.x_step;
    var sum = vec4<f32>();
    for (var i = 0u; i < p.ins; i++) {
        sum += x[x_start + i] * weight4(w_start + i * p.w_stride);
    }
    let y_start = row * p.y_stride + p.y_start + b * p.y_step;
    for (var j = 0u; j < 4u && 4u * four + j < p.outs; j++) {
        y[y_start + 4u * four + j] = sum[j];
    }
}
