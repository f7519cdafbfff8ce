// w[i] = (hash(i) & mask) | base: words that look random, with some bits held.
struct Params {
    words: u32,
    stride: u32,
    seed: u32,
    mask: u32,
    base: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> w: array<u32>;

// Two rounds of multiplying and folding, which leave no pattern that a matrix product would notice.
fn hash(i: u32) -> u32 {
    var x = (i + p.seed) * 0x9e3779b1u;
    x = (x ^ (x >> 15u)) * 0x85ebca6bu;
    x = (x ^ (x >> 13u)) * 0xc2b2ae35u;
    return x ^ (x >> 16u);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    for (var i = group.x * WORKGROUP + thread; i < p.words; i += p.stride) {
        w[i] = (hash(i) & p.mask) | p.base;
    }
}
