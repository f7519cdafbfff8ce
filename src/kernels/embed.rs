//! Gather of rows: y\[r\] = table\[source(r)\]        table: (any, cols), y: (rows, cols)

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s, weights};
use crate::kernels::product::Weights;
use crate::kernels::{RowList, expect, expect_room, row_info};
use crate::params;
use crate::precision::Precision;
use crate::tensor::{Matrix, Tensor};

params! {
    /// Parameters of one part of the table, which holds rows `first..first + count`. `cols` and the strides count `vec4`s.
    Params { list: u32, cols: u32, w_stride: u32, y_stride: u32, first: u32, count: u32, rows: u32 }
}

/// The kernel.
pub const EMBED: Kernel<Params, 3, 1> = Kernel {
    name: "embed",
    body: include_str!("../../shaders/embed.wgsl"),
    links: &[Link::Weight],
    reads: [weights("w"), u32s("scales"), u32s("list")],
    writes: [f32s("y")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Weights(twin),
};

fn twin(p: &Params, precision: Precision, [data, scales, list]: [&[f32]; 3], [y]: [&mut [f32]; 1]) {
    let w = Weights { precision, data, scales, stride: 4 * p.w_stride as usize, first: 0 };
    for row in 0..p.rows as usize {
        let source = row_info(list, p.list + row as u32).source;
        let Some(at) = source.checked_sub(p.first as usize).filter(|at| *at < p.count as usize) else { continue };
        w.read(at, &mut y[row * 4 * p.y_stride as usize..][..4 * p.cols as usize]);
    }
}

/// Records the gather of the rows' sources.
pub fn embed(pass: &mut Pass, table: &Matrix, list: RowList, y: &Tensor) -> Result<()> {
    expect("embed", "columns of y", table.cols, y.cols)?;
    expect_room("embed", "rows of y", list.rows, y.rows)?;
    for (first, part) in table.parts() {
        let params = Params {
            list: list.first as u32,
            cols: (y.stride / 4) as u32,
            w_stride: (table.stride() / 4) as u32,
            y_stride: (y.stride / 4) as u32,
            first: first as u32,
            count: part.data.rows as u32,
            rows: list.rows as u32,
        };
        pass.work(table.bytes(list.rows) + 4 * list.rows * y.cols, 0);
        pass.dispatch(&EMBED, params, [&part.data, &part.scales, &list.table], [y])?;
    }
    Ok(())
}
