//! Linear layer: y\[r, b, o\] (+)= Σ_i w\[b, o, i\] · x\[r, b, i\]        w: (batch · outs, ins)
//!
//! With a batch of 1 this is y = x · wᵀ. A batch of H is one small matrix a head, as latent attention needs: head b reads columns
//! `start + b · step` of x and writes columns `start + b · step` of y. Few rows go to `matvec`, many to `matmul`: two kernels of
//! one formula, with the same parameters and the same twin.

use crate::backend::Pass;
use crate::error::{Error, Result};
use crate::kernels::matmul::MATMUL;
use crate::kernels::matvec::MATVEC;
use crate::kernels::product::{Rows, product};
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::tensor::{Segmented, Tensor, stride};

params! {
    /// Parameters. `ins` and the places in x count `vec4`s, those in y count words.
    Params {
        rows: u32, ins: u32, outs: u32, batch: u32,
        x_stride: u32, x_step: u32, x_start: u32,
        y_stride: u32, y_step: u32, y_start: u32,
        add: u32,
    }
}

/// Rows up to which the matrix–vector kernel is used.
pub const FEW_ROWS: usize = 4;

pub(super) fn twin(p: &Params, [w, x]: [&[f32]; 2], [y]: [&mut [f32]; 1]) {
    let (rows, ins, outs) = (p.rows as usize, 4 * p.ins as usize, p.outs as usize);
    for b in 0..p.batch as usize {
        let x_rows = Rows { start: 4 * (p.x_start as usize + b * p.x_step as usize), stride: 4 * p.x_stride as usize };
        let w_rows = Rows { start: b * outs * ins, stride: ins };
        let y_rows = Rows { start: p.y_start as usize + b * p.y_step as usize, stride: p.y_stride as usize };
        product((rows, ins, outs), (x, x_rows), (w, w_rows), (y, y_rows), p.add != 0);
    }
}

/// Columns of a tensor that a linear layer reads or writes: batch b uses those from `start + b · step` on.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// The tensor, `(rows, …)`.
    pub tensor: &'a Tensor,
    /// Column of batch 0.
    pub start: usize,
    /// Columns from one batch to the next.
    pub step: usize,
}

impl<'a> From<&'a Tensor> for Columns<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self { tensor, start: 0, step: 0 }
    }
}

/// What happens to what y held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// It is replaced.
    Set,
    /// The product is added to it.
    Add,
}

/// Records the layer for `rows` rows. A weight in several parts takes one dispatch a part; parts hold whole matrices of a batch.
pub fn linear(pass: &mut Pass, w: &Segmented, batch: usize, x: Columns, y: Columns, rows: usize, into: Into) -> Result<()> {
    let name = "linear";
    let outs = w.rows / batch.max(1);
    expect(name, "rows of w", outs * batch, w.rows)?;
    let ins = stride(w.cols);
    if !x.start.is_multiple_of(4) || !x.step.is_multiple_of(4) {
        return Err(Error::Usage { reason: format!("kernel {name}: columns {} + b · {} of x are not aligned to 4", x.start, x.step) });
    }
    expect_room(name, "columns of x", x.start + (batch - 1) * x.step + ins, x.tensor.stride)?;
    expect_room(name, "columns of y", y.start + (batch - 1) * y.step + outs, y.tensor.cols)?;
    expect_room(name, "rows of x and y", rows, x.tensor.rows.min(y.tensor.rows))?;
    for (first, part) in w.parts() {
        // A part is a range of outputs of the one matrix, or a range of whole matrices.
        let (batch, outs, y_start, x_start) = match batch {
            1 => (1, part.rows, y.start + first, x.start),
            _ => (part.rows / outs, outs, y.start + first / outs * y.step, x.start + first / outs * x.step),
        };
        let params = Params {
            rows: rows as u32,
            ins: (ins / 4) as u32,
            outs: outs as u32,
            batch: batch as u32,
            x_stride: (x.tensor.stride / 4) as u32,
            x_step: (x.step / 4) as u32,
            x_start: (x_start / 4) as u32,
            y_stride: y.tensor.stride as u32,
            y_step: y.step as u32,
            y_start: y_start as u32,
            add: u32::from(into == Into::Add),
        };
        // A vocabulary of hundreds of thousands has more outputs than `matvec` has workgroups.
        let few = rows <= FEW_ROWS && pass.fits((MATVEC.grid)(&params, &pass.tier()));
        let kernel = if few { &MATVEC } else { &MATMUL };
        pass.touch(part.rows * part.stride);
        pass.dispatch(kernel, params, [part, x.tensor], [y.tensor])?;
    }
    Ok(())
}
