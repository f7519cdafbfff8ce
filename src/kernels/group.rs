//! Sorts (row, slot) pairs by expert and cuts them into tiles, on the device
//!
//! ids: (rows, K) → tiles: (tiles, 4) of (expert, first place in `order`, pairs, 0) and order: (1, rows · slots), the pairs r · slots + s
//! expert by expert; a shared expert has a slot of every row. A tile holds pairs of one expert only; there are at most
//! ⌈rows · slots / tile⌉ + experts of them, and those past the last one hold 0 pairs, so that the grid of what follows is known without
//! a read-back.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, u32s, words, words_mut};
use crate::kernels::experts::Slots;
use crate::kernels::experts_grouped::Groups;
use crate::kernels::{MAX_EXPERTS, expect_room};
use crate::params;

params! {
    /// Parameters.
    Params { rows: u32, k: u32, k_stride: u32, experts: u32, routed: u32, tile: u32, tiles: u32 }
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
    let slots = p.k + p.experts - p.routed;
    for expert in 0..p.experts {
        let first = next;
        for row in 0..p.rows {
            let own = match expert < p.routed {
                true => 0..p.k,
                false => p.k + expert - p.routed..p.k + expert - p.routed + 1,
            };
            for slot in own.filter(|slot| expert >= p.routed || ids[(row * p.k_stride + slot) as usize] == expert) {
                order[next] = row * slots + slot;
                next += 1;
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

/// Records the grouping of `rows` rows.
pub fn group(pass: &mut Pass, slots: &Slots, groups: Groups, rows: usize) -> Result<()> {
    let (pairs, experts) = (rows * slots.count(), slots.experts());
    let Groups { tiles, order, tile } = groups;
    expect_room("group", "experts at most", experts, MAX_EXPERTS)?;
    expect_room("group", "rows of tiles", most_tiles(pairs, experts, tile), tiles.rows)?;
    expect_room("group", "columns of order", pairs, order.cols)?;
    let params = Params {
        rows: rows as u32,
        k: slots.ids.cols as u32,
        k_stride: slots.ids.stride as u32,
        experts: experts as u32,
        routed: slots.routed as u32,
        tile: tile as u32,
        tiles: most_tiles(pairs, experts, tile) as u32,
    };
    pass.dispatch(&GROUP, params, [&slots.ids], [tiles, order])
}
