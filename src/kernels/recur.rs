//! The end of a loop: the depth-wise LoRA and the linear time-invariant update of the state
//!
//! - x' = x + ((x · downᵀ) ⊙ scale\[min(t, scales − 1)\]) · lora_b
//! - h = A ⊙ h + B ⊙ e + x'
//!
//! x: (rows, dim); h, e: (sequences · context, dim); down, lora_b: (rank, dim); scale: (scales, rank); lti: (2, dim), A then B. A = exp(−exp(…)) lies in
//! (0, 1), which keeps the loop stable by construction; it is computed once, when the model is loaded.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s};
use crate::kernels::product::{Rows, mix, product};
use crate::kernels::{RowList, States, expect, expect_room, row_info};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, list: u32, dim: u32, stride: u32, rank: u32, rank_stride: u32, scales: u32, context: u32 }
}

/// The largest LoRA rank that the shader's shared memory holds.
pub const MAX_RANK: usize = 1024;

/// The kernel.
pub const RECUR: Kernel<Params, 7, 1> = Kernel {
    name: "recur",
    body: include_str!("../../shaders/recur.wgsl"),
    links: &[Link::Gate, Link::Reduce, Link::State],
    reads: [u32s("list"), f32s("x"), f32s("e"), f32s("down"), f32s("scale"), f32s("lora_b"), f32s("lti")],
    writes: [f32s("h")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [list, x, e, down, scale, lora_b, lti]: [&[f32]; 7], [h]: [&mut [f32]; 1]) {
    let (rows, dim, stride, rank) = (p.rows as usize, p.dim as usize, p.stride as usize, p.rank as usize);
    let info = |row: usize| row_info(list, p.list + row as u32);
    let every = |stride| Rows { start: 0, stride };
    // (x · downᵀ) ⊙ scale[t], then that · lora_b
    let mut low = vec![0.0; rows * rank];
    product((rows, dim, rank), (x, every(stride)), (down, every(stride)), (&mut low, every(rank)), false);
    for (row, low) in low.chunks_exact_mut(rank).enumerate() {
        let t = info(row).at_loop.min(p.scales as usize - 1);
        low.iter_mut().zip(&scale[t * p.rank_stride as usize..]).for_each(|(low, scale)| *low *= scale);
    }
    let mut lora = vec![0.0; rows * dim];
    mix((rows, rank, dim), (&low, every(rank)), (lora_b, every(stride)), (&mut lora, every(dim)));
    let (a, b) = (&lti[..dim], &lti[stride..][..dim]);
    for (row, lora) in lora.chunks_exact(dim).enumerate() {
        let state = info(row).state(p.context) * stride;
        let (h, e, x) = (&mut h[state..][..dim], &e[state..][..dim], &x[row * stride..][..dim]);
        for i in 0..dim {
            h[i] = a[i] * h[i] + b[i] * e[i] + (x[i] + lora[i]);
        }
    }
}

/// The depth-wise LoRA's weights.
#[derive(Clone, Copy, Debug)]
pub struct Lora {
    /// (rank, dim).
    pub down: Tensor,
    /// (scales, rank).
    pub scale: Tensor,
    /// (rank, dim).
    pub b: Tensor,
}

/// Records the update for the listed rows.
pub fn recur(pass: &mut Pass, list: RowList, x: &Tensor, lora: &Lora, lti: &Tensor, states: &States) -> Result<()> {
    let States { h, e, context } = states;
    for tensor in [x, e, &lora.down, &lora.b, lti] {
        expect("recur", "columns", h.cols, tensor.cols)?;
    }
    expect("recur", "rank", lora.down.rows, lora.scale.cols)?;
    expect("recur", "rows of lora_b", lora.down.rows, lora.b.rows)?;
    expect_room("recur", "rank at most", lora.down.rows, MAX_RANK)?;
    expect_room("recur", "rows", list.rows, x.rows)?;
    let params = Params {
        rows: list.rows as u32,
        list: list.first as u32,
        dim: h.cols as u32,
        stride: h.stride as u32,
        rank: lora.down.rows as u32,
        rank_stride: lora.scale.stride as u32,
        scales: lora.scale.rows as u32,
        context: *context as u32,
    };
    pass.touch(2 * lora.down.rows * h.stride);
    pass.dispatch(&RECUR, params, [&list.table, x, e, &lora.down, &lora.scale, &lora.b, lti], [h])
}
