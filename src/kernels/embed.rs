//! Gather of rows: y\[r\] = table\[source(r)\]        table: (any, cols), y: (rows, cols)

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, f32s, u32s};
use crate::kernels::{RowList, expect, expect_room, row_info};
use crate::params;
use crate::tensor::{Segmented, Tensor};

params! {
    /// Parameters of one part of the table, which holds rows `first..first + count`.
    Params { list: u32, cols: u32, stride: u32, first: u32, count: u32, rows: u32 }
}

/// The kernel.
pub const EMBED: Kernel<Params, 2, 1> = Kernel {
    name: "embed",
    body: include_str!("../../shaders/embed.wgsl"),
    links: &[],
    reads: [f32s("table"), u32s("list")],
    writes: [f32s("y")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin,
};

fn twin(p: &Params, [table, list]: [&[f32]; 2], [y]: [&mut [f32]; 1]) {
    let (cols, stride) = (p.cols as usize, p.stride as usize);
    for row in 0..p.rows as usize {
        let source = row_info(list, p.list + row as u32).source;
        let Some(at) = source.checked_sub(p.first as usize).filter(|at| *at < p.count as usize) else { continue };
        y[row * stride..][..cols].copy_from_slice(&table[at * stride..][..cols]);
    }
}

/// Records the gather of the rows' sources.
pub fn embed(pass: &mut Pass, table: &Segmented, list: RowList, y: &Tensor) -> Result<()> {
    expect("embed", "columns of y", table.cols, y.cols)?;
    expect_room("embed", "rows of y", list.rows, y.rows)?;
    for (first, part) in table.parts() {
        let params = Params {
            list: list.first as u32,
            cols: y.cols as u32,
            stride: y.stride as u32,
            first: first as u32,
            count: part.rows as u32,
            rows: list.rows as u32,
        };
        pass.dispatch(&EMBED, params, [part, &list.table], [y])?;
    }
    Ok(())
}
