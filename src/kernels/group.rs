//! Sorts (row, slot) pairs by expert and cuts them into tiles, on the device
//!
//! ids: (rows, K) → tiles: (tiles, 4) of (expert, first place in `order`, pairs, 0) and order: (rows · K, 1), the pairs r · K + k
//! expert by expert. A tile holds pairs of one expert only; there are at most ⌈rows · K / tile⌉ + experts of them, and those past
//! the last one hold 0 pairs, so that the grid of what follows is known without a read-back.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, u32s, words, words_mut};
use crate::kernels::{MAX_EXPERTS, expect_room};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters.
    Params { rows: u32, k: u32, k_stride: u32, experts: u32, tile: u32, tiles: u32 }
}

/// The kernel.
pub const GROUP: Kernel<Params, 1, 2> = Kernel {
    name: "group",
    body: include_str!("../../shaders/group.wgsl"),
    links: &[Link::Gate],
    reads: [u32s("ids")],
    writes: [u32s("tiles"), u32s("order")],
    grid: |_, _| [1, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [ids]: [&[f32]; 1], [tiles, order]: [&mut [f32]; 2]) {
    let (ids, tiles, order) = (words(ids), words_mut(tiles), words_mut(order));
    tiles[..4 * p.tiles as usize].fill(0);
    let (mut tile, mut next) = (0, 0);
    for expert in 0..p.experts {
        let first = next;
        for row in 0..p.rows {
            for slot in 0..p.k {
                if ids[(row * p.k_stride + slot) as usize] == expert {
                    order[next] = row * p.k + slot;
                    next += 1;
                }
            }
        }
        for start in (first..next).step_by(p.tile as usize) {
            let pairs = (next - start).min(p.tile as usize);
            tiles[4 * tile..][..4].copy_from_slice(&[expert, start as u32, pairs as u32, 0]);
            tile += 1;
        }
    }
}

/// The most tiles that `pairs` pairs of `experts` experts can make.
pub fn most_tiles(pairs: usize, experts: usize, tile: usize) -> usize {
    pairs.div_ceil(tile) + experts
}

/// Records the grouping of `rows` rows. `order` has a row of one word a pair, padded like every tensor: it is given as one long
/// row instead, `(1, rows · K)`.
pub fn group(pass: &mut Pass, ids: &Tensor, experts: usize, tile: usize, tiles: &Tensor, order: &Tensor, rows: usize) -> Result<()> {
    let pairs = rows * ids.cols;
    expect_room("group", "experts at most", experts, MAX_EXPERTS)?;
    expect_room("group", "rows of tiles", most_tiles(pairs, experts, tile), tiles.rows)?;
    expect_room("group", "columns of order", pairs, order.cols)?;
    let params = Params {
        rows: rows as u32,
        k: ids.cols as u32,
        k_stride: ids.stride as u32,
        experts: experts as u32,
        tile: tile as u32,
        tiles: most_tiles(pairs, experts, tile) as u32,
    };
    pass.dispatch(&GROUP, params, [ids], [tiles, order])
}
