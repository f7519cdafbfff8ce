//! Rotary position embedding (Su et al. 2021) of ADJACENT pairs: (x₂ᵢ, x₂ᵢ₊₁) turns by position · θ^(−2i/d)
//!
//! x and y are rows of heads of d columns each, anywhere in their rows; angles: (positions, d/2, \[cos, sin\]).

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s};
use crate::kernels::linear::Columns;
use crate::kernels::{RowList, expect_room, row_info};
use crate::params;
use crate::tensor::{Tensor, stride};

params! {
    /// Parameters: `start` is the first head's column, `head` the columns from one head to the next.
    Params {
        rows: u32, list: u32, heads: u32, pairs: u32,
        x_stride: u32, x_start: u32, x_head: u32,
        y_stride: u32, y_start: u32, y_head: u32,
    }
}

/// The kernel.
pub const ROPE: Kernel<Params, 3, 1> = Kernel {
    name: "rope",
    body: include_str!("../../shaders/rope.wgsl"),
    links: &[Link::Gate, Link::RopeTurn],
    reads: [u32s("list"), f32s("angles"), f32s("x")],
    writes: [f32s("y")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [list, angles, x]: [&[f32]; 3], [y]: [&mut [f32]; 1]) {
    let pairs = p.pairs as usize;
    for row in 0..p.rows as usize {
        let position = row_info(list, p.list + row as u32).position;
        for head in 0..p.heads as usize {
            let x = &x[row * p.x_stride as usize + p.x_start as usize + head * p.x_head as usize..][..2 * pairs];
            let y = &mut y[row * p.y_stride as usize + p.y_start as usize + head * p.y_head as usize..][..2 * pairs];
            turn(x, angles, position, y);
        }
    }
}

/// One head: y = x turned by the angles of `position`.
pub(super) fn turn(x: &[f32], angles: &[f32], position: usize, y: &mut [f32]) {
    let angles = &angles[position * stride(x.len())..];
    for ((x, y), angle) in x.chunks_exact(2).zip(y.chunks_exact_mut(2)).zip(angles.chunks_exact(2)) {
        y[0] = x[0] * angle[0] - x[1] * angle[1];
        y[1] = x[0] * angle[1] + x[1] * angle[0];
    }
}

/// Records y = RoPE(x) for `heads` heads of `angles.cols` columns: head n of x starts at column `x.start + n · x.step`.
pub fn rope(pass: &mut Pass, list: RowList, angles: &Tensor, heads: usize, x: Columns, y: Columns) -> Result<()> {
    let d = angles.cols;
    expect_room("rope", "columns of x", x.start + (heads - 1) * x.step + d, x.tensor.cols)?;
    expect_room("rope", "columns of y", y.start + (heads - 1) * y.step + d, y.tensor.cols)?;
    expect_room("rope", "rows of x and y", list.rows, x.tensor.rows.min(y.tensor.rows))?;
    let params = Params {
        rows: list.rows as u32,
        list: list.first as u32,
        heads: heads as u32,
        pairs: (d / 2) as u32,
        x_stride: x.tensor.stride as u32,
        x_start: x.start as u32,
        x_head: x.step as u32,
        y_stride: y.tensor.stride as u32,
        y_start: y.start as u32,
        y_head: y.step as u32,
    };
    pass.dispatch(&ROPE, params, [&list.table, angles, x.tensor], [y.tensor])
}
