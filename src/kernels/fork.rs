//! Copy of a sequence's cache: cache\[slot, to, position\] = cache\[slot, from, position\] for position < positions, every slot

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Twin, f32s};
use crate::kernels::{CacheTensor, expect_room};
use crate::params;

params! {
    /// Parameters of one part of the cache.
    Params { from_sequence: u32, to_sequence: u32, positions: u32, slots: u32, sequences: u32, context: u32, stride: u32 }
}

/// The kernel.
pub const FORK: Kernel<Params, 0, 1> = Kernel {
    name: "fork",
    body: include_str!("../../shaders/fork.wgsl"),
    links: &[],
    reads: [],
    writes: [f32s("cache")],
    grid: |p, _| [p.positions as usize, p.slots as usize, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, []: [&[f32]; 0], [cache]: [&mut [f32]; 1]) {
    let (context, stride) = (p.context as usize, p.stride as usize);
    for slot in 0..p.slots as usize {
        let start = |sequence: u32| (slot * p.sequences as usize + sequence as usize) * context * stride;
        let from = start(p.from_sequence);
        cache.copy_within(from..from + p.positions as usize * stride, start(p.to_sequence));
    }
}

/// Records the copy of the first `positions` positions of sequence `from` to sequence `to`.
pub fn fork(pass: &mut Pass, cache: &CacheTensor, from: usize, to: usize, positions: usize) -> Result<()> {
    expect_room("fork", "sequences", from.max(to) + 1, cache.sequences)?;
    expect_room("fork", "positions", positions, cache.context)?;
    for (_, part) in cache.rows.parts() {
        let params = Params {
            from_sequence: from as u32,
            to_sequence: to as u32,
            positions: positions as u32,
            slots: (part.rows / (cache.sequences * cache.context)) as u32,
            sequences: cache.sequences as u32,
            context: cache.context as u32,
            stride: part.stride as u32,
        };
        pass.dispatch(&FORK, params, [], [part])?;
    }
    Ok(())
}
