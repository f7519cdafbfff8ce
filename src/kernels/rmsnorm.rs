//! RMSNorm (Zhang & Sennrich 2019): y = gain · x / sqrt(mean(x²) + ε)        x, y: (rows, dim), gain: (dim)

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s};
use crate::kernels::product::dot;
use crate::kernels::{EPS, expect_room};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, dim: u32, x_stride: u32, y_stride: u32, eps: f32 }
}

/// The kernel.
pub const RMSNORM: Kernel<Params, 2, 1> = Kernel {
    name: "rmsnorm",
    body: include_str!("../../shaders/rmsnorm.wgsl"),
    links: &[Link::Gate, Link::Reduce],
    reads: [f32s("x"), f32s("gain")],
    writes: [f32s("y")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [x, gain]: [&[f32]; 2], [y]: [&mut [f32]; 1]) {
    let dim = p.dim as usize;
    for row in 0..p.rows as usize {
        let x = &x[row * p.x_stride as usize..][..dim];
        normalise(x, gain, p.eps, &mut y[row * p.y_stride as usize..][..dim]);
    }
}

/// y = gain · x / sqrt(mean(x²) + ε) of one row. Squares that overflow must not pass as a row of zeros: the row comes out
/// infinite, and the logits show it.
pub(super) fn normalise(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
    let mean = dot(x, x) / x.len() as f32;
    let (scale, overflow) = (1.0 / (mean + eps).sqrt(), (mean - 3.0e38).max(0.0));
    for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
        *y = x * scale * gain + overflow;
    }
}

/// Records y = RMSNorm(x) over the first `gain.cols` columns of the first `rows` rows of x.
pub fn rmsnorm(pass: &mut Pass, x: &Tensor, gain: &Tensor, y: &Tensor, rows: usize) -> Result<()> {
    expect_room("rmsnorm", "columns of x", gain.cols, x.cols)?;
    expect_room("rmsnorm", "columns of y", gain.cols, y.cols)?;
    expect_room("rmsnorm", "rows of x and y", rows, x.rows.min(y.rows))?;
    let params = Params { rows: rows as u32, dim: gain.cols as u32, x_stride: x.stride as u32, y_stride: y.stride as u32, eps: EPS };
    pass.dispatch(&RMSNORM, params, [x, gain], [y])
}
