//! The best candidates of every row of logits, and the row's log-sum-exp
//!
//! x: (rows, vocabulary) → values: (rows, 2 + n) of log Σ e^x, 1 if any logit is NaN or infinite (else 0), the n largest logits,
//! descending; ids: (rows, n), their indices, ties to the lowest. n = 1 is greedy decoding.
//!
//! A row is searched in parts of [`PART`] logits side by side, and their candidates are [merged](super::merge).

use std::cmp::Ordering;

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s, words_mut};
use crate::kernels::merge::merge;
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, vocab: u32, part: u32, n: u32, x_stride: u32, values_stride: u32, ids_stride: u32 }
}

/// Logits of one part of a row.
pub const PART: usize = 2048;

/// The kernel.
pub const TOP: Kernel<Params, 1, 2> = Kernel {
    name: "top",
    body: include_str!("../../shaders/top.wgsl"),
    links: &[Link::Reduce, Link::Best],
    reads: [f32s("x")],
    writes: [f32s("values"), u32s("ids")],
    grid: |p, _| [p.rows as usize, (p.vocab as usize).div_ceil(p.part as usize), 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [x]: [&[f32]; 1], [values, ids]: [&mut [f32]; 2]) {
    let (n, part) = (p.n as usize, p.part as usize);
    let parts = (p.vocab as usize).div_ceil(part);
    let mut candidates = Vec::with_capacity(part);
    for row in 0..p.rows as usize {
        let x = &x[row * p.x_stride as usize..][..p.vocab as usize];
        for (index, x) in x.chunks(part).enumerate() {
            let to = row * parts + index;
            let values = &mut values[to * p.values_stride as usize..][..2 + n];
            let ids = &mut words_mut(ids)[to * p.ids_stride as usize..][..n];
            candidates.clear();
            candidates.extend(x.iter().enumerate().map(|(i, logit)| ((index * part + i) as u32, *logit)));
            take_best(&mut candidates, &mut values[2..], ids);
            let largest = values[2];
            values[0] = largest + x.iter().map(|x| (x - largest).exp()).sum::<f32>().ln();
            values[1] = if x.iter().all(|x| x.is_finite()) { 0.0 } else { 1.0 };
        }
    }
}

/// Writes the best of the candidates in order, and fills up what is left with the lowest value and no index.
pub(super) fn take_best(candidates: &mut Vec<(u32, f32)>, values: &mut [f32], ids: &mut [u32]) {
    // + 0 makes −0 a tie with 0, as it is for the shader.
    let descending = |a: &(u32, f32), b: &(u32, f32)| -> Ordering { (b.1 + 0.0).total_cmp(&(a.1 + 0.0)).then(a.0.cmp(&b.0)) };
    if values.len() < candidates.len() {
        candidates.select_nth_unstable_by(values.len(), descending);
        candidates.truncate(values.len());
    }
    candidates.sort_unstable_by(descending);
    values.fill(f32::MIN);
    ids.fill(u32::MAX);
    for ((candidate, value), id) in candidates.iter().zip(values).zip(ids) {
        (*id, *value) = *candidate;
    }
}

/// Where the parts' candidates wait to be merged: values (rows · parts, 2 + n) and ids (rows · parts, n).
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// As the result's values.
    pub values: &'a Tensor,
    /// As the result's ids.
    pub ids: &'a Tensor,
}

/// Records the choice of the `n` best of `rows` rows.
pub fn top(pass: &mut Pass, x: &Tensor, n: usize, parts: Parts, values: &Tensor, ids: &Tensor, rows: usize) -> Result<()> {
    let count = x.cols.div_ceil(PART);
    // One part needs no merging.
    let (to_values, to_ids) = if count == 1 { (values, ids) } else { (parts.values, parts.ids) };
    expect_room("top", "candidates", n, x.cols)?;
    expect_room("top", "columns of values", 2 + n, to_values.cols.min(values.cols))?;
    expect_room("top", "columns of ids", n, to_ids.cols.min(ids.cols))?;
    expect_room("top", "rows", rows, x.rows.min(values.rows).min(ids.rows))?;
    expect_room("top", "rows of the parts", rows * count, to_values.rows.min(to_ids.rows))?;
    expect("top", "stride of the parts", values.stride, to_values.stride)?;
    expect("top", "stride of the parts' ids", ids.stride, to_ids.stride)?;
    let params = Params {
        rows: rows as u32,
        vocab: x.cols as u32,
        part: PART as u32,
        n: n as u32,
        x_stride: x.stride as u32,
        values_stride: to_values.stride as u32,
        ids_stride: to_ids.stride as u32,
    };
    pass.dispatch(&TOP, params, [x], [to_values, to_ids])?;
    if count > 1 {
        merge(pass, parts, count, n, values, ids, rows)?;
    }
    Ok(())
}
