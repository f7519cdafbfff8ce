//! Router of the mixture of experts, and the norm before it:
//!
//! - x = RMSNorm(u) · gain
//! - logits = router · x; chosen = top-K of (logits + bias); gates = softmax of the chosen logits
//!
//! u, x: (rows, dim), router: (experts, dim), bias: (experts), ids and gates: (rows, K). The bias picks and never weighs (Wang et al.
//! 2024, loss-free balancing). Order: descending, ties to the lowest index. softmax(logits) divided by its sum over the chosen is
//! the softmax of the chosen logits alone; computed so, it stays finite when the bias picks experts of vanishing probability.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s, words_mut};
use crate::kernels::product::{Rows, product};
use crate::kernels::rmsnorm::normalise;
use crate::kernels::{EPS, MAX_EXPERTS, expect, expect_room};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters. `ins` and `x_stride` count `vec4`s.
    Params { rows: u32, ins: u32, experts: u32, k: u32, x_stride: u32, k_stride: u32, dim: u32, eps: f32 }
}

/// The kernel.
pub const ROUTER: Kernel<Params, 4, 3> = Kernel {
    name: "router",
    body: include_str!("../../shaders/router.wgsl"),
    links: &[Link::Gate, Link::Reduce, Link::TeamSum],
    reads: [f32s("u"), f32s("gain"), f32s("w"), f32s("bias")],
    writes: [f32s("x"), u32s("ids"), f32s("gates")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [u, gain, w, bias]: [&[f32]; 4], [x, ids, gates]: [&mut [f32]; 3]) {
    let (stride, dim) = (4 * p.x_stride as usize, p.dim as usize);
    for (u, x) in u.chunks_exact(stride).zip(x.chunks_exact_mut(stride)).take(p.rows as usize) {
        normalise(&u[..dim], gain, p.eps, &mut x[..dim]);
    }
    let (ins, experts, k) = (4 * p.ins as usize, p.experts as usize, p.k as usize);
    let ids = words_mut(ids);
    let mut all = vec![0.0; p.rows as usize * experts];
    let rows = |stride| Rows { start: 0, stride };
    product((p.rows as usize, ins, experts), (x, rows(stride)), (w, rows(ins)), (&mut all, rows(experts)), false);
    let mut order: Vec<usize> = Vec::with_capacity(experts);
    for (row, logits) in all.chunks_exact(experts).enumerate() {
        order.clear();
        order.extend(0..experts);
        let biased = |expert: usize| logits[expert] + bias[expert] + 0.0; // + 0 makes −0 a tie with 0, as it is for the shader
        order.sort_by(|a, b| biased(*b).total_cmp(&biased(*a)).then(a.cmp(b)));
        let chosen = &order[..k];
        let largest = chosen.iter().map(|e| logits[*e]).fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = chosen.iter().map(|e| (logits[*e] - largest).exp()).sum();
        for (slot, expert) in chosen.iter().enumerate() {
            ids[row * p.k_stride as usize + slot] = *expert as u32;
            gates[row * p.k_stride as usize + slot] = (logits[*expert] - largest).exp() / total;
        }
    }
}

/// The router's weights.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    /// Of the norm before it: (1, dim).
    pub gain: Tensor,
    /// (experts, dim).
    pub w: Tensor,
    /// (1, experts).
    pub bias: Tensor,
}

/// Records the norm and the choice for `rows` rows.
pub fn router(pass: &mut Pass, u: &Tensor, weights: &Router, x: &Tensor, ids: &Tensor, gates: &Tensor, rows: usize) -> Result<()> {
    let Router { gain, w, bias } = weights;
    for tensor in [u, gain, w] {
        expect("router", "columns", x.cols, tensor.cols)?;
    }
    expect("router", "biases", w.rows, bias.cols)?;
    expect("router", "columns of the gates", ids.cols, gates.cols)?;
    expect_room("router", "experts", ids.cols, w.rows)?;
    expect_room("router", "experts at most", w.rows, MAX_EXPERTS)?;
    expect_room("router", "rows", rows, u.rows.min(x.rows).min(ids.rows).min(gates.rows))?;
    let params = Params {
        rows: rows as u32,
        ins: (w.stride / 4) as u32,
        experts: w.rows as u32,
        k: ids.cols as u32,
        x_stride: (x.stride / 4) as u32,
        k_stride: ids.stride as u32,
        dim: x.cols as u32,
        eps: EPS,
    };
    pass.touch(4 * w.rows * w.stride);
    pass.work(4 * rows * 2 * x.cols, 2 * rows * x.cols * (w.rows + 2));
    pass.dispatch(&ROUTER, params, [u, gain, w, bias], [x, ids, gates])
}
