//! Before the first loop of a token: h = e = x, out = 0
//!
//! x: (rows, dim). h, e: (sequences · context, dim), a state for every cached position. out: (places, dim), a row for every token
//! in flight. A row that names no sequence, position or place of these leaves them alone.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s};
use crate::kernels::{RowList, States, expect, expect_room, row_info};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, list: u32, stride: u32, sequences: u32, context: u32, places: u32 }
}

/// The kernel.
pub const BEGIN: Kernel<Params, 2, 3> = Kernel {
    name: "begin",
    body: include_str!("../../shaders/begin.wgsl"),
    links: &[Link::State],
    reads: [u32s("list"), f32s("x")],
    writes: [f32s("h"), f32s("e"), f32s("out")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [list, x]: [&[f32]; 2], [h, e, out]: [&mut [f32]; 3]) {
    let stride = p.stride as usize;
    for (row, x) in x.chunks_exact(stride).take(p.rows as usize).enumerate() {
        let info = row_info(list, p.list + row as u32);
        if let Some(state) = info.at(p.sequences, p.context) {
            h[state * stride..][..stride].copy_from_slice(x);
            e[state * stride..][..stride].copy_from_slice(x);
        }
        if info.source < p.places as usize {
            out[info.source * stride..][..stride].fill(0.0);
        }
    }
}

/// Records the start of the listed tokens; a row's source is its place in `out`.
pub fn begin(pass: &mut Pass, list: RowList, x: &Tensor, states: &States, out: &Tensor) -> Result<()> {
    for tensor in [&states.h, &states.e, out] {
        expect("begin", "columns", x.cols, tensor.cols)?;
    }
    expect_room("begin", "rows of x", list.rows, x.rows)?;
    let params = Params {
        rows: list.rows as u32,
        list: list.first as u32,
        stride: x.stride as u32,
        sequences: states.sequences() as u32,
        context: states.context as u32,
        places: out.rows as u32,
    };
    pass.dispatch(&BEGIN, params, [&list.table, x], [&states.h, &states.e, out])
}
