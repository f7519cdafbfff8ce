// y[r, b, o] (+)= Σ w[b, o, i] · x[r, b, i] for many rows: a workgroup an area of AREA_OUTS outputs × AREA_ROWS rows.
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

// Past the edge the last output and row are computed again, and not written.
fn w_at(b: u32, o: u32) -> u32 {
    return (p.w_start + b * p.w_step + min(o, p.outs - 1u)) * p.w_stride;
}

fn x_at(b: u32, row: u32) -> u32 {
    return min(row, p.rows - 1u) * p.x_stride + p.x_start + b * p.x_step;
}

// Element [j][i] is that of output o + i and row + j.
fn put(b: u32, o: u32, row: u32, results: mat4x4<f32>) {
    var block = results;
    for (var j = 0u; j < 4u && row + j < p.rows; j++) {
        for (var i = 0u; i < 4u && o + i < p.outs; i++) {
            let at = (row + j) * p.y_stride + p.y_start + b * p.y_step + o + i;
            y[at] = block[j][i] + select(0.0, y[at], p.add != 0u);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    // Areas of the same outputs lie next to each other in the grid: they read the same weights at about the same time.
    area(group.z, group.y * AREA_OUTS, group.x * AREA_ROWS, p.ins, lane);
}
