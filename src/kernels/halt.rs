//! Adaptive computation time (Graves 2016), as this model family accumulates it:
//!
//! - p = sigmoid(w · h + b)
//! - weight = halted ? 0 : (cum + p ≥ threshold ? max(1 − cum, 0) : p)
//! - out += weight · h;  cum += halted ? 0 : p;  halted = cum ≥ threshold
//!
//! h: (sequences · context, dim); w: (dim); out: (places, dim), a row for every token in flight; act: (places, 8) of cum, loops run
//! until halted, p and weight of this loop, then what the token was given: its cap, the loop (counted from 1) before which p counts
//! as 0, its [mode](Mode); and last whether it runs on. With a fixed number of loops, out is h after the last. Rows that only catch
//! up have no place, and no part in this.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s};
use crate::kernels::product::dot;
use crate::kernels::{NO_PLACE, RowList, States, expect, row_info};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, list: u32, dim: u32, stride: u32, context: u32, bias: f32, threshold: f32 }
}

/// Numbers of a row of act.
pub const ACT: usize = 8;
/// The number that says whether a token runs on.
pub const RUNNING: usize = 7;

/// What a token's loops end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It stops when its mass reaches the threshold.
    Halt = 0,
    /// It runs all its loops, and its output is h after the last.
    Fixed = 1,
    /// Its output is as with `Halt`, but it runs all its loops: what the PyTorch package does.
    Full = 2,
}

/// The row of act of a token before its first loop.
pub fn start(cap: usize, min_loops: usize, mode: Mode) -> [f32; ACT] {
    [0.0, 0.0, 0.0, 0.0, cap as f32, min_loops as f32, mode as u32 as f32, 1.0]
}

/// The kernel.
pub const HALT: Kernel<Params, 3, 2> = Kernel {
    name: "halt",
    body: include_str!("../../shaders/halt.wgsl"),
    links: &[Link::Gate, Link::Reduce, Link::State],
    reads: [u32s("list"), f32s("h"), f32s("w")],
    writes: [f32s("out"), f32s("act")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [list, h, w]: [&[f32]; 3], [out, act]: [&mut [f32]; 2]) {
    let (dim, stride) = (p.dim as usize, p.stride as usize);
    for row in 0..p.rows as usize {
        let info = row_info(list, p.list + row as u32);
        if info.source == NO_PLACE as usize {
            continue;
        }
        let h = &h[info.state(p.context) * stride..][..dim];
        let act = &mut act[ACT * info.source..][..ACT];
        let (cum, used, cap, min_loops, mode) = (act[0], act[1], act[4], act[5], act[6]);
        let loops = (info.at_loop + 1) as f32;
        let logit = dot(h, w) + p.bias;
        let halting = if loops < min_loops { 0.0 } else { 1.0 / (1.0 + (-logit).exp()) };
        let weight = if mode == Mode::Fixed as u32 as f32 {
            let weight = if loops == cap { 1.0 } else { 0.0 };
            act[..4].copy_from_slice(&[cum, loops, halting, weight]);
            weight
        } else if cum < p.threshold {
            let weight = if cum + halting >= p.threshold { (1.0 - cum).max(0.0) } else { halting };
            act[..4].copy_from_slice(&[cum + halting, used + 1.0, halting, weight]);
            weight
        } else {
            act[2..4].copy_from_slice(&[halting, 0.0]);
            0.0
        };
        act[RUNNING] = if loops < cap && (mode != 0.0 || act[0] < p.threshold) { 1.0 } else { 0.0 };
        out[info.source * stride..].iter_mut().zip(h).for_each(|(out, h)| *out += weight * h);
    }
}

/// The halting head.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// (1, dim).
    pub w: Tensor,
    /// Its bias.
    pub bias: f32,
    /// `act_threshold`.
    pub threshold: f32,
}

/// Records the accumulation for the listed rows; a row's source is its place, or [`NO_PLACE`].
pub fn halt(pass: &mut Pass, list: RowList, head: &Head, states: &States, out: &Tensor, act: &Tensor) -> Result<()> {
    let h = &states.h;
    for tensor in [&head.w, out] {
        expect("halt", "columns", h.cols, tensor.cols)?;
    }
    expect("halt", "columns of act", ACT, act.cols)?;
    expect("halt", "places", out.rows, act.rows)?;
    let params = Params {
        rows: list.rows as u32,
        list: list.first as u32,
        dim: h.cols as u32,
        stride: h.stride as u32,
        context: states.context as u32,
        bias: head.bias,
        threshold: head.threshold,
    };
    pass.dispatch(&HALT, params, [&list.table, h, &head.w], [out, act])
}
