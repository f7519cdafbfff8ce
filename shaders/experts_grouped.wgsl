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

// The tile of this workgroup, and its expert, counted in this part.
var<private> pairs: vec4<u32>;
var<private> expert: u32;

// Past the edge the last output and pair are computed again, and not written.
fn w_at(b: u32, o: u32) -> u32 {
    return (expert * p.outs + min(o, p.outs - 1u)) * p.w_stride;
}

fn pair_at(row: u32) -> u32 {
    return order[pairs.y + min(row, pairs.z - 1u)];
}

fn x_at(b: u32, row: u32) -> u32 {
    let pair = pair_at(row);
    return (pair / p.slots) * p.x_stride + (pair % p.slots) * p.x_step;
}

// Element [j][i] is that of output o + i and pair row + j.
fn put(b: u32, o: u32, row: u32, results: mat4x4<f32>) {
    var block = results;
    for (var j = 0u; j < 4u && row + j < pairs.z; j++) {
        let to = pair_at(row + j) * p.y_stride;
        for (var i = 0u; i < 4u && o + i < p.outs; i++) {
            y[to + o + i] = block[j][i];
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let own = tiles[group.y];
    if (own.z == 0u || own.x - p.first >= p.count) {
        return;
    }
    pairs = own;
    expert = own.x - p.first;
    area(0u, group.x * AREA_OUTS, 0u, p.ins, lane);
}
