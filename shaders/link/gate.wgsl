// A pass that nobody needs any more is left at once. The flag is uniform, so this may stand before barriers.
@group(1) @binding(0) var<uniform> gate: vec4<u32>;

fn closed() -> bool {
    return gate.x == 0u;
}
