//! The experts of a mixture, few rows at a time: every (row, slot) has an expert, found on the device and without a read-back
//!
//! - up: y\[r, s\] = silu(G x\[r\]) ⊙ (U x\[r\])        \[G; U\]: (2 · outs, ins) of the slot's expert
//! - down: y\[r\] += Σ_s gate\[r, s\] · W x\[r, s\]        W: (outs, ins)
//!
//! The first K slots of a row are the router's choice. A shared expert always fires: those after them belong to the shared experts, which
//! lie behind the routed ones and whose gate is 1. Row (r, s) of a tensor is row r · slots + s. Many rows go to
//! [`experts_grouped`](super::experts_grouped).

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::words;
use crate::kernels::experts_down::EXPERTS_DOWN;
use crate::kernels::experts_up::EXPERTS_UP;
use crate::kernels::product::{Product, Rows, Weights, products};
use crate::kernels::swiglu::swiglu_row;
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::precision::Precision;
use crate::tensor::{Matrix, Tensor, stride};

params! {
    /// Parameters of one part of the matrices, which holds experts `first..first + count`. `ins`, `w_stride` and `x_stride` count `vec4`s.
    Params {
        rows: u32, slots: u32, k: u32, routed: u32, ins: u32, outs: u32,
        w_stride: u32, k_stride: u32, x_stride: u32, y_stride: u32,
        first: u32, count: u32,
    }
}

impl Params {
    /// The (row, slot) pairs of the experts that lie in this part, expert by expert.
    fn pairs(&self, ids: &[f32]) -> Vec<(u32, u32)> {
        let expert = |pair: u32| match pair % self.slots {
            slot if slot < self.k => words(ids)[(pair / self.slots * self.k_stride + slot) as usize],
            slot => self.routed + slot - self.k,
        };
        let here = self.first..self.first + self.count;
        let pairs = (0..self.rows * self.slots).map(|pair| (expert(pair), pair));
        let mut pairs: Vec<(u32, u32)> = pairs.filter(|(expert, _)| here.contains(expert)).collect();
        pairs.sort();
        pairs
    }
}

pub(super) fn up(p: &Params, precision: Precision, [data, scales, x, ids]: [&[f32]; 4], [y]: [&mut [f32]; 1]) {
    let w = Weights { precision, data, scales, stride: 4 * p.w_stride as usize, first: 0 };
    let (ins, outs) = (4 * p.ins as usize, p.outs as usize);
    let x_of = |pair: usize| &x[pair / p.slots as usize * 4 * p.x_stride as usize..][..ins];
    let w_of = |expert: u32| w.skip_rows((expert - p.first) as usize * 2 * outs);
    each_pair(&p.pairs(ids), (ins, 2 * outs), x_of, w_of, |pair, gate_up| {
        swiglu_row(gate_up, &mut y[pair * p.y_stride as usize..][..outs]);
    });
}

pub(super) fn down(p: &Params, precision: Precision, [data, scales, x, ids, gates]: [&[f32]; 5], [y]: [&mut [f32]; 1]) {
    let w = Weights { precision, data, scales, stride: 4 * p.w_stride as usize, first: 0 };
    let (ins, outs, slots) = (4 * p.ins as usize, p.outs as usize, p.slots as usize);
    let x_of = |pair: usize| &x[pair * 4 * p.x_stride as usize..][..ins];
    let w_of = |expert: u32| w.skip_rows((expert - p.first) as usize * outs);
    each_pair(&p.pairs(ids), (ins, outs), x_of, w_of, |pair, result| {
        let (row, slot) = (pair / slots, pair % slots);
        let gate = if slot < p.k as usize { gates[row * p.k_stride as usize + slot] } else { 1.0 };
        y[row * p.y_stride as usize..].iter_mut().zip(result).for_each(|(y, result)| *y += gate * result);
    });
}

/// w\[expert\] · x\[pair\] for (expert, pair)s in the order of experts: the weights of each are read once for all its pairs. `take` gets every
/// pair's `outs` results.
pub(super) fn each_pair<'a>(
    pairs: &[(u32, u32)],
    (ins, outs): (usize, usize),
    x_of: impl Fn(usize) -> &'a [f32],
    w_of: impl Fn(u32) -> Weights<'a>,
    mut take: impl FnMut(usize, &[f32]),
) {
    let x: Vec<f32> = pairs.iter().flat_map(|(_, pair)| x_of(*pair as usize)).copied().collect();
    let mut y = vec![0.0; pairs.len() * outs];
    let rows = |stride| Rows { start: 0, stride };
    let (mut x_rest, mut y_rest) = (&x[..], &mut y[..]);
    products(pairs.chunk_by(|a, b| a.0 == b.0).map(|pairs| {
        let (x, y);
        (x, x_rest) = x_rest.split_at(pairs.len() * ins);
        (y, y_rest) = std::mem::take(&mut y_rest).split_at_mut(pairs.len() * outs);
        Product { shape: (pairs.len(), ins, outs), x: (x, rows(ins)), w: w_of(pairs[0].0), y: (y, rows(outs)), add: false }
    }));
    for ((_, pair), result) in pairs.iter().zip(y.chunks_exact(outs)) {
        take(*pair as usize, result);
    }
}

/// Which experts the rows' slots are for.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// The router's choice: (rows, K) of u32.
    pub ids: Tensor,
    /// How much each counts: (rows, K).
    pub gates: Tensor,
    /// Experts to choose from.
    pub routed: usize,
    /// Experts that always fire, behind them.
    pub shared: usize,
}

impl Slots {
    /// Slots of a row.
    pub fn count(&self) -> usize {
        self.ids.cols + self.shared
    }

    /// Experts in all.
    pub fn experts(&self) -> usize {
        self.routed + self.shared
    }

    /// Experts that `rows` rows can have, at most.
    pub(super) fn most(&self, rows: usize) -> usize {
        rows.saturating_mul(self.ids.cols).min(self.routed) + self.shared
    }

    fn params(&self, w: &Matrix, (first, part_rows): (usize, usize), of_expert: usize, x: &Tensor, y: &Tensor, rows: usize) -> Params {
        Params {
            rows: rows as u32,
            slots: self.count() as u32,
            k: self.ids.cols as u32,
            routed: self.routed as u32,
            ins: (stride(w.cols) / 4) as u32,
            outs: y.cols as u32,
            w_stride: (w.stride() / 4) as u32,
            k_stride: self.ids.stride as u32,
            x_stride: (x.stride / 4) as u32,
            y_stride: y.stride as u32,
            first: (first / of_expert) as u32,
            count: (part_rows / of_expert) as u32,
        }
    }
}

/// Records the first half of the experts for `rows` rows. A weight in several parts takes one dispatch a part.
pub fn experts_up(pass: &mut Pass, w: &Matrix, slots: &Slots, x: &Tensor, y: &Tensor, rows: usize) -> Result<()> {
    let (name, of_expert) = ("experts_up", 2 * y.cols);
    expect(name, "rows of W", slots.experts() * of_expert, w.rows)?;
    expect(name, "columns of W", x.cols, w.cols)?;
    expect_room(name, "rows of y", rows * slots.count(), y.rows)?;
    expect_room(name, "rows of x and ids", rows, x.rows.min(slots.ids.rows))?;
    pass.touch(w.bytes(slots.most(rows) * of_expert));
    pass.work(4 * rows * (x.cols + slots.count() * y.cols), 2 * rows * slots.count() * of_expert * x.cols);
    for (first, part) in w.parts() {
        let params = slots.params(w, (first, part.data.rows), of_expert, x, y, rows);
        pass.dispatch(&EXPERTS_UP, params, [&part.data, &part.scales, x, &slots.ids], [y])?;
    }
    Ok(())
}

/// Records the second half of the experts for `rows` rows.
pub fn experts_down(pass: &mut Pass, w: &Matrix, slots: &Slots, x: &Tensor, y: &Tensor, rows: usize) -> Result<()> {
    let (name, of_expert) = ("experts_down", y.cols);
    expect(name, "rows of W", slots.experts() * of_expert, w.rows)?;
    expect(name, "columns of W", x.cols, w.cols)?;
    expect_room(name, "rows of x", rows * slots.count(), x.rows)?;
    expect_room(name, "rows of y, ids and gates", rows, y.rows.min(slots.ids.rows).min(slots.gates.rows))?;
    pass.touch(w.bytes(slots.most(rows) * of_expert));
    pass.work(4 * rows * (slots.count() * x.cols + 2 * y.cols), 2 * rows * slots.count() * of_expert * x.cols);
    for (first, part) in w.parts() {
        let params = slots.params(w, (first, part.data.rows), of_expert, x, y, rows);
        pass.dispatch(&EXPERTS_DOWN, params, [&part.data, &part.scales, x, &slots.ids, &slots.gates], [y])?;
    }
    Ok(())
}
