//! Before the first loop: h = e = x, out = 0, state = 0        x, h, e, out: (rows, dim), state: (rows, 4)

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, f32s};
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, stride: u32 }
}

/// The kernel.
pub const BEGIN: Kernel<Params, 1, 4> = Kernel {
    name: "begin",
    body: include_str!("../../shaders/begin.wgsl"),
    links: &[],
    reads: [f32s("x")],
    writes: [f32s("h"), f32s("e"), f32s("out"), f32s("state")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin,
};

fn twin(p: &Params, [x]: [&[f32]; 1], [h, e, out, state]: [&mut [f32]; 4]) {
    let words = (p.rows * p.stride) as usize;
    h[..words].copy_from_slice(&x[..words]);
    e[..words].copy_from_slice(&x[..words]);
    out[..words].fill(0.0);
    state[..4 * p.rows as usize].fill(0.0);
}

/// Records the start of the loops for `rows` rows.
pub fn begin(pass: &mut Pass, x: &Tensor, h: &Tensor, e: &Tensor, out: &Tensor, state: &Tensor, rows: usize) -> Result<()> {
    for tensor in [h, e, out] {
        expect("begin", "columns", x.cols, tensor.cols)?;
        expect_room("begin", "rows", rows, tensor.rows)?;
    }
    expect("begin", "columns of the state", 4, state.cols)?;
    expect_room("begin", "rows of x and the state", rows, x.rows.min(state.rows))?;
    pass.dispatch(&BEGIN, Params { rows: rows as u32, stride: x.stride as u32 }, [x], [h, e, out, state])
}
