// y[r, h] = Σ_j softmax_j(query[r, h] · k[j] · scale) v[j] over cached positions j ≤ position(r), with an online softmax. A query is
// [q | RoPE(turned)]. Keys and values are spans of the cached rows: see p.key_step, p.value_start, p.value_step.
// A workgroup takes p.span positions of a (row, head). Where that is not all of them, log Σ e^score goes to the column after y,
// and attention_merge puts the spans together.
struct Params {
    rows: u32,
    list: u32,
    heads: u32,
    group: u32,
    plain: u32,
    pairs: u32,
    key_step: u32,
    value_dim: u32,
    value_start: u32,
    value_step: u32,
    q_stride: u32,
    turned_stride: u32,
    turned_start: u32,
    y_stride: u32,
    y_head: u32,
    y_span: u32,
    span: u32,
    spans: u32,
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
@group(0) @binding(2) var<storage, read> angles: array<f32>;
@group(0) @binding(3) var<storage, read> q: array<f32>;
@group(0) @binding(4) var<storage, read> turned: array<f32>;
@group(0) @binding(5) var<storage, read> cache: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

// Wide enough for every published size (1024 + 64), within 16 KiB of shared memory; the model checks its heads against them.
const MAX_KEY: u32 = 1216u;
const MAX_VALUE: u32 = 1024u;
const LOWEST: f32 = -3.0e38;

var<workgroup> query: array<f32, MAX_KEY>;
var<workgroup> sums: array<f32, MAX_VALUE>;
var<workgroup> weights: array<f32, WORKGROUP>;

// The two inner loops take four steps a round: fewer rounds are faster, and one software driver ends a shader after 65,535.

// query · (the key of the cache from k on).
fn key_dot(k: u32) -> f32 {
    let dim = p.plain + 2u * p.pairs;
    var sum = 0.0;
    var i = 0u;
    for (; i + 4u <= dim; i += 4u) {
        let four = vec4<f32>(cache[k + i], cache[k + i + 1u], cache[k + i + 2u], cache[k + i + 3u]);
        sum += dot(vec4<f32>(query[i], query[i + 1u], query[i + 2u], query[i + 3u]), four);
    }
    for (; i < dim; i++) {
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

    for (var i = lane.index; i < p.plain; i += WORKGROUP) {
        query[i] = q[group.x * p.q_stride + head * p.plain + i] * p.scale;
    }
    let pair_start = group.x * p.turned_stride + p.turned_start + head * 2u * p.pairs;
    for (var n = lane.index; n < p.pairs; n += WORKGROUP) {
        let pair = p.scale * vec2<f32>(turned[pair_start + 2u * n], turned[pair_start + 2u * n + 1u]);
        let turn = rope_turn(pair, rope_angle(row.z, p.pairs, n));
        query[p.plain + 2u * n] = turn.x;
        query[p.plain + 2u * n + 1u] = turn.y;
    }
    for (var i = lane.index; i < p.value_dim; i += WORKGROUP) {
        sums[i] = 0.0;
    }
    workgroupBarrier();

    var largest = LOWEST;
    var total = 0.0;
    let begin = min(group.z * p.span, positions);
    let end = min(begin + p.span, positions);
    for (var first = begin; first < end; first += WORKGROUP) {
        let j = first + lane.index;
        var score = LOWEST;
        if (j < end) {
            score = key_dot(key + j * p.cache_stride);
        }
        let larger = max(largest, reduce_max(score, lane));
        let weight = select(0.0, exp(score - larger), j < end);
        weights[lane.index] = weight;
        let shrink = exp(largest - larger);
        total = total * shrink + reduce_sum(weight, lane);
        largest = larger;
        let count = min(WORKGROUP, end - first);
        for (var i = lane.index; i < p.value_dim; i += WORKGROUP) {
            sums[i] = sums[i] * shrink + value_sum(value + first * p.cache_stride + i, count);
        }
    }
    if (here) {
        let to = group.x * p.y_stride + head * p.y_head + group.z * p.y_span;
        // A span without positions is 0, and counts for nothing.
        let share = select(1.0 / total, 0.0, begin == end);
        for (var i = lane.index; i < p.value_dim; i += WORKGROUP) {
            y[to + i] = sums[i] * share;
        }
        if (p.spans > 1u && lane.index == 0u) {
            y[to + p.value_dim] = select(largest + log(total), LOWEST, begin == end);
        }
    }
}
