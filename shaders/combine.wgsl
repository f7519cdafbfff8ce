// x[r] += Σ_s gates[r, s] · y[r, s]: the experts' outputs, weighed, in the order of the slots. Those after the p.k chosen ones count 1.
struct Params {
    rows: u32,
    k: u32,
    slots: u32,
    dim: u32,
    k_stride: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> gates: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let i = group.y * WORKGROUP + thread;
    if (i < p.dim) {
        var sum = 0.0;
        for (var s = 0u; s < p.slots; s++) {
            let own = y[(group.x * p.slots + s) * p.stride + i];
            if (s < p.k) {
                sum += gates[group.x * p.k_stride + s] * own;
            } else {
                sum += own;
            }
        }
        x[group.x * p.stride + i] += sum;
    }
}
