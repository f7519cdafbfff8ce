// y[r, b, o] (+)= Σ w[b, o, i] · x[r, b, i] for few rows: a team of LANES threads an output.
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
    add: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let o = group.x * (WORKGROUP / LANES) + thread / LANES;
    let row = group.y;
    let b = group.z;
    // Teams past the last output work on the last one: every thread reaches the barriers.
    let w_start = (p.w_start + b * p.w_step + min(o, p.outs - 1u)) * p.w_stride;
    let sum = team_sum(team_part(w_start, row * p.x_stride + p.x_start + b * p.x_step, p.ins, thread), thread);
    if (thread % LANES == 0u && o < p.outs) {
        let at = row * p.y_stride + p.y_start + b * p.y_step + o;
        y[at] = sum + select(0.0, y[at], p.add != 0u);
    }
}
