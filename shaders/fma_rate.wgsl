// y[t] = the sum of 12 numbers, each of which went 8 · rounds times through a = a · factor + addend.
struct Params {
    rounds: u32,
    threads: u32,
    fused: u32,
    factor: f32,
    addend: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let index = group.x * WORKGROUP + thread;
    if index >= p.threads {
        return;
    }
    // Twelve chains, none of which waits for another: as many as fit the registers of any device. Each thread has numbers of its own, so
    // that no compiler computes them once for all.
    let start = f32(index % 256u) / 256.0;
    var a = vec4<f32>(0.0, 1.0, 2.0, 3.0) + start;
    var b = vec4<f32>(4.0, 5.0, 6.0, 7.0) + start;
    var c = vec4<f32>(8.0, 9.0, 10.0, 11.0) + start;
    let m = vec4<f32>(p.factor);
    let n = vec4<f32>(p.addend);
    // Eight steps a round: the loop itself is not to be measured.
    if p.fused == 1u {
        for (var round = 0u; round < p.rounds; round++) {
            a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n);
            a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n);
            a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n);
            a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n);
            a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n);
            a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n);
            a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n);
            a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n);
        }
    } else {
        for (var round = 0u; round < p.rounds; round++) {
            a = a * m + n; b = b * m + n; c = c * m + n;
            a = a * m + n; b = b * m + n; c = c * m + n;
            a = a * m + n; b = b * m + n; c = c * m + n;
            a = a * m + n; b = b * m + n; c = c * m + n;
            a = a * m + n; b = b * m + n; c = c * m + n;
            a = a * m + n; b = b * m + n; c = c * m + n;
            a = a * m + n; b = b * m + n; c = c * m + n;
            a = a * m + n; b = b * m + n; c = c * m + n;
        }
    }
    let sum = a + b + c;
    y[index] = (sum.x + sum.y) + (sum.z + sum.w);
}
