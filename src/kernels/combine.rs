//! The experts' outputs, weighed: x\[r\] += Σ_s gate\[r, s\] · y\[r · slots + s\]        x: (rows, dim), y: (rows · slots, dim)
//!
//! gates: (rows, K); the slots after the K chosen ones belong to shared experts and count 1.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s};
use crate::kernels::experts::Slots;
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, k: u32, slots: u32, dim: u32, k_stride: u32, stride: u32 }
}

/// The kernel.
pub const COMBINE: Kernel<Params, 2, 1> = Kernel {
    name: "combine",
    body: include_str!("../../shaders/combine.wgsl"),
    links: &[Link::Gate],
    reads: [f32s("y"), f32s("gates")],
    writes: [f32s("x")],
    grid: |p, tier| [p.rows as usize, (p.dim as usize).div_ceil(tier.workgroup as usize), 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [y, gates]: [&[f32]; 2], [x]: [&mut [f32]; 1]) {
    let (dim, stride, k, slots) = (p.dim as usize, p.stride as usize, p.k as usize, p.slots as usize);
    for row in 0..p.rows as usize {
        let gates = &gates[row * p.k_stride as usize..][..k];
        let x = &mut x[row * stride..][..dim];
        for (slot, gate) in gates.iter().chain(std::iter::repeat(&1.0)).take(slots).enumerate() {
            x.iter_mut().zip(&y[(row * slots + slot) * stride..]).for_each(|(x, y)| *x += gate * y);
        }
    }
}

/// Records the sum for `rows` rows.
pub fn combine(pass: &mut Pass, slots: &Slots, y: &Tensor, x: &Tensor, rows: usize) -> Result<()> {
    let gates = &slots.gates;
    expect("combine", "columns of y", x.cols, y.cols)?;
    expect_room("combine", "rows of y", rows * slots.count(), y.rows)?;
    expect_room("combine", "rows of x and gates", rows, x.rows.min(gates.rows))?;
    let params = Params {
        rows: rows as u32,
        k: gates.cols as u32,
        slots: slots.count() as u32,
        dim: x.cols as u32,
        k_stride: gates.stride as u32,
        stride: x.stride as u32,
    };
    pass.dispatch(&COMBINE, params, [y, gates], [x])
}
