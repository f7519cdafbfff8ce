//! Expert matrices for few rows: y\[r, k\] = W\[ids\[r, k\]\] · x\[r, k\]        W: (experts · outs, ins)
//!
//! The matrix of each slot is found through the router's choice, in one dispatch and without a read-back. Row (r, k) of y is row
//! r · K + k; x\[r, k\] is row r (all slots share it: gate and up) or row r · K + k (down).

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, f32s, u32s, words};
use crate::kernels::product::{Rows, product};
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::tensor::{Segmented, Tensor, stride};

params! {
    /// Parameters of one part of W, which holds experts `first..first + count`. `ins`, `x_stride` and `x_step` count `vec4`s.
    Params {
        rows: u32, k: u32, ins: u32, outs: u32, k_stride: u32,
        x_stride: u32, x_step: u32, y_stride: u32,
        first: u32, count: u32,
    }
}

/// The kernel.
pub const EXPERTS: Kernel<Params, 3, 1> = Kernel {
    name: "experts",
    body: include_str!("../../shaders/experts.wgsl"),
    links: &[Link::Gate, Link::TeamDot],
    reads: [f32s("w"), f32s("x"), u32s("ids")],
    writes: [f32s("y")],
    grid: |p, tier| [(p.outs as usize).div_ceil((tier.workgroup / tier.lanes) as usize), p.rows as usize, p.k as usize],
    twin,
};

fn twin(p: &Params, [w, x, ids]: [&[f32]; 3], [y]: [&mut [f32]; 1]) {
    let (ins, outs, k) = (4 * p.ins as usize, p.outs as usize, p.k as usize);
    for row in 0..p.rows as usize {
        for slot in 0..k {
            let expert = words(ids)[row * p.k_stride as usize + slot] as usize;
            let Some(at) = expert.checked_sub(p.first as usize).filter(|at| *at < p.count as usize) else { continue };
            let x_rows = Rows { start: 4 * (row * p.x_stride as usize + slot * p.x_step as usize), stride: 0 };
            let w_rows = Rows { start: at * outs * ins, stride: ins };
            let y_rows = Rows { start: (row * k + slot) * p.y_stride as usize, stride: 0 };
            product((1, ins, outs), (x, x_rows), (w, w_rows), (y, y_rows), false);
        }
    }
}

/// The shapes that both expert kernels share: (outs, ins, x_stride, x_step), the last two in words.
pub(super) fn shapes(
    name: &str,
    w: &Segmented,
    experts: usize,
    x: &Tensor,
    y: &Tensor,
    rows: usize,
    k: usize,
) -> Result<(usize, usize, usize, usize)> {
    expect(name, "rows of W", experts * y.cols, w.rows)?;
    expect(name, "columns of W", x.cols, w.cols)?;
    expect_room(name, "rows of y", rows * k, y.rows)?;
    // x has a row for every slot, or one that all slots share: its capacity says which, as y's does.
    let shared = x.rows * k == y.rows;
    if !shared {
        expect(name, "rows of x", y.rows, x.rows)?;
    }
    let (x_stride, x_step) = if shared { (x.stride, 0) } else { (k * x.stride, x.stride) };
    Ok((y.cols, stride(w.cols), x_stride, x_step))
}

/// Records the product for `rows` rows.
pub fn experts(pass: &mut Pass, w: &Segmented, experts: usize, x: &Tensor, ids: &Tensor, y: &Tensor, rows: usize) -> Result<()> {
    let (outs, ins, x_stride, x_step) = shapes("experts", w, experts, x, y, rows, ids.cols)?;
    expect_room("experts", "rows of ids", rows, ids.rows)?;
    pass.touch(rows.saturating_mul(ids.cols).min(experts) * outs * ins);
    for (first, part) in w.parts() {
        let params = Params {
            rows: rows as u32,
            k: ids.cols as u32,
            ins: (ins / 4) as u32,
            outs: outs as u32,
            k_stride: ids.stride as u32,
            x_stride: (x_stride / 4) as u32,
            x_step: (x_step / 4) as u32,
            y_stride: y.stride as u32,
            first: (first / outs) as u32,
            count: (part.rows / outs) as u32,
        };
        pass.dispatch(&EXPERTS, params, [part, x, ids], [y])?;
    }
    Ok(())
}
