//! SwiGLU (Shazeer 2020), the middle of it: y = silu(gate) ⊙ up, silu(z) = z / (1 + e^−z)
//!
//! x: (rows, \[gate | up\]) of 2 · dim columns, y: (rows, dim).

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s};
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, dim: u32, x_stride: u32, y_stride: u32 }
}

/// The kernel.
pub const SWIGLU: Kernel<Params, 1, 1> = Kernel {
    name: "swiglu",
    body: include_str!("../../shaders/swiglu.wgsl"),
    links: &[Link::Gate],
    reads: [f32s("x")],
    writes: [f32s("y")],
    grid: |p, tier| [p.rows as usize, (p.dim as usize).div_ceil(tier.workgroup as usize), 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [x]: [&[f32]; 1], [y]: [&mut [f32]; 1]) {
    let dim = p.dim as usize;
    for row in 0..p.rows as usize {
        swiglu_row(&x[row * p.x_stride as usize..][..2 * dim], &mut y[row * p.y_stride as usize..][..dim]);
    }
}

/// One row.
pub(super) fn swiglu_row(x: &[f32], y: &mut [f32]) {
    let (gate, up) = x.split_at(y.len());
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate / (1.0 + (-gate).exp()) * up;
    }
}

/// Records y = silu(gate) ⊙ up for `rows` rows.
pub fn swiglu(pass: &mut Pass, x: &Tensor, y: &Tensor, rows: usize) -> Result<()> {
    expect("swiglu", "columns of x", 2 * y.cols, x.cols)?;
    expect_room("swiglu", "rows of x and y", rows, x.rows.min(y.rows))?;
    let params = Params { rows: rows as u32, dim: y.cols as u32, x_stride: x.stride as u32, y_stride: y.stride as u32 };
    pass.dispatch(&SWIGLU, params, [x], [y])
}
