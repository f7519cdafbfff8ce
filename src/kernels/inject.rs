//! Input injection at loop t: x = RMSNorm(h + loop_emb(t) + e) · gain        h, e, x: (rows, dim), loop_emb: (loops, dim)

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, f32s, u32s};
use crate::kernels::rmsnorm::normalise;
use crate::kernels::{EPS, RowList, expect, expect_room, row_info};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, list: u32, dim: u32, stride: u32, eps: f32 }
}

/// The kernel.
pub const INJECT: Kernel<Params, 5, 1> = Kernel {
    name: "inject",
    body: include_str!("../../shaders/inject.wgsl"),
    links: &[Link::Reduce],
    reads: [u32s("list"), f32s("h"), f32s("e"), f32s("loop_emb"), f32s("gain")],
    writes: [f32s("x")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin,
};

fn twin(p: &Params, [list, h, e, loop_emb, gain]: [&[f32]; 5], [x]: [&mut [f32]; 1]) {
    let (dim, stride) = (p.dim as usize, p.stride as usize);
    let mut sums = Vec::with_capacity(dim);
    for row in 0..p.rows as usize {
        let emb = &loop_emb[row_info(list, p.list + row as u32).at_loop * stride..][..dim];
        let (h, e) = (&h[row * stride..][..dim], &e[row * stride..][..dim]);
        sums.clear();
        sums.extend(h.iter().zip(e).zip(emb).map(|((h, e), emb)| h + emb + e));
        normalise(&sums, gain, p.eps, &mut x[row * stride..][..dim]);
    }
}

/// Records the injection for the listed rows.
pub fn inject(pass: &mut Pass, list: RowList, h: &Tensor, e: &Tensor, loop_emb: &Tensor, gain: &Tensor, x: &Tensor) -> Result<()> {
    for tensor in [h, e, loop_emb, gain] {
        expect("inject", "columns", x.cols, tensor.cols)?;
    }
    expect_room("inject", "rows", list.rows, h.rows.min(e.rows).min(x.rows))?;
    let params = Params { rows: list.rows as u32, list: list.first as u32, dim: x.cols as u32, stride: x.stride as u32, eps: EPS };
    pass.dispatch(&INJECT, params, [&list.table, h, e, loop_emb, gain], [x])
}
