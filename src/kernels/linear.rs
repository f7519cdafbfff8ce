//! Linear layer: y\[r, b, o\] (+)= Σ_i w\[b, o, i\] · x\[r, b, i\]        w: (batch, outs, ins)
//!
//! With a batch of 1 this is y = x · wᵀ. A batch of H is one small matrix a head, as latent attention needs: head b reads columns
//! `b · step` of x and writes columns `b · step` of y. Few rows go to `matvec`, many to `matmul`: two kernels of
//! one formula, with the same parameters and the same twin.

use crate::backend::Pass;
use crate::error::{Error, Result};
use crate::kernels::matmul::MATMUL;
use crate::kernels::matvec::MATVEC;
use crate::kernels::product::{Rows, Weights, product};
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::precision::Precision;
use crate::tensor::{Matrix, Part, Tensor, stride};

params! {
    /// Parameters. `ins`, `w_stride` and the places in x count `vec4`s, `w_step` and `w_start` rows, the places in y words.
    Params {
        rows: u32, ins: u32, outs: u32, batch: u32,
        w_stride: u32, w_step: u32, w_start: u32,
        x_stride: u32, x_step: u32, x_start: u32,
        y_stride: u32, y_step: u32, y_start: u32,
        add: u32,
    }
}

/// Rows up to which the matrix–vector kernel is used.
pub const FEW_ROWS: usize = 4;

pub(super) fn twin(p: &Params, precision: Precision, [data, scales, x]: [&[f32]; 3], [y]: [&mut [f32]; 1]) {
    let (rows, ins, outs) = (p.rows as usize, 4 * p.ins as usize, p.outs as usize);
    for b in 0..p.batch as usize {
        let x_rows = Rows { start: 4 * (p.x_start as usize + b * p.x_step as usize), stride: 4 * p.x_stride as usize };
        let first = p.w_start as usize + b * p.w_step as usize;
        let w = Weights { precision, data, scales, stride: 4 * p.w_stride as usize, first };
        let y_rows = Rows { start: p.y_start as usize + b * p.y_step as usize, stride: p.y_stride as usize };
        product((rows, ins, outs), (x, x_rows), w, (y, y_rows), p.add != 0);
    }
}

/// Columns of a tensor that a linear layer reads or writes: batch b uses those from `b · step` on.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// The tensor, `(rows, …)`.
    pub tensor: &'a Tensor,
    /// Columns from one batch to the next.
    pub step: usize,
}

impl<'a> From<&'a Tensor> for Columns<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self { tensor, step: 0 }
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

/// Matrices in a [`Matrix`], `outs` rows each: matrix b starts at row `start + b · step`.
#[derive(Clone, Copy, Debug)]
pub struct PerHead<'a> {
    /// The rows of all.
    pub w: &'a Matrix,
    /// Matrices.
    pub batch: usize,
    /// Row of the first.
    pub start: usize,
    /// Rows from one matrix to the next; parts of `w` hold whole steps.
    pub step: usize,
    /// Rows of each.
    pub outs: usize,
}

impl<'a> From<&'a Matrix> for PerHead<'a> {
    /// All rows as one matrix.
    fn from(w: &'a Matrix) -> Self {
        Self { w, batch: 1, start: 0, step: w.rows, outs: w.rows }
    }
}

/// A part of [`PerHead`].
pub(super) struct PerHeadPart<'a> {
    pub part: &'a Part,
    /// Matrices of the part, and the first.
    pub batch: usize,
    pub first: usize,
    /// Rows of a matrix that lie in this part, and the first of them.
    pub outs: usize,
    pub first_out: usize,
}

impl<'a> PerHead<'a> {
    /// What each part holds: a range of rows of the one matrix, or a range of whole matrices.
    pub(super) fn parts(self) -> impl Iterator<Item = PerHeadPart<'a>> {
        self.w.parts().map(move |(first, part)| match self.is_one() {
            true => PerHeadPart { part, batch: 1, first: 0, outs: part.data.rows, first_out: first },
            false => PerHeadPart { part, batch: part.data.rows / self.step, first: first / self.step, outs: self.outs, first_out: 0 },
        })
    }

    /// Whether all rows are one matrix.
    fn is_one(&self) -> bool {
        self.batch == 1 && self.outs == self.w.rows
    }

    /// An error unless parts hold whole matrices and all of them lie in w.
    pub(super) fn check(&self, name: &str) -> Result<()> {
        let PerHead { w, batch, start, step, outs } = *self;
        if self.is_one() {
            return Ok(());
        }
        expect(name, "rows of w", batch * step, w.rows)?;
        expect(name, "rows of w past the last whole matrix of a part", 0, w.part_rows % step)?;
        expect_room(name, "rows of a matrix", start + outs, step)
    }
}

/// Records the layer for `rows` rows. A weight in several parts takes one dispatch a part.
pub fn linear<'a>(pass: &mut Pass, w: impl std::convert::Into<PerHead<'a>>, x: Columns, y: Columns, rows: usize, into: Into) -> Result<()> {
    let (name, w) = ("linear", w.into());
    w.check(name)?;
    let ins = stride(w.w.cols);
    if !x.step.is_multiple_of(4) {
        return Err(Error::Usage { reason: format!("kernel {name}: columns b · {} of x are not aligned to 4", x.step) });
    }
    expect_room(name, "columns of x", (w.batch - 1) * x.step + ins, x.tensor.stride)?;
    expect_room(name, "columns of y", (w.batch - 1) * y.step + w.outs, y.tensor.cols)?;
    expect_room(name, "rows of x and y", rows, x.tensor.rows.min(y.tensor.rows))?;
    for PerHeadPart { part, batch, first, outs, first_out } in w.parts() {
        let params = Params {
            rows: rows as u32,
            ins: (ins / 4) as u32,
            outs: outs as u32,
            batch: batch as u32,
            w_stride: (w.w.stride() / 4) as u32,
            w_step: w.step as u32,
            w_start: w.start as u32,
            x_stride: (x.tensor.stride / 4) as u32,
            x_step: (x.step / 4) as u32,
            x_start: (first * x.step / 4) as u32,
            y_stride: y.tensor.stride as u32,
            y_step: y.step as u32,
            y_start: (first * y.step + first_out) as u32,
            add: u32::from(into == Into::Add),
        };
        // A vocabulary of hundreds of thousands has more outputs than `matvec` has workgroups.
        let few = rows <= FEW_ROWS && pass.fits((MATVEC.grid)(&params, &pass.tier()));
        let kernel = if few { &MATVEC } else { &MATMUL };
        pass.touch(w.w.bytes(batch * outs));
        pass.work(4 * rows * batch * (ins + outs), 2 * rows * batch * ins * outs);
        pass.dispatch(kernel, params, [&part.data, &part.scales, x.tensor], [y.tensor])?;
    }
    Ok(())
}
