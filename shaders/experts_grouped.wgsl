// y[r, s] = W x[r, s] for many rows, W of the expert that slot s is for: every tile holds (row, slot) pairs of one expert, see group.wgsl. The grid has
// room for the most tiles that there can be; those past the end do nothing.
struct Params {
    rows: u32,
    slots: u32,
    ins: u32,
    outs: u32,
    w_stride: u32,
    x_stride: u32,
    x_step: u32,
    y_stride: u32,
    first: u32,
    count: u32,
    tiles: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> tiles: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> order: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

const FOUR: vec4<u32> = vec4<u32>(0u, 1u, 2u, 3u);

@compute @workgroup_size(SIDE, SIDE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    if (closed()) {
        return;
    }
    let pairs = tiles[group.y];
    let expert = pairs.x - p.first;
    let from_pair = thread.y * 4u;
    if (from_pair >= pairs.z || expert >= p.count) {
        return;
    }
    let o = (group.x * SIDE + thread.x) * 4u;
    let at = pairs.y + min(from_pair + FOUR, vec4<u32>(pairs.z - 1u));
    let pair = vec4<u32>(order[at.x], order[at.y], order[at.z], order[at.w]);
    let w_start = (expert * p.outs + min(o + FOUR, vec4<u32>(p.outs - 1u))) * p.w_stride;
    let x_start = (pair / p.slots) * p.x_stride + (pair % p.slots) * p.x_step;
    let sums = tile(w_start, x_start, p.ins);
    for (var j = 0u; j < 4u && from_pair + j < pairs.z; j++) {
        for (var i = 0u; i < 4u && o + i < p.outs; i++) {
            y[pair[j] * p.y_stride + o + i] = sums[i][j];
        }
    }
}
