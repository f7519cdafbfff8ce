//! Expert matrices for many rows: y\[r, s\] = W x\[r, s\], tile by tile of one expert's (row, slot) pairs (see [`group`](super::group))
//!
//! W: (experts · outs, ins). The weights of an expert are read once a tile, instead of once a row as in [`experts`](super::experts).
//! x\[r, s\] is row r (all slots share it: gate and up) or row r · slots + s (down).

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s, weights, words};
use crate::kernels::experts::{Slots, each_pair};
use crate::kernels::group::most_tiles;
use crate::kernels::product::Weights;
use crate::kernels::{expect, expect_room};
use crate::params;
use crate::precision::Precision;
use crate::tensor::{Matrix, Tensor, stride};

params! {
    /// Parameters of one part of W, which holds experts `first..first + count`. `ins`, `w_stride`, `x_stride` and `x_step` count
    /// `vec4`s.
    Params {
        rows: u32, slots: u32, ins: u32, outs: u32, w_stride: u32,
        x_stride: u32, x_step: u32, y_stride: u32,
        first: u32, count: u32, tiles: u32,
    }
}

/// The kernel.
pub const EXPERTS_GROUPED: Kernel<Params, 5, 1> = Kernel {
    name: "experts_grouped",
    body: include_str!("../../shaders/experts_grouped.wgsl"),
    links: &[Link::Gate, Link::Weight, Link::Reduce, Link::Area],
    reads: [weights("w"), u32s("scales"), f32s("x"), u32s("tiles"), u32s("order")],
    writes: [f32s("y")],
    grid: |p, tier| [(p.outs as usize).div_ceil(tier.area()[0]), p.tiles as usize, 1],
    twin: Twin::Weights(twin),
};

fn twin(p: &Params, precision: Precision, [data, scales, x, tiles, order]: [&[f32]; 5], [y]: [&mut [f32]; 1]) {
    let w = Weights { precision, data, scales, stride: 4 * p.w_stride as usize, first: 0 };
    let (ins, outs, slots) = (4 * p.ins as usize, p.outs as usize, p.slots as usize);
    let x_of = |pair: usize| &x[4 * (pair / slots * p.x_stride as usize + pair % slots * p.x_step as usize)..][..ins];
    let w_of = |expert: u32| w.skip_rows((expert - p.first) as usize * outs);
    let tiles: &[[u32; 4]] = bytemuck::cast_slice(words(tiles));
    let here = tiles[..p.tiles as usize].iter().filter(|[expert, ..]| (p.first..p.first + p.count).contains(expert));
    // Tiles of one expert follow each other.
    let pairs = here
        .flat_map(|&[expert, first, count, _]| words(order)[first as usize..][..count as usize].iter().map(move |pair| (expert, *pair)));
    let pairs: Vec<(u32, u32)> = pairs.collect();
    each_pair(&pairs, (ins, outs), x_of, w_of, |pair, result| {
        y[pair * p.y_stride as usize..][..outs].copy_from_slice(result);
    });
}

/// Pairs in tiles, as `group` makes them.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    /// (tiles, 4).
    pub tiles: &'a Tensor,
    /// (1, rows · slots).
    pub order: &'a Tensor,
    /// Pairs of a tile at most: the rows of the tier's area.
    pub tile: usize,
}

/// Records the product for `rows` rows.
pub fn experts_grouped(pass: &mut Pass, w: &Matrix, slots: &Slots, x: &Tensor, groups: Groups, y: &Tensor, rows: usize) -> Result<()> {
    let name = "experts_grouped";
    let (outs, ins, experts) = (y.cols, stride(w.cols), slots.experts());
    expect(name, "rows of W", experts * outs, w.rows)?;
    expect(name, "columns of W", x.cols, w.cols)?;
    expect_room(name, "rows of y", rows * slots.count(), y.rows)?;
    // x has a row for every slot, or one that all slots share: its capacity says which, as y's does.
    let one = x.rows * slots.count() == y.rows;
    if !one {
        expect(name, "rows of x", y.rows, x.rows)?;
    }
    let (x_stride, x_step) = if one { (x.stride, 0) } else { (slots.count() * x.stride, x.stride) };
    let tiles = most_tiles(rows * slots.count(), experts, groups.tile);
    expect_room(name, "rows of tiles", tiles, groups.tiles.rows)?;
    pass.touch(w.bytes(slots.most(rows) * outs));
    pass.work(4 * rows * slots.count() * (x.cols + outs), 2 * rows * slots.count() * x.cols * outs);
    for (first, part) in w.parts() {
        let params = Params {
            rows: rows as u32,
            slots: slots.count() as u32,
            ins: (ins / 4) as u32,
            outs: outs as u32,
            w_stride: (w.stride() / 4) as u32,
            x_stride: (x_stride / 4) as u32,
            x_step: (x_step / 4) as u32,
            y_stride: y.stride as u32,
            first: (first / outs) as u32,
            count: (part.data.rows / outs) as u32,
            tiles: tiles as u32,
        };
        pass.dispatch(&EXPERTS_GROUPED, params, [&part.data, &part.scales, x, groups.tiles, groups.order], [y])?;
    }
    Ok(())
}
