//! The best candidates of every row of logits, and the row's log-sum-exp
//!
//! x: (rows, vocabulary) → values: (rows, 2 + n) of log Σ e^x, 1 if any logit is NaN or infinite (else 0), the n largest logits,
//! descending; ids: (rows, n), their indices, ties to the lowest. n = 1 is greedy decoding.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, f32s, u32s, words_mut};
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, vocab: u32, n: u32, x_stride: u32, values_stride: u32, ids_stride: u32 }
}

/// The kernel.
pub const TOP: Kernel<Params, 1, 2> = Kernel {
    name: "top",
    body: include_str!("../../shaders/top.wgsl"),
    links: &[Link::Reduce],
    reads: [f32s("x")],
    writes: [f32s("values"), u32s("ids")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin,
};

fn twin(p: &Params, [x]: [&[f32]; 1], [values, ids]: [&mut [f32]; 2]) {
    let n = p.n as usize;
    let mut order: Vec<usize> = Vec::with_capacity(p.vocab as usize);
    for row in 0..p.rows as usize {
        let x = &x[row * p.x_stride as usize..][..p.vocab as usize];
        let values = &mut values[row * p.values_stride as usize..][..2 + n];
        order.clear();
        order.extend(0..x.len());
        let descending = |a: &usize, b: &usize| x[*b].total_cmp(&x[*a]).then(a.cmp(b));
        if n < order.len() {
            order.select_nth_unstable_by(n, descending);
            order.truncate(n);
        }
        order.sort_unstable_by(descending);
        let largest = x[order[0]];
        values[0] = largest + x.iter().map(|x| (x - largest).exp()).sum::<f32>().ln();
        values[1] = if x.iter().all(|x| x.is_finite()) { 0.0 } else { 1.0 };
        for (slot, at) in order.iter().enumerate() {
            values[2 + slot] = x[*at];
            words_mut(ids)[row * p.ids_stride as usize + slot] = *at as u32;
        }
    }
}

/// Records the choice of the `n` best of `rows` rows.
pub fn top(pass: &mut Pass, x: &Tensor, n: usize, values: &Tensor, ids: &Tensor, rows: usize) -> Result<()> {
    expect_room("top", "candidates", n, x.cols)?;
    expect_room("top", "columns of values", 2 + n, values.cols)?;
    expect_room("top", "columns of ids", n, ids.cols)?;
    expect("top", "rows of values and ids", values.rows, ids.rows)?;
    expect_room("top", "rows", rows, x.rows.min(values.rows))?;
    let params = Params {
        rows: rows as u32,
        vocab: x.cols as u32,
        n: n as u32,
        x_stride: x.stride as u32,
        values_stride: values.stride as u32,
        ids_stride: ids.stride as u32,
    };
    pass.dispatch(&TOP, params, [x], [values, ids])
}
