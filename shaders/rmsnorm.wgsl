// y = gain · x / sqrt(mean(x²) + ε), a workgroup a row.
struct Params {
    rows: u32,
    dim: u32,
    x_stride: u32,
    y_stride: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> gain: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let x_start = group.x * p.x_stride;
    var squares = 0.0;
    for (var i = lane.index; i < p.dim; i += WORKGROUP) {
        squares += x[x_start + i] * x[x_start + i];
    }
    let mean = reduce_sum(squares, lane) / f32(p.dim);
    let scale = inverseSqrt(mean + p.eps);
    // Squares that overflow must not pass as a row of zeros: the row comes out infinite, and the logits show it.
    let overflow = max(mean - 3.0e38, 0.0);
    for (var i = lane.index; i < p.dim; i += WORKGROUP) {
        y[group.x * p.y_stride + i] = x[x_start + i] * scale * gain[i] + overflow;
    }
}
