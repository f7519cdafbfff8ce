//! Expert matrices for many rows: y\[r, k\] = W\[ids\[r, k\]\] · x\[r, k\], tile by tile of one expert's pairs (see [`group`](super::group))
//!
//! The same product as [`experts`](super::experts), with the weights of an expert read once a tile instead of once a row.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s, weights, words};
use crate::kernels::expect_room;
use crate::kernels::experts::{Work, shapes};
use crate::kernels::group::most_tiles;
use crate::kernels::product::Weights;
use crate::params;
use crate::precision::Precision;
use crate::tensor::{Matrix, Tensor};

params! {
    /// Parameters of one part of W, which holds experts `first..first + count`. `ins`, `w_stride`, `x_stride` and `x_step` count
    /// `vec4`s.
    Params {
        rows: u32, k: u32, ins: u32, outs: u32, w_stride: u32,
        x_stride: u32, x_step: u32, y_stride: u32,
        first: u32, count: u32, tiles: u32,
    }
}

/// The kernel.
pub const EXPERTS_GROUPED: Kernel<Params, 5, 1> = Kernel {
    name: "experts_grouped",
    body: include_str!("../../shaders/experts_grouped.wgsl"),
    links: &[Link::Gate, Link::Weight, Link::Tile],
    reads: [weights("w"), u32s("scales"), f32s("x"), u32s("tiles"), u32s("order")],
    writes: [f32s("y")],
    grid: |p, tier| [(p.outs as usize).div_ceil(tier.tile()), p.tiles as usize, 1],
    twin: Twin::Weights(twin),
};

fn twin(p: &Params, precision: Precision, [data, scales, x, tiles, order]: [&[f32]; 5], [y]: [&mut [f32]; 1]) {
    let w = Weights { precision, data, scales, stride: 4 * p.w_stride as usize, first: 0 };
    let (ins, outs, k) = (4 * p.ins as usize, p.outs as usize, p.k as usize);
    let from = |pair: usize| 4 * (pair / k * p.x_stride as usize + pair % k * p.x_step as usize);
    let mut work = Work::default();
    for tile in words(tiles).chunks_exact(4).take(p.tiles as usize).filter(|tile| tile[2] > 0) {
        let pairs = &words(order)[tile[1] as usize..][..tile[2] as usize];
        let Some(expert) = (tile[0] as usize).checked_sub(p.first as usize).filter(|e| *e < p.count as usize) else { continue };
        work.run(pairs, (ins, outs), (x, from), w.skip_rows(expert * outs), (y, p.y_stride as usize));
    }
}

/// Pairs in tiles, as `group` makes them.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    /// (tiles, 4).
    pub tiles: &'a Tensor,
    /// (1, rows · K).
    pub order: &'a Tensor,
    /// Pairs of a tile at most; the tier's tile.
    pub tile: usize,
}

/// Records the product for `rows` rows with K slots each.
#[allow(clippy::too_many_arguments)]
pub fn experts_grouped(
    pass: &mut Pass,
    w: &Matrix,
    experts: usize,
    x: &Tensor,
    groups: Groups,
    k: usize,
    y: &Tensor,
    rows: usize,
) -> Result<()> {
    let (outs, ins, x_stride, x_step) = shapes("experts_grouped", w, experts, x, y, rows, k)?;
    let tiles = most_tiles(rows * k, experts, groups.tile);
    expect_room("experts_grouped", "rows of tiles", tiles, groups.tiles.rows)?;
    pass.touch(w.bytes(rows.saturating_mul(k).min(experts) * outs));
    for (first, part) in w.parts() {
        let params = Params {
            rows: rows as u32,
            k: k as u32,
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
