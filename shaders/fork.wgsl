// Copies the first positions of one sequence's cache to another sequence, in every slot of a part; a workgroup a (position, slot).
struct Params {
    from_sequence: u32,
    to_sequence: u32,
    positions: u32,
    slots: u32,
    sequences: u32,
    context: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> cache: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let slot = group.y * p.sequences;
    let source = ((slot + p.from_sequence) * p.context + group.x) * p.stride;
    let target_row = ((slot + p.to_sequence) * p.context + group.x) * p.stride;
    for (var i = thread; i < p.stride; i += WORKGROUP) {
        cache[target_row + i] = cache[source + i];
    }
}
