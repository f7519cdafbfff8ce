// y[r, h] = Σ_j softmax_j(q[r, h] · k[j] · scale) v[j] over cached positions j ≤ position(r), with an online softmax;
// a workgroup a (row, head). Keys and values are spans of the cached rows: see p.key_step, p.value_start, p.value_step.
struct Params {
    rows: u32,
    list: u32,
    heads: u32,
    group: u32,
    key_dim: u32,
    key_step: u32,
    value_dim: u32,
    value_start: u32,
    value_step: u32,
    q_stride: u32,
    y_stride: u32,
    y_head: u32,
    slot: u32,
    per_loop: u32,
    first_slot: u32,
    slots: u32,
    sequences: u32,
    context: u32,
    cache_stride: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> cache: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// Wide enough for every published size (1024 + 64), within 16 KiB of shared memory; the model checks its heads against them.
const MAX_KEY: u32 = 1216u;
const MAX_VALUE: u32 = 1024u;
const LOWEST: f32 = -3.0e38;

var<workgroup> query: array<f32, MAX_KEY>;
var<workgroup> sums: array<f32, MAX_VALUE>;
var<workgroup> weights: array<f32, WORKGROUP>;

// The two inner loops take four steps a round: fewer rounds are faster, and one software driver ends a shader after 65,535.

// query · (key_dim numbers of the cache from k on).
fn key_dot(k: u32) -> f32 {
    var sum = 0.0;
    var i = 0u;
    for (; i + 4u <= p.key_dim; i += 4u) {
        let four = vec4<f32>(cache[k + i], cache[k + i + 1u], cache[k + i + 2u], cache[k + i + 3u]);
        sum += dot(vec4<f32>(query[i], query[i + 1u], query[i + 2u], query[i + 3u]), four);
    }
    for (; i < p.key_dim; i++) {
        sum += query[i] * cache[k + i];
    }
    return sum;
}

// Σ_n weights[n] · (the number at v in the n-th row after v's), n < count.
fn value_sum(v: u32, count: u32) -> f32 {
    let step = p.cache_stride;
    var sum = 0.0;
    var n = 0u;
    for (; n + 4u <= count; n += 4u) {
        let at = v + n * step;
        let four = vec4<f32>(cache[at], cache[at + step], cache[at + 2u * step], cache[at + 3u * step]);
        sum += dot(vec4<f32>(weights[n], weights[n + 1u], weights[n + 2u], weights[n + 3u]), four);
    }
    for (; n < count; n++) {
        sum += weights[n] * cache[v + n * step];
    }
    return sum;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let row = list[p.list + group.x];
    let head = group.y;
    let slot = cache_slot(row.w);
    // A row whose slot lies in another part attends to nothing here and writes nothing.
    let here = slot < p.slots;
    let positions = select(0u, min(row.z + 1u, p.context), here);
    let start = cache_start(slot, row.y);
    let key = start + (head / p.group) * p.key_step;
    let value = start + p.value_start + (head / p.group) * p.value_step;

    for (var i = lane.index; i < p.key_dim; i += WORKGROUP) {
        query[i] = q[group.x * p.q_stride + head * p.key_dim + i] * p.scale;
    }
    for (var i = lane.index; i < p.value_dim; i += WORKGROUP) {
        sums[i] = 0.0;
    }
    workgroupBarrier();

    var largest = LOWEST;
    var total = 0.0;
    for (var first = 0u; first < positions; first += WORKGROUP) {
        let j = first + lane.index;
        var score = LOWEST;
        if (j < positions) {
            score = key_dot(key + j * p.cache_stride);
        }
        let larger = max(largest, reduce_max(score, lane));
        let weight = select(0.0, exp(score - larger), j < positions);
        weights[lane.index] = weight;
        let shrink = exp(largest - larger);
        total = total * shrink + reduce_sum(weight, lane);
        largest = larger;
        let count = min(WORKGROUP, positions - first);
        for (var i = lane.index; i < p.value_dim; i += WORKGROUP) {
            sums[i] = sums[i] * shrink + value_sum(value + first * p.cache_stride + i, count);
        }
    }
    if (here) {
        for (var i = lane.index; i < p.value_dim; i += WORKGROUP) {
            y[group.x * p.y_stride + head * p.y_head + i] = sums[i] / total;
        }
    }
}
