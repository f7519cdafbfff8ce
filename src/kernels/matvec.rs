//! Linear layer for few rows: y\[r, b, o\] (+)= Σ_i w\[b, o, i\] · x\[r, b, i\], eight outputs a team of
//! threads. See [`linear`](super::linear).

use crate::kernel::{Kernel, Link, Twin, f32s, u32s, weights};
use crate::kernels::linear::{Params, twin};

/// The kernel.
pub const MATVEC: Kernel<Params, 3, 1> = Kernel {
    name: "matvec",
    body: include_str!("../../shaders/matvec.wgsl"),
    links: &[Link::Gate, Link::Weight, Link::Reduce, Link::Dots],
    reads: [weights("w"), u32s("scales"), f32s("x")],
    writes: [f32s("y")],
    grid: |p, tier| [p.rows as usize, (p.outs as usize).div_ceil(tier.outs()), p.batch as usize],
    twin: Twin::Weights(twin),
};
