// x = RMSNorm(u) · gain; logits = router · x; chosen = top-K of logits + bias, descending, ties to the lowest index; gates = softmax
// of the chosen logits without the bias. A workgroup a row.
struct Params {
    rows: u32,
    ins: u32,
    experts: u32,
    k: u32,
    x_stride: u32,
    k_stride: u32,
    dim: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> u: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> gain: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> ids: array<u32>;
@group(0) @binding(7) var<storage, read_write> gates: array<f32>;

const MAX_EXPERTS: u32 = 1024u;

var<workgroup> logits: array<f32, MAX_EXPERTS>;
var<workgroup> biased: array<f32, MAX_EXPERTS>;
var<workgroup> chosen: array<f32, MAX_EXPERTS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, lane: Lane) {
    if (closed()) {
        return;
    }
    let thread = lane.index;
    let row = group.x * p.x_stride;
    var squares = 0.0;
    for (var i = thread; i < p.ins; i += WORKGROUP) {
        squares += dot(u[row + i], u[row + i]);
    }
    let mean = reduce_sum(squares, lane) / f32(p.dim);
    let scale = inverseSqrt(mean + p.eps);
    let overflow = max(mean - 3.0e38, 0.0); // see rmsnorm.wgsl
    for (var i = thread; i < p.ins; i += WORKGROUP) {
        // The padding stays 0.
        let past = vec4<u32>(0u, 1u, 2u, 3u) + 4u * i >= vec4<u32>(p.dim);
        x[row + i] = u[row + i] * scale * gain[i] + select(vec4<f32>(overflow), vec4<f32>(), past);
    }
    storageBarrier();
    // A team of LANES threads takes an expert.
    for (var first = 0u; first < p.experts; first += WORKGROUP / LANES) {
        let e = first + thread / LANES;
        var part = 0.0;
        if (e < p.experts) {
            for (var i = thread % LANES; i < p.ins; i += LANES) {
                part += dot(w[e * p.ins + i], x[row + i]);
            }
        }
        let sum = team_sum(part, thread);
        if (e < p.experts && thread % LANES == 0u) {
            logits[e] = sum;
            biased[e] = sum + bias[e];
        }
    }
    workgroupBarrier();
    // The rank of an expert is the number of those that go before it.
    for (var e = thread; e < p.experts; e += WORKGROUP) {
        var rank = 0u;
        for (var other = 0u; other < p.experts; other++) {
            let before = biased[other] > biased[e] || (biased[other] == biased[e] && other < e);
            rank += select(0u, 1u, before);
        }
        if (rank < p.k) {
            ids[group.x * p.k_stride + rank] = e;
            chosen[rank] = logits[e];
        }
    }
    workgroupBarrier();
    for (var k = thread; k < p.k; k += WORKGROUP) {
        var largest = chosen[0];
        for (var i = 1u; i < p.k; i++) {
            largest = max(largest, chosen[i]);
        }
        var total = 0.0;
        for (var i = 0u; i < p.k; i++) {
            total += exp(chosen[i] - largest);
        }
        gates[group.x * p.k_stride + k] = exp(chosen[k] - largest) / total;
    }
}
