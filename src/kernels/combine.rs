//! The experts' outputs, weighed: x\[r\] += Σ_k gates\[r, k\] · y\[r · K + k\]        x: (rows, dim), y: (rows · K, dim), gates: (rows, K)

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s};
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, k: u32, dim: u32, k_stride: u32, stride: u32 }
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
    let (dim, stride, k) = (p.dim as usize, p.stride as usize, p.k as usize);
    for row in 0..p.rows as usize {
        let gates = &gates[row * p.k_stride as usize..][..k];
        let x = &mut x[row * stride..][..dim];
        for (slot, gate) in gates.iter().enumerate() {
            x.iter_mut().zip(&y[(row * k + slot) * stride..]).for_each(|(x, y)| *x += gate * y);
        }
    }
}

/// Records the sum for `rows` rows.
pub fn combine(pass: &mut Pass, y: &Tensor, gates: &Tensor, x: &Tensor, rows: usize) -> Result<()> {
    expect("combine", "columns of y", x.cols, y.cols)?;
    expect_room("combine", "rows of y", rows * gates.cols, y.rows)?;
    expect_room("combine", "rows of x and gates", rows, x.rows.min(gates.rows))?;
    let params =
        Params { rows: rows as u32, k: gates.cols as u32, dim: x.cols as u32, k_stride: gates.stride as u32, stride: x.stride as u32 };
    pass.dispatch(&COMBINE, params, [y, gates], [x])
}
