// y = silu(gate) ⊙ up, where a row of x is [gate | up]; silu(z) = z / (1 + e^−z).
struct Params {
    rows: u32,
    dim: u32,
    x_stride: u32,
    y_stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let i = group.y * WORKGROUP + thread;
    if (i < p.dim) {
        let gate = x[group.x * p.x_stride + i];
        let up = x[group.x * p.x_stride + p.dim + i];
        y[group.x * p.y_stride + i] = gate / (1.0 + exp(-gate)) * up;
    }
}
