//! Linear layer for many rows: y\[r, b, o\] (+)= Σ_i w\[b, o, i\] · x\[r, b, i\], an area of results a workgroup. See [`linear`](super::linear).

use crate::kernel::{Kernel, Link, Twin, f32s, u32s, weights};
use crate::kernels::linear::{Params, twin};

/// The kernel.
pub const MATMUL: Kernel<Params, 3, 1> = Kernel {
    name: "matmul",
    body: include_str!("../../shaders/matmul.wgsl"),
    links: &[Link::Gate, Link::Weight, Link::Reduce, Link::Area],
    reads: [weights("w"), u32s("scales"), f32s("x")],
    writes: [f32s("y")],
    grid: |p, tier| {
        let [outs, rows] = tier.area();
        [(p.rows as usize).div_ceil(rows), (p.outs as usize).div_ceil(outs), p.batch as usize]
    },
    twin: Twin::Weights(twin),
};
