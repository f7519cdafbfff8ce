// Before the first loop: h = x, e = x, out = 0, state = (cumulative p, loops, last p, last weight) = 0.
struct Params {
    rows: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> h: array<f32>;
@group(0) @binding(3) var<storage, read_write> e: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read_write> state: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    for (var i = thread; i < p.stride; i += WORKGROUP) {
        let at = group.x * p.stride + i;
        h[at] = x[at];
        e[at] = x[at];
        out[at] = 0.0;
    }
    if (thread == 0u) {
        state[group.x] = vec4<f32>(0.0);
    }
}
