// Sorts the (row, slot) pairs by expert and cuts each expert's pairs into tiles, without a read-back:
// tiles[t] = (expert, first pair, pairs, 0), pairs = 0 past the last tile; order = pair indices, expert by expert.
// One workgroup; a thread takes whole experts, so the order does not depend on timing. Shared experts, from p.routed on, have a pair of
// every row, in the slots after the p.k chosen ones.
struct Params {
    rows: u32,
    k: u32,
    k_stride: u32,
    experts: u32,
    routed: u32,
    tile: u32,
    tiles: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> tiles: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> order: array<u32>;

const MAX_EXPERTS: u32 = 1024u;

var<workgroup> counts: array<u32, MAX_EXPERTS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let slots = p.k + p.experts - p.routed;
    for (var e = thread; e < p.experts; e += WORKGROUP) {
        var count = select(0u, p.rows, e >= p.routed);
        for (var row = 0u; row < p.rows && e < p.routed; row++) {
            for (var k = 0u; k < p.k; k++) {
                count += select(0u, 1u, ids[row * p.k_stride + k] == e);
            }
        }
        counts[e] = count;
    }
    for (var t = thread; t < p.tiles; t += WORKGROUP) {
        tiles[t] = vec4<u32>(0u);
    }
    storageBarrier();
    workgroupBarrier();
    for (var e = thread; e < p.experts; e += WORKGROUP) {
        var first = 0u;
        var tile = 0u;
        for (var before = 0u; before < e; before++) {
            first += counts[before];
            tile += (counts[before] + p.tile - 1u) / p.tile;
        }
        for (var done = 0u; done < counts[e]; done += p.tile) {
            tiles[tile] = vec4<u32>(e, first + done, min(p.tile, counts[e] - done), 0u);
            tile++;
        }
        var next = first;
        for (var row = 0u; row < p.rows; row++) {
            if (e >= p.routed) {
                order[first + row] = row * slots + p.k + e - p.routed;
                continue;
            }
            for (var k = 0u; k < p.k; k++) {
                if (ids[row * p.k_stride + k] == e) {
                    order[next] = row * slots + k;
                    next++;
                }
            }
        }
    }
}
