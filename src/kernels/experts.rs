//! Expert matrices for few rows: y\[r, k\] = W\[ids\[r, k\]\] · x\[r, k\]        W: (experts · outs, ins)
//!
//! The matrix of each slot is found through the router's choice, in one dispatch and without a read-back. Row (r, k) of y is row
//! r · K + k; x\[r, k\] is row r (all slots share it: gate and up) or row r · K + k (down).

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s, weights, words};
use crate::kernels::product::{Rows, Weights, product};
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::precision::Precision;
use crate::tensor::{Matrix, Tensor, stride};

params! {
    /// Parameters of one part of W, which holds experts `first..first + count`. `ins`, `w_stride`, `x_stride` and `x_step` count
    /// `vec4`s.
    Params {
        rows: u32, k: u32, ins: u32, outs: u32, w_stride: u32, k_stride: u32,
        x_stride: u32, x_step: u32, y_stride: u32,
        first: u32, count: u32,
    }
}

/// The kernel.
pub const EXPERTS: Kernel<Params, 4, 1> = Kernel {
    name: "experts",
    body: include_str!("../../shaders/experts.wgsl"),
    links: &[Link::Gate, Link::Weight, Link::TeamDot],
    reads: [weights("w"), u32s("scales"), f32s("x"), u32s("ids")],
    writes: [f32s("y")],
    grid: |p, tier| [(p.outs as usize).div_ceil((tier.workgroup / tier.lanes) as usize), p.rows as usize, p.k as usize],
    twin: Twin::Weights(twin),
};

fn twin(p: &Params, precision: Precision, [data, scales, x, ids]: [&[f32]; 4], [y]: [&mut [f32]; 1]) {
    let w = Weights { precision, data, scales, stride: 4 * p.w_stride as usize, first: 0 };
    let (ins, outs, k) = (4 * p.ins as usize, p.outs as usize, p.k as usize);
    let expert = |pair: u32| words(ids)[pair as usize / k * p.k_stride as usize + pair as usize % k];
    let from = |pair: usize| 4 * (pair / k * p.x_stride as usize + pair % k * p.x_step as usize);
    let mut pairs: Vec<u32> = (0..p.rows * p.k).filter(|pair| (p.first..p.first + p.count).contains(&expert(*pair))).collect();
    pairs.sort_by_key(|pair| expert(*pair));
    let mut work = Work::default();
    for pairs in pairs.chunk_by(|a, b| expert(*a) == expert(*b)) {
        let w = w.skip_rows((expert(pairs[0]) - p.first) as usize * outs);
        work.run(pairs, (ins, outs), (x, from), w, (y, p.y_stride as usize));
    }
}

/// Memory for the pairs of one expert, side by side.
#[derive(Default)]
pub(super) struct Work {
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Work {
    /// y\[pair\] = w · x\[pair\] for pairs of one expert, whose weights are so read once. `from` says where a pair's x starts.
    pub fn run(
        &mut self,
        pairs: &[u32],
        (ins, outs): (usize, usize),
        (x, from): (&[f32], impl Fn(usize) -> usize),
        w: Weights,
        (y, y_stride): (&mut [f32], usize),
    ) {
        self.x.clear();
        pairs.iter().for_each(|pair| self.x.extend_from_slice(&x[from(*pair as usize)..][..ins]));
        self.y.resize(pairs.len() * outs, 0.0);
        let rows = |stride| Rows { start: 0, stride };
        product((pairs.len(), ins, outs), (&self.x, rows(ins)), w, (&mut self.y, rows(outs)), false);
        for (pair, result) in pairs.iter().zip(self.y.chunks_exact(outs)) {
            y[*pair as usize * y_stride..][..outs].copy_from_slice(result);
        }
    }
}

/// The shapes that both expert kernels share: (outs, ins, x_stride, x_step), the last two in words.
pub(super) fn shapes(
    name: &str,
    w: &Matrix,
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
pub fn experts(pass: &mut Pass, w: &Matrix, experts: usize, x: &Tensor, ids: &Tensor, y: &Tensor, rows: usize) -> Result<()> {
    let (outs, ins, x_stride, x_step) = shapes("experts", w, experts, x, y, rows, ids.cols)?;
    expect_room("experts", "rows of ids", rows, ids.rows)?;
    pass.touch(w.bytes(rows.saturating_mul(ids.cols).min(experts) * outs));
    for (first, part) in w.parts() {
        let params = Params {
            rows: rows as u32,
            k: ids.cols as u32,
            ins: (ins / 4) as u32,
            outs: outs as u32,
            w_stride: (w.stride() / 4) as u32,
            k_stride: ids.stride as u32,
            x_stride: (x_stride / 4) as u32,
            x_step: (x_step / 4) as u32,
            y_stride: y.stride as u32,
            first: (first / outs) as u32,
            count: (part.data.rows / outs) as u32,
        };
        pass.dispatch(&EXPERTS, params, [&part.data, &part.scales, x, ids], [y])?;
    }
    Ok(())
}
