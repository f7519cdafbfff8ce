// x' = x + ((down · x) ⊙ scale[t]) · lora_b;  h = A ⊙ h + B ⊙ e + x'; a workgroup a row. lti holds A, then B; x lies by row,
// h and e by sequence and position.
struct Params {
    rows: u32,
    list: u32,
    dim: u32,
    stride: u32,
    rank: u32,
    rank_stride: u32,
    scales: u32,
    context: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> e: array<f32>;
@group(0) @binding(4) var<storage, read> down: array<f32>;
@group(0) @binding(5) var<storage, read> scale: array<f32>;
@group(0) @binding(6) var<storage, read> lora_b: array<f32>;
@group(0) @binding(7) var<storage, read> lti: array<f32>;
@group(0) @binding(8) var<storage, read_write> h: array<f32>;

const MAX_RANK: u32 = 1024u;

var<workgroup> low: array<f32, MAX_RANK>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let row = group.x * p.stride;
    // Beyond the trained loops the last row of the table serves.
    let t = min(list[p.list + group.x].w, p.scales - 1u);
    let state = state_row(list[p.list + group.x]) * p.stride;
    for (var k = 0u; k < p.rank; k++) {
        var part = 0.0;
        for (var i = lane.index; i < p.dim; i += WORKGROUP) {
            part += down[k * p.stride + i] * x[row + i];
        }
        let sum = reduce_sum(part, lane);
        if (lane.index == 0u) {
            low[k] = sum * scale[t * p.rank_stride + k];
        }
    }
    workgroupBarrier();
    for (var i = lane.index; i < p.dim; i += WORKGROUP) {
        var lora = 0.0;
        for (var k = 0u; k < p.rank; k++) {
            lora += low[k] * lora_b[k * p.stride + i];
        }
        h[state + i] = lti[i] * h[state + i] + lti[p.stride + i] * e[state + i] + (x[row + i] + lora);
    }
}
