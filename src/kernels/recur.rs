//! The end of a loop: the depth-wise LoRA, the linear time-invariant update of the state, and [halting](super::halt)
//!
//! - x' = x + ((x · downᵀ) ⊙ scale\[min(t, scales − 1)\]) · lora_b
//! - h = A ⊙ h + B ⊙ e + x'
//! - out += weight(sigmoid(w · h + b)) · h
//!
//! x: (rows, dim); h, e: (sequences · context, dim); out: (places, dim); act: (places, 8); scale: (scales, rank); table: (3 + 2 · rank,
//! dim) of A, B, w, then down, then lora_b. A = exp(−exp(…)) lies in (0, 1), which keeps the loop stable by construction; it is computed
//! once, when the model is loaded.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s};
use crate::kernels::halt::{ACT, Head, accumulate};
use crate::kernels::product::{Rows, dot, mix, product};
use crate::kernels::{RowList, States, expect, expect_room, row_info};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters. `stride` counts `vec4`s.
    Params { rows: u32, list: u32, stride: u32, rank: u32, rank_stride: u32, scales: u32, sequences: u32, context: u32, places: u32, bias: f32, threshold: f32 }
}

/// The largest LoRA rank that the shader's shared memory holds.
pub const MAX_RANK: usize = 1024;

/// The kernel.
pub const RECUR: Kernel<Params, 5, 3> = Kernel {
    name: "recur",
    body: include_str!("../../shaders/recur.wgsl"),
    links: &[Link::Gate, Link::Reduce, Link::TeamSum, Link::State],
    reads: [u32s("list"), f32s("x"), f32s("e"), f32s("table"), f32s("scale")],
    writes: [f32s("h"), f32s("out"), f32s("act")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [list, x, e, table, scale]: [&[f32]; 5], [h, out, act]: [&mut [f32]; 3]) {
    let (rows, stride, rank) = (p.rows as usize, 4 * p.stride as usize, p.rank as usize);
    let info = |row: usize| row_info(list, p.list + row as u32);
    let every = |stride| Rows { start: 0, stride };
    let (vectors, lora) = table.split_at(3 * stride);
    let (down, lora_b) = lora.split_at(rank * stride);
    // (x · downᵀ) ⊙ scale[t], then that · lora_b
    let mut low = vec![0.0; rows * rank];
    product((rows, stride, rank), (x, every(stride)), (down, every(stride)), (&mut low, every(rank)), false);
    for (row, low) in low.chunks_exact_mut(rank).enumerate() {
        let t = info(row).at_loop.min(p.scales as usize - 1);
        low.iter_mut().zip(&scale[t * p.rank_stride as usize..]).for_each(|(low, scale)| *low *= scale);
    }
    let mut lora = vec![0.0; rows * stride];
    mix((rows, rank, stride), (&low, every(rank)), (lora_b, every(stride)), (&mut lora, every(stride)));
    let [a, b, w] = [0, 1, 2].map(|i| &vectors[i * stride..][..stride]);
    for (row, lora) in lora.chunks_exact(stride).enumerate() {
        let info = info(row);
        let Some(state) = info.at(p.sequences, p.context).map(|state| state * stride) else { continue };
        let (h, e, x) = (&mut h[state..][..stride], &e[state..][..stride], &x[row * stride..][..stride]);
        for i in 0..stride {
            h[i] = a[i] * h[i] + b[i] * e[i] + (x[i] + lora[i]);
        }
        if info.source < p.places as usize {
            let act = &mut act[ACT * info.source..][..ACT];
            let weight = accumulate(act, dot(h, w) + p.bias, (info.at_loop + 1) as f32, p.threshold);
            out[info.source * stride..].iter_mut().zip(h).for_each(|(out, h)| *out += weight * *h);
        }
    }
}

/// The weights of the end of a loop.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// (3 + 2 · rank, dim): A, B, w of the halting head, then down and B of the depth-wise LoRA.
    pub table: Tensor,
    /// (scales, rank).
    pub scale: Tensor,
    /// The halting head.
    pub head: Head,
}

/// Records the end of the loop for the listed rows; a row's source is its place, or [`NO_PLACE`](super::NO_PLACE).
pub fn recur(pass: &mut Pass, list: RowList, x: &Tensor, ending: &Ending, states: &States, out: &Tensor, act: &Tensor) -> Result<()> {
    let (States { h, e, context }, Ending { table, scale, head }) = (states, ending);
    let rank = scale.cols;
    for tensor in [x, e, table, out] {
        expect("recur", "columns", h.cols, tensor.cols)?;
    }
    expect("recur", "rows of the table", 3 + 2 * rank, table.rows)?;
    expect("recur", "columns of act", ACT, act.cols)?;
    expect("recur", "places", out.rows, act.rows)?;
    expect_room("recur", "rank at most", rank, MAX_RANK)?;
    expect_room("recur", "rows", list.rows, x.rows)?;
    let params = Params {
        rows: list.rows as u32,
        list: list.first as u32,
        stride: (h.stride / 4) as u32,
        rank: rank as u32,
        rank_stride: scale.stride as u32,
        scales: scale.rows as u32,
        sequences: states.sequences() as u32,
        context: *context as u32,
        places: out.rows as u32,
        bias: head.bias,
        threshold: head.threshold,
    };
    pass.touch(4 * 2 * rank * h.stride);
    pass.work(4 * list.rows * 6 * h.cols, 2 * list.rows * h.cols * (2 * rank + 4));
    pass.dispatch(&RECUR, params, [&list.table, x, e, table, scale], [h, out, act])
}
