//! First half of the experts of few rows: y\[r, s\] = silu(G x\[r\]) ⊙ (U x\[r\]), four results a team of threads. See
//! [`experts`](super::experts).

use crate::kernel::{Kernel, Link, Twin, f32s, u32s, weights};
use crate::kernels::experts::{Params, up};

/// The kernel.
pub const EXPERTS_UP: Kernel<Params, 4, 1> = Kernel {
    name: "experts_up",
    body: include_str!("../../shaders/experts_up.wgsl"),
    links: &[Link::Gate, Link::Weight, Link::Reduce, Link::Dots, Link::Slot],
    reads: [weights("w"), u32s("scales"), f32s("x"), u32s("ids")],
    writes: [f32s("y")],
    grid: |p, tier| [(2 * p.outs as usize).div_ceil(tier.outs()), p.rows as usize, p.slots as usize],
    twin: Twin::Weights(up),
};
