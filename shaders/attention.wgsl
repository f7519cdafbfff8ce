// y[r, h] = Σ_j softmax_j(query[r, h] · k[j] · scale) v[j] over cached positions j ≤ position(r), with an online softmax. A query is
// [q | RoPE(turned)]. Keys and values are spans of the cached rows: see p.key_step, p.value_start, p.value_step.
// A workgroup takes p.span positions and up to eight queries that look at the same keys and values, which so are read once for all:
// p.at_once heads of a group, of rows that follow each other and are of one sequence at one loop. The workgroup of the first of these
// rows does it, those of the others leave at once.
// Where the span is not all positions, log Σ e^score goes to the column after y, and attention_merge puts the spans together.
struct Params {
    rows: u32,
    list: u32,
    heads: u32,
    group: u32,
    at_once: u32,
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
@group(0) @binding(5) var<storage, read> cache: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

const LOWEST: f32 = -3.0e38;
// Positions of a block, and those of them that are a thread's own: every WORKGROUP-th.
const BLOCK: u32 = 64u;
const KEYS: u32 = BLOCK / WORKGROUP;
// vec4s of every query that shared memory holds; longer queries are loaded anew, part by part, for every block.
const COLUMNS: u32 = 72u;
// Where the weights of a block start, each position's eight as two vec4s; before them is vec4 i of query n as 8 i + n.
const WEIGHTS: u32 = 8u * COLUMNS;

var<workgroup> shared_vec4s: array<vec4<f32>, WEIGHTS + 2u * BLOCK>;

// What a workgroup works on: rows and heads (the first and how many), the word where its sequence and its spans of the cached rows
// start, its positions. Query n is that of the n % p.at_once-th head of the n / p.at_once-th row.
struct Work {
    row: u32,
    rows: u32,
    head: u32,
    heads: u32,
    key: u32,
    value: u32,
    begin: u32,
}

fn has_query(work: Work, n: u32) -> bool {
    return n / p.at_once < work.rows && n % p.at_once < work.heads;
}

// The end of the positions that a row looks at, in this workgroup's span. A position outside of the cache looks at nothing.
fn seen(work: Work, row: u32) -> u32 {
    let position = list[p.list + row].z;
    return clamp(select(0u, position + 1u, position < p.context), work.begin, work.begin + p.span);
}

fn seen_by(work: Work, n: u32) -> u32 {
    let row = min(n / p.at_once, work.rows - 1u);
    return select(0u, seen(work, work.row + row), has_query(work, n));
}

// Number i of query n; 0 outside of it.
fn query(work: Work, n: u32, i: u32) -> f32 {
    let row = work.row + n / p.at_once;
    let head = work.head + n % p.at_once;
    if (i >= p.plain + 2u * p.pairs || !has_query(work, n)) {
        return 0.0;
    }
    if (i < p.plain) {
        return p.scale * q[row * p.q_stride + head * p.plain + i];
    }
    let t = i - p.plain;
    let at = row * p.turned_stride + p.turned_start + head * 2u * p.pairs + t - t % 2u;
    let turn = rope_turn(vec2<f32>(turned[at], turned[at + 1u]), rope_angle(list[p.list + row].z, p.pairs, t / 2u));
    return p.scale * select(turn.x, turn.y, t % 2u == 1u);
}

// Where a block lies in the span, and which span it is.
struct Place {
    first: bool,
    last: bool,
    span: u32,
}

// Four columns of a query: y = (y · shrink + sums) · share, where y counts for nothing in the first block. So sums need no memory but y,
// each number of which is one thread's. `level` is log Σ e^score, for the last block.
fn put(work: Work, place: Place, n: u32, column: u32, sums: vec4<f32>, shrink: f32, share: f32, level: f32) {
    if (!has_query(work, n)) {
        return;
    }
    let to = (work.row + n / p.at_once) * p.y_stride + (work.head + n % p.at_once) * p.y_head + place.span * p.y_span;
    var block = sums;
    for (var j = 0u; j < 4u; j++) {
        // Before the first column lie `work.value % 4` others, which are not of the value.
        let i = 4u * column + j - work.value % 4u;
        if (i < p.value_dim) {
            y[to + i] = (select(y[to + i] * shrink, 0.0, place.first) + block[j]) * share;
        }
    }
    if (p.spans > 1u && place.last && column == 0u) {
        y[to + p.value_dim] = level;
    }
}

// The same of four queries from n on.
fn put4(work: Work, place: Place, n: u32, column: u32, sums: mat4x4<f32>, shrink: vec4<f32>, share: vec4<f32>, level: vec4<f32>) {
    put(work, place, n, column, sums[0], shrink.x, share.x, level.x);
    put(work, place, n + 1u, column, sums[1], shrink.y, share.y, level.y);
    put(work, place, n + 2u, column, sums[2], shrink.z, share.z, level.z);
    put(work, place, n + 3u, column, sums[3], shrink.w, share.w, level.w);
}

// Element [n] is v · w[n].
fn outer(v: vec4<f32>, w: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(v * w.x, v * w.y, v * w.z, v * w.w);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let row = group.x;
    let info = list[p.list + row];
    let slot = cache_slot(info.w);
    // A row whose slot lies in another part attends to nothing here and writes nothing, nor does one of a sequence that there is not.
    if (slot >= p.slots || info.y >= p.sequences) {
        return;
    }
    let most = 8u / p.at_once;
    if (row % most != 0u && all(list[p.list + row - 1u].yw == info.yw)) {
        return;
    }
    var work: Work;
    work.row = row;
    work.begin = group.z * p.span;
    work.rows = 1u;
    var end = seen(work, row);
    while ((row + work.rows) % most != 0u && row + work.rows < p.rows) {
        if (any(list[p.list + row + work.rows].yw != info.yw)) {
            break;
        }
        end = max(end, seen(work, row + work.rows));
        work.rows++;
    }
    let parts = (p.group + p.at_once - 1u) / p.at_once;
    let kv = group.y / parts;
    let head = group.y % parts * p.at_once;
    work.head = kv * p.group + head;
    work.heads = min(p.at_once, p.group - head);
    let start = cache_start(slot, info.y);
    work.key = start + kv * p.key_step;
    work.value = start + p.value_start + kv * p.value_step;

    let ends = array<vec4<u32>, 2>(
        vec4<u32>(seen_by(work, 0u), seen_by(work, 1u), seen_by(work, 2u), seen_by(work, 3u)),
        vec4<u32>(seen_by(work, 4u), seen_by(work, 5u), seen_by(work, 6u), seen_by(work, 7u)),
    );
    // Rows start at multiples of 4, keys and values need not: numbers before them meet zeros, or are not written.
    let shift = work.key % 4u;
    let columns = (shift + p.plain + 2u * p.pairs + 3u) / 4u;
    let value_columns = (work.value % 4u + p.value_dim + 3u) / 4u;
    let step = p.cache_stride / 4u;

    var largest = mat2x4<f32>(vec4<f32>(LOWEST), vec4<f32>(LOWEST));
    // Of the thread's own positions.
    var totals = mat2x4<f32>();
    var first = work.begin;
    loop {
        let count = min(BLOCK, end - first);
        var at: array<u32, KEYS>;
        var scores: array<mat2x4<f32>, KEYS>;
        for (var k = 0u; k < KEYS; k++) {
            at[k] = work.key / 4u + min(first + k * WORKGROUP + lane.index, max(end, 1u) - 1u) * step;
            scores[k] = mat2x4<f32>();
        }
        for (var c = 0u; c < columns; c += COLUMNS) {
            let n = min(COLUMNS, columns - c);
            if (first == work.begin || columns > COLUMNS) {
                workgroupBarrier(); // all have read the part before
                for (var i = lane.index; i < 8u * n; i += WORKGROUP) {
                    let number = 4u * (c + i / 8u) - shift;
                    shared_vec4s[i] = vec4<f32>(
                        query(work, i % 8u, number),
                        query(work, i % 8u, number + 1u),
                        query(work, i % 8u, number + 2u),
                        query(work, i % 8u, number + 3u),
                    );
                }
                workgroupBarrier();
            }
            for (var i = 0u; i < n; i++) {
                let queries = eight(8u * i, lane);
                for (var k = 0u; k < KEYS; k++) {
                    let key = cache[at[k] + c + i];
                    scores[k] += mat2x4<f32>(key * queries.low, key * queries.high);
                }
            }
        }

        var own = largest;
        for (var k = 0u; k < KEYS; k++) {
            let j = vec4<u32>(first + k * WORKGROUP + lane.index);
            for (var half = 0u; half < 2u; half++) {
                scores[k][half] = select(vec4<f32>(LOWEST), scores[k][half], j < ends[half]);
                own[half] = max(own[half], scores[k][half]);
            }
        }
        let larger = reduce_max8(own, lane);
        let shrink = mat2x4<f32>(exp(largest[0] - larger[0]), exp(largest[1] - larger[1]));
        largest = larger;
        for (var half = 0u; half < 2u; half++) {
            totals[half] *= shrink[half];
            for (var k = 0u; k < KEYS; k++) {
                let j = vec4<u32>(first + k * WORKGROUP + lane.index);
                let weight = select(vec4<f32>(), exp(scores[k][half] - larger[half]), j < ends[half]);
                totals[half] += weight;
                shared_vec4s[WEIGHTS + 2u * (k * WORKGROUP + lane.index) + half] = weight;
            }
        }
        workgroupBarrier();

        let last = first + BLOCK >= end;
        var share = mat2x4<f32>(vec4<f32>(1.0), vec4<f32>(1.0));
        var level = mat2x4<f32>();
        if (last) {
            let all_totals = reduce_sum8(totals, lane);
            for (var half = 0u; half < 2u; half++) {
                // Of no positions all is 0, and counts for nothing.
                let none = all_totals[half] == vec4<f32>();
                share[half] = select(1.0 / all_totals[half], vec4<f32>(), none);
                level[half] = select(largest[half] + log(all_totals[half]), vec4<f32>(LOWEST), none);
            }
        }
        let place = Place(first == work.begin, last, group.z);
        for (var i = 0u; i < value_columns; i += WORKGROUP) {
            // Every thread stays with the others: they share what they read.
            let column = i + lane.index;
            let value = work.value / 4u + first * step + min(column, value_columns - 1u);
            var low = mat4x4<f32>();
            var high = mat4x4<f32>();
            for (var n = 0u; n < count; n += 4u) {
                let weights = eight(WEIGHTS + 2u * n, lane);
                let v0 = cache[value + n * step];
                low += outer(v0, weights.low[0]);
                high += outer(v0, weights.low[1]);
                let v1 = cache[value + min(n + 1u, count - 1u) * step];
                low += outer(v1, weights.low[2]);
                high += outer(v1, weights.low[3]);
                let v2 = cache[value + min(n + 2u, count - 1u) * step];
                low += outer(v2, weights.high[0]);
                high += outer(v2, weights.high[1]);
                let v3 = cache[value + min(n + 3u, count - 1u) * step];
                low += outer(v3, weights.high[2]);
                high += outer(v3, weights.high[3]);
            }
            if (column < value_columns) {
                put4(work, place, 0u, column, low, shrink[0], share[0], level[0]);
                put4(work, place, 4u, column, high, shrink[1], share[1], level[1]);
            }
        }
        first += BLOCK;
        if (last) {
            break;
        }
    }
}
