//! Product with the transpose: y\[r, b, j\] = Σ_i w\[b, i, j\] · x\[r, b, i\]        w: (batch, ins, outs)
//!
//! Latent attention reads W_uk so: as it lies in kv_up, whose rows run along the latent. Blocks of a quantised matrix cannot be turned.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s, weights};
use crate::kernels::expect_room;
use crate::kernels::linear::{Columns, PerHead};
use crate::kernels::product::{Rows, Weights, transposed_product};
use crate::params;
use crate::precision::Precision;

params! {
    /// Parameters. `w_stride` counts `vec4`s, `w_step` and `w_start` rows, all else words.
    Params {
        rows: u32, ins: u32, outs: u32, batch: u32,
        w_stride: u32, w_step: u32, w_start: u32,
        x_stride: u32, x_step: u32, x_start: u32,
        y_stride: u32, y_step: u32, y_start: u32,
    }
}

/// The kernel.
pub const TRANSPOSED: Kernel<Params, 3, 1> = Kernel {
    name: "transposed",
    body: include_str!("../../shaders/transposed.wgsl"),
    links: &[Link::Gate, Link::Weight],
    reads: [weights("w"), u32s("scales"), f32s("x")],
    writes: [f32s("y")],
    grid: |p, tier| [(p.outs as usize).div_ceil(4 * tier.workgroup as usize), p.rows as usize, p.batch as usize],
    twin: Twin::Weights(twin),
};

fn twin(p: &Params, precision: Precision, [data, scales, x]: [&[f32]; 3], [y]: [&mut [f32]; 1]) {
    for b in 0..p.batch as usize {
        let first = p.w_start as usize + b * p.w_step as usize;
        let w = Weights { precision, data, scales, stride: 4 * p.w_stride as usize, first };
        let x_rows = Rows { start: p.x_start as usize + b * p.x_step as usize, stride: p.x_stride as usize };
        let y_rows = Rows { start: p.y_start as usize + b * p.y_step as usize, stride: p.y_stride as usize };
        transposed_product((p.rows as usize, p.ins as usize, p.outs as usize), (x, x_rows), w, (y, y_rows));
    }
}

/// Records the product for `rows` rows, with the `outs` rows of each matrix of `w` as inputs. A weight in several parts takes one dispatch
/// a part, which holds whole matrices.
pub fn transposed(pass: &mut Pass, w: PerHead, x: Columns, y: Columns, rows: usize) -> Result<()> {
    let name = "transposed";
    w.check(name)?;
    expect_room(name, "columns of x", (w.batch - 1) * x.step + w.outs, x.tensor.cols)?;
    expect_room(name, "columns of y", (w.batch - 1) * y.step + w.w.cols, y.tensor.cols)?;
    expect_room(name, "rows of x and y", rows, x.tensor.rows.min(y.tensor.rows))?;
    for part in w.parts() {
        let params = Params {
            rows: rows as u32,
            ins: part.outs as u32,
            outs: w.w.cols as u32,
            batch: part.batch as u32,
            w_stride: (w.w.stride() / 4) as u32,
            w_step: w.step as u32,
            w_start: w.start as u32,
            x_stride: x.tensor.stride as u32,
            x_step: x.step as u32,
            x_start: (part.first * x.step) as u32,
            y_stride: y.tensor.stride as u32,
            y_step: y.step as u32,
            y_start: (part.first * y.step) as u32,
        };
        pass.touch(w.w.bytes(part.batch * part.outs));
        pass.work(4 * rows * part.batch * (part.outs + w.w.cols), 2 * rows * part.batch * part.outs * w.w.cols);
        pass.dispatch(&TRANSPOSED, params, [&part.part.data, &part.part.scales, x.tensor], [y.tensor])?;
    }
    Ok(())
}
