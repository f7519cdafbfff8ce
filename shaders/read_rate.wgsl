// y[t] = the sum of the 16 · rounds numbers that thread t reads, four vec4s a round; the steps say which.
struct Params {
    rounds: u32,
    groups: u32,
    group: u32,
    group_step: u32,
    thread_step: u32,
    round_step: u32,
    inner_step: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    var at = group.x * p.group_step + thread * p.thread_step;
    var a = vec4<f32>();
    var b = vec4<f32>();
    var c = vec4<f32>();
    var d = vec4<f32>();
    for (var round = 0u; round < p.rounds; round++) {
        a += x[at];
        b += x[at + p.inner_step];
        c += x[at + 2u * p.inner_step];
        d += x[at + 3u * p.inner_step];
        at += p.round_step;
    }
    let sum = (a + b) + (c + d);
    y[group.x * WORKGROUP + thread] = (sum.x + sum.y) + (sum.z + sum.w);
}
