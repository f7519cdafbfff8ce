// y[r, b, o] (+)= Σ w[b, o, i] · x[r, b, i] for many rows: a square of threads, each with a 4 × 4 tile of (outputs, rows).
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

const FOUR: vec4<u32> = vec4<u32>(0u, 1u, 2u, 3u);

@compute @workgroup_size(SIDE, SIDE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    if (closed()) {
        return;
    }
    let o = (group.x * SIDE + thread.x) * 4u;
    let row = (group.y * SIDE + thread.y) * 4u;
    let b = group.z;
    // Past the edge the last output and row are computed again, and not written.
    let w_start = (p.w_start + b * p.w_step + min(o + FOUR, vec4<u32>(p.outs - 1u))) * p.w_stride;
    let x_start = min(row + FOUR, vec4<u32>(p.rows - 1u)) * p.x_stride + p.x_start + b * p.x_step;
    let sums = tile(w_start, x_start, p.ins);
    for (var j = 0u; j < 4u && row + j < p.rows; j++) {
        for (var i = 0u; i < 4u && o + i < p.outs; i++) {
            let at = (row + j) * p.y_stride + p.y_start + b * p.y_step + o + i;
            y[at] = sums[i][j] + select(0.0, y[at], p.add != 0u);
        }
    }
}
