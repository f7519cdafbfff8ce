//! The spans of attention put together: y\[r, h\] = Σ_s share_s · x\[r, h, s\], share = softmax_s(log-sum-exp of span s)
//!
//! x: (rows, heads, spans, \[value_dim | log Σ e^score\]), y: (rows, heads, value_dim). See [`attention`](super::attention).

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s};
use crate::kernels::attention::Heads;
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params {
        rows: u32, heads: u32, spans: u32, value_dim: u32,
        x_stride: u32, x_head: u32, x_span: u32, y_stride: u32, y_head: u32,
    }
}

/// The kernel.
pub const ATTENTION_MERGE: Kernel<Params, 1, 1> = Kernel {
    name: "attention_merge",
    body: include_str!("../../shaders/attention_merge.wgsl"),
    links: &[Link::Gate],
    reads: [f32s("x")],
    writes: [f32s("y")],
    grid: |p, _| [p.rows as usize, p.heads as usize, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [x]: [&[f32]; 1], [y]: [&mut [f32]; 1]) {
    let value_dim = p.value_dim as usize;
    for (row, head) in (0..p.rows as usize).flat_map(|row| (0..p.heads as usize).map(move |head| (row, head))) {
        let span = |s: usize| &x[row * p.x_stride as usize + head * p.x_head as usize + s * p.x_span as usize..][..value_dim + 1];
        let largest = (0..p.spans as usize).map(|s| span(s)[value_dim]).fold(f32::MIN, f32::max);
        let total: f32 = (0..p.spans as usize).map(|s| (span(s)[value_dim] - largest).exp()).sum();
        let y = &mut y[row * p.y_stride as usize + head * p.y_head as usize..][..value_dim];
        y.fill(0.0);
        for s in 0..p.spans as usize {
            let share = (span(s)[value_dim] - largest).exp() / total;
            y.iter_mut().zip(span(s)).for_each(|(y, x)| *y += share * x);
        }
    }
}

/// Records the merge of `spans` spans that lie `x_head` columns a head and `x_span` columns a span apart.
pub(super) fn attention_merge(
    pass: &mut Pass,
    (x, x_head, x_span): (&Tensor, usize, usize),
    spans: usize,
    heads: Heads,
    (y, y_head): (&Tensor, usize),
    rows: usize,
) -> Result<()> {
    let params = Params {
        rows: rows as u32,
        heads: heads.heads as u32,
        spans: spans as u32,
        value_dim: heads.value_dim as u32,
        x_stride: x.stride as u32,
        x_head: x_head as u32,
        x_span: x_span as u32,
        y_stride: y.stride as u32,
        y_head: y_head as u32,
    };
    pass.dispatch(&ATTENTION_MERGE, params, [x], [y])
}
