//! Second half of the experts of few rows: y\[r\] += Σ_s gate\[r, s\] · W x\[r, s\], eight results a team of threads. See
//! [`experts`](super::experts).

use crate::kernel::{Kernel, Link, Twin, f32s, u32s, weights};
use crate::kernels::experts::{Params, down};

/// The kernel.
pub const EXPERTS_DOWN: Kernel<Params, 5, 1> = Kernel {
    name: "experts_down",
    body: include_str!("../../shaders/experts_down.wgsl"),
    links: &[Link::Gate, Link::Weight, Link::Reduce, Link::Dots, Link::Slot],
    reads: [weights("w"), u32s("scales"), f32s("x"), u32s("ids"), f32s("gates")],
    writes: [f32s("y")],
    grid: |p, tier| [(p.outs as usize).div_ceil(tier.outs()), p.rows as usize, 1],
    twin: Twin::Weights(down),
};
