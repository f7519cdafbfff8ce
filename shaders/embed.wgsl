// y[r] = table[source(r)]: a gather of rows. The table may be one part of a larger one: sources outside it are left alone.
struct Params {
    list: u32,
    cols: u32,
    w_stride: u32,
    y_stride: u32,
    first: u32,
    count: u32,
    rows: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let source = list[p.list + group.x].x;
    if (source < p.first || source - p.first >= p.count) {
        return;
    }
    for (var i = thread; i < p.cols; i += WORKGROUP) {
        y[group.x * p.y_stride + i] = weight4((source - p.first) * p.w_stride + i);
    }
}
