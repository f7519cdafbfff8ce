// x = RMSNorm(h + loop_emb(t) + e) · gain: the input of the block at a row's loop t; a workgroup a row.
struct Params {
    rows: u32,
    list: u32,
    dim: u32,
    stride: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> h: array<f32>;
@group(0) @binding(3) var<storage, read> e: array<f32>;
@group(0) @binding(4) var<storage, read> loop_emb: array<f32>;
@group(0) @binding(5) var<storage, read> gain: array<f32>;
@group(0) @binding(6) var<storage, read_write> x: array<f32>;

fn sum_at(row: u32, t: u32, i: u32) -> f32 {
    return h[row * p.stride + i] + loop_emb[t * p.stride + i] + e[row * p.stride + i];
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    let t = list[p.list + group.x].w;
    var squares = 0.0;
    for (var i = lane.index; i < p.dim; i += WORKGROUP) {
        let u = sum_at(group.x, t, i);
        squares += u * u;
    }
    let mean = reduce_sum(squares, lane) / f32(p.dim);
    let scale = inverseSqrt(mean + p.eps);
    let overflow = max(mean - 3.0e38, 0.0); // see rmsnorm.wgsl
    for (var i = lane.index; i < p.dim; i += WORKGROUP) {
        x[group.x * p.stride + i] = sum_at(group.x, t, i) * scale * gain[i] + overflow;
    }
}
