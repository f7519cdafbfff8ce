// Before the first loop of a token: h = e = x at its place among the states, out = 0 at its place among the tokens in flight; a
// workgroup a row. What lies outside is left alone.
struct Params {
    rows: u32,
    list: u32,
    stride: u32,
    sequences: u32,
    context: u32,
    places: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> h: array<f32>;
@group(0) @binding(4) var<storage, read_write> e: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = list[p.list + group.x];
    let state = state_row(row) * p.stride;
    for (var i = thread; i < p.stride; i += WORKGROUP) {
        let start = x[group.x * p.stride + i];
        if (state_has(row)) {
            h[state + i] = start;
            e[state + i] = start;
        }
        if (row.x < p.places) {
            out[row.x * p.stride + i] = 0.0;
        }
    }
}
