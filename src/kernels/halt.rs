//! Adaptive computation time (Graves 2016), as this model family accumulates it:
//!
//! - p = sigmoid(w · h + b)
//! - weight = halted ? 0 : (cum + p ≥ threshold ? max(1 − cum, 0) : p)
//! - out += weight · h;  cum += halted ? 0 : p;  halted = cum ≥ threshold
//!
//! h, out: (rows, dim); w: (dim); state: (rows, 4) of cum, loops run until halted, p and weight of this loop. p counts as 0 before
//! loop `min_loops` (counted from 1). With a fixed number of loops, out is h after the last.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, f32s, u32s};
use crate::kernels::{RowList, expect, expect_room, row_info};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params {
        rows: u32, list: u32, dim: u32, stride: u32, loops: u32, min_loops: u32, fixed: u32,
        bias: f32, threshold: f32,
    }
}

/// The kernel.
pub const HALT: Kernel<Params, 3, 2> = Kernel {
    name: "halt",
    body: include_str!("../../shaders/halt.wgsl"),
    links: &[Link::Reduce],
    reads: [u32s("list"), f32s("h"), f32s("w")],
    writes: [f32s("out"), f32s("state")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin,
};

fn twin(p: &Params, [list, h, w]: [&[f32]; 3], [out, state]: [&mut [f32]; 2]) {
    let (dim, stride) = (p.dim as usize, p.stride as usize);
    for row in 0..p.rows as usize {
        let t = row_info(list, p.list + row as u32).at_loop as u32;
        let h = &h[row * stride..][..dim];
        let logit = h.iter().zip(w).map(|(h, w)| h * w).sum::<f32>() + p.bias;
        let halting = if t + 1 < p.min_loops { 0.0 } else { 1.0 / (1.0 + (-logit).exp()) };
        let state = &mut state[4 * row..][..4];
        let (cum, loops) = (state[0], state[1]);
        let running = cum < p.threshold;
        let weight = if p.fixed != 0 {
            let weight = if t + 1 == p.loops { 1.0 } else { 0.0 };
            state.copy_from_slice(&[cum, (t + 1) as f32, halting, weight]);
            weight
        } else if running {
            let weight = if cum + halting >= p.threshold { (1.0 - cum).max(0.0) } else { halting };
            state.copy_from_slice(&[cum + halting, loops + 1.0, halting, weight]);
            weight
        } else {
            state.copy_from_slice(&[cum, loops, halting, 0.0]);
            0.0
        };
        out[row * stride..].iter_mut().zip(h).for_each(|(out, h)| *out += weight * h);
    }
}

/// When a row stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Halting {
    /// Bias of the halting head.
    pub bias: f32,
    /// `act_threshold`.
    pub threshold: f32,
    /// Loops that this pass runs.
    pub loops: usize,
    /// Loops, counted from 1, before which p counts as 0.
    pub min_loops: usize,
    /// Whether every row runs all loops and gives h after the last.
    pub fixed: bool,
}

/// Records the accumulation for the listed rows.
pub fn halt(pass: &mut Pass, list: RowList, halting: Halting, h: &Tensor, w: &Tensor, out: &Tensor, state: &Tensor) -> Result<()> {
    for tensor in [w, out] {
        expect("halt", "columns", h.cols, tensor.cols)?;
    }
    expect("halt", "columns of the state", 4, state.cols)?;
    expect_room("halt", "rows", list.rows, h.rows.min(out.rows).min(state.rows))?;
    let params = Params {
        rows: list.rows as u32,
        list: list.first as u32,
        dim: h.cols as u32,
        stride: h.stride as u32,
        loops: halting.loops as u32,
        min_loops: halting.min_loops as u32,
        fixed: u32::from(halting.fixed),
        bias: halting.bias,
        threshold: halting.threshold,
    };
    pass.dispatch(&HALT, params, [&list.table, h, w], [out, state])
}
