// y[r, h] = Σ_s share_s · x[r, h, s]: the spans of attention put together. A span is [value_dim columns | log Σ e^score]; its share
// is e^score summed over its positions against all. A workgroup a (row, head).
struct Params {
    rows: u32,
    heads: u32,
    spans: u32,
    value_dim: u32,
    x_stride: u32,
    x_head: u32,
    x_span: u32,
    y_stride: u32,
    y_head: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    if (closed()) {
        return;
    }
    let start = group.x * p.x_stride + group.y * p.x_head;
    let to = group.x * p.y_stride + group.y * p.y_head;
    // The first span is never empty.
    var largest = x[start + p.value_dim];
    for (var s = 1u; s < p.spans; s++) {
        largest = max(largest, x[start + s * p.x_span + p.value_dim]);
    }
    for (var i = thread; i < p.value_dim; i += WORKGROUP) {
        var sum = 0.0;
        var total = 0.0;
        for (var s = 0u; s < p.spans; s++) {
            let span = start + s * p.x_span;
            let share = exp(x[span + p.value_dim] - largest);
            sum += share * x[span + i];
            total += share;
        }
        y[to + i] = sum / total;
    }
}
