// y[r, k] = W[ids[r, k]] · x[r, k] for few rows: the matrix of each slot k is found through the router's choice.
struct Params {
    rows: u32,
    k: u32,
    ins: u32,
    outs: u32,
    w_stride: u32,
    k_stride: u32,
    x_stride: u32,
    x_step: u32,
    y_stride: u32,
    first: u32,
    count: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> ids: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let o = group.x * (WORKGROUP / LANES) + thread / LANES;
    let row = group.y;
    let k = group.z;
    let expert = ids[row * p.k_stride + k] - p.first;
    // An expert of another part: no steps here, and nothing written.
    let here = expert < p.count;
    let w_start = (select(0u, expert, here) * p.outs + min(o, p.outs - 1u)) * p.w_stride;
    let sum = team_dot(w_start, row * p.x_stride + k * p.x_step, select(0u, p.ins, here), thread);
    if (thread % LANES == 0u && o < p.outs && here) {
        y[(row * p.k + k) * p.y_stride + o] = sum;
    }
}
