//! The best candidates of a row from those of its parts (see [`top`](super::top))
//!
//! values: (rows · parts, 2 + n) and ids: (rows · parts, n) → (rows, 2 + n) and (rows, n); log Σ e^x is that of the parts'.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s, words, words_mut};
use crate::kernels::expect_room;
use crate::kernels::top::{Parts, take_best};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters. Strides are the same before and after.
    Params { rows: u32, parts: u32, n: u32, values_stride: u32, ids_stride: u32 }
}

/// The kernel.
pub const MERGE: Kernel<Params, 2, 2> = Kernel {
    name: "merge",
    body: include_str!("../../shaders/merge.wgsl"),
    links: &[Link::Reduce, Link::Best],
    reads: [f32s("part_values"), u32s("part_ids")],
    writes: [f32s("values"), u32s("ids")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [part_values, part_ids]: [&[f32]; 2], [values, ids]: [&mut [f32]; 2]) {
    let (n, parts) = (p.n as usize, p.parts as usize);
    let (values_stride, ids_stride) = (p.values_stride as usize, p.ids_stride as usize);
    let mut candidates = Vec::with_capacity(parts * n);
    for row in 0..p.rows as usize {
        candidates.clear();
        let (mut sum, mut bad) = (0.0, 0.0);
        let of = |part: usize| &part_values[(row * parts + part) * values_stride..][..2 + n];
        let largest = (0..parts).map(|part| of(part)[0]).fold(f32::MIN, f32::max);
        for part in 0..parts {
            let ids = &words(part_ids)[(row * parts + part) * ids_stride..][..n];
            candidates.extend(ids.iter().copied().zip(of(part)[2..].iter().copied()));
            sum += (of(part)[0] - largest).exp();
            bad = f32::max(bad, of(part)[1]);
        }
        let values = &mut values[row * values_stride..][..2 + n];
        take_best(&mut candidates, &mut values[2..], &mut words_mut(ids)[row * ids_stride..][..n]);
        values[..2].copy_from_slice(&[largest + sum.ln(), bad]);
    }
}

/// Records the merge of `rows` rows of `parts` parts each.
pub(super) fn merge(pass: &mut Pass, from: Parts, parts: usize, n: usize, values: &Tensor, ids: &Tensor, rows: usize) -> Result<()> {
    expect_room("merge", "rows of the parts", rows * parts, from.values.rows.min(from.ids.rows))?;
    let params =
        Params { rows: rows as u32, parts: parts as u32, n: n as u32, values_stride: values.stride as u32, ids_stride: ids.stride as u32 };
    pass.dispatch(&MERGE, params, [from.values, from.ids], [values, ids])
}
