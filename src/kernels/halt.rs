//! Adaptive computation time (Graves 2016), as this model family accumulates it; part of the kernel [`recur`](super::recur):
//!
//! - p = sigmoid(w · h + b)
//! - weight = halted ? 0 : (cum + p ≥ threshold ? max(1 − cum, 0) : p)
//! - out += weight · h;  cum += halted ? 0 : p;  halted = cum ≥ threshold
//!
//! h: (sequences · context, dim); w: (dim); out: (places, dim), a row for every token in flight; act: (places, 8) of cum, loops run
//! until halted, p and weight of this loop, then what the token was given: its cap, the loop (counted from 1) before which p counts
//! as 0, its [mode](Mode); and last whether it runs on. With a fixed number of loops, out is h after the last. Rows that only catch
//! up have no place, and no part in this.

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

/// The halting head.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Its bias; its weights w lie in the table of the kernel.
    pub bias: f32,
    /// `act_threshold`.
    pub threshold: f32,
}

/// What a token's loop number `loops` (from 1) adds to its output: takes the halting logit into its row of act and returns the weight of h.
pub(super) fn accumulate(act: &mut [f32], logit: f32, loops: f32, threshold: f32) -> f32 {
    let (cum, used, cap, min_loops, mode) = (act[0], act[1], act[4], act[5], act[6]);
    let halting = if loops < min_loops { 0.0 } else { 1.0 / (1.0 + (-logit).exp()) };
    let weight = if mode == Mode::Fixed as u32 as f32 {
        let weight = if loops == cap { 1.0 } else { 0.0 };
        act[..4].copy_from_slice(&[cum, loops, halting, weight]);
        weight
    } else if cum < threshold {
        let weight = if cum + halting >= threshold { (1.0 - cum).max(0.0) } else { halting };
        act[..4].copy_from_slice(&[cum + halting, used + 1.0, halting, weight]);
        weight
    } else {
        act[2..4].copy_from_slice(&[halting, 0.0]);
        0.0
    };
    act[RUNNING] = if loops < cap && (mode != 0.0 || act[0] < threshold) { 1.0 } else { 0.0 };
    weight
}
