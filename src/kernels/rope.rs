//! Rotary position embedding (Su et al. 2021) of ADJACENT pairs: (x₂ᵢ, x₂ᵢ₊₁) turns by position · θ^(−2i/d)
//!
//! No kernel of its own: keys are turned where they are stored, queries where attention reads them. The shaders' twin is
//! `link/rope_turn.wgsl`. angles: (positions, d/2, \[cos, sin\]).

use crate::tensor::stride;

/// One head: y = x turned by the angles of `position`.
pub(super) fn turn(x: &[f32], angles: &[f32], position: usize, y: &mut [f32]) {
    let angles = &angles[position * stride(x.len())..];
    for ((x, y), angle) in x.chunks_exact(2).zip(y.chunks_exact_mut(2)).zip(angles.chunks_exact(2)) {
        y[0] = x[0] * angle[0] - x[1] * angle[1];
        y[1] = x[0] * angle[1] + x[1] * angle[0];
    }
}
