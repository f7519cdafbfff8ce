// y[r, b, o] (+)= Σ w[b, o, i] · x[r, b, i] for few rows: a team of TEAM threads eight outputs.
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

// Rows lie next to each other in the grid: those that read the same weights run at about the same time.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let o = 8u * (group.y * (WORKGROUP / TEAM) + lane.index / TEAM);
    let row = group.x;
    let b = group.z;
    // Past the last output that one is computed again, and not written: every thread reaches the barriers.
    let rows = p.w_start + b * p.w_step;
    let first = (rows + min(o + FOUR, vec4<u32>(p.outs - 1u))) * p.w_stride;
    let last = (rows + min(o + 4u + FOUR, vec4<u32>(p.outs - 1u))) * p.w_stride;
    var sums = dots_sum(dots_part(first, last, row * p.x_stride + p.x_start + b * p.x_step, p.ins, lane), lane);
    for (var j = lane.index % TEAM; j < min(8u, p.outs - min(o, p.outs)); j += TEAM) {
        let at = row * p.y_stride + p.y_start + b * p.y_step + o + j;
        y[at] = sums[j / 4u][j % 4u] + select(0.0, y[at], p.add != 0u);
    }
}
