//! The latent of multi-head latent attention (DeepSeek-V2, 2024) into the cache:
//! cache\[slot, sequence, position\] = \[RMSNorm(c) · gain | RoPE(r)\]
//!
//! c: kv_lora_rank columns of x, r: the rope columns after them. Nothing else of a token is cached, whatever the number of heads.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s};
use crate::kernels::rmsnorm::normalise;
use crate::kernels::rope::turn;
use crate::kernels::{CacheTensor, EPS, RowList, Slot, expect, expect_room, row_info, slot_in_part};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters of one part of the cache, which holds slots `first_slot..first_slot + slots`.
    Params {
        rows: u32, list: u32, rank: u32, pairs: u32, x_stride: u32, x_start: u32,
        slot: u32, per_loop: u32, first_slot: u32, slots: u32, sequences: u32, context: u32, cache_stride: u32,
        eps: f32,
    }
}

/// The kernel.
pub const STORE_LATENT: Kernel<Params, 4, 1> = Kernel {
    name: "store_latent",
    body: include_str!("../../shaders/store_latent.wgsl"),
    links: &[Link::Gate, Link::Reduce, Link::RopeTurn, Link::Cache],
    reads: [u32s("list"), f32s("angles"), f32s("x"), f32s("gain")],
    writes: [f32s("cache")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [list, angles, x, gain]: [&[f32]; 4], [cache]: [&mut [f32]; 1]) {
    let (rank, d) = (p.rank as usize, 2 * p.pairs as usize);
    for row in 0..p.rows as usize {
        let info = row_info(list, p.list + row as u32);
        let Some(slot) = slot_in_part(p.slot, p.per_loop, p.first_slot, p.slots, info.at_loop) else { continue };
        if info.sequence >= p.sequences as usize || info.position >= p.context as usize {
            continue;
        }
        let at = (slot * p.sequences as usize + info.sequence) * p.context as usize + info.position;
        let (latent, key) = cache[at * p.cache_stride as usize..][..rank + d].split_at_mut(rank);
        let (c, r) = x[row * p.x_stride as usize + p.x_start as usize..][..rank + d].split_at(rank);
        normalise(c, gain, p.eps, latent);
        turn(r, angles, info.position, key);
    }
}

/// Records the store of \[c | r\] from column `x_start` of x.
#[allow(clippy::too_many_arguments)]
pub fn store_latent(
    pass: &mut Pass,
    list: RowList,
    angles: &Tensor,
    x: &Tensor,
    x_start: usize,
    gain: &Tensor,
    cache: &CacheTensor,
    slot: Slot,
) -> Result<()> {
    let (rank, d) = (gain.cols, angles.cols);
    expect("store_latent", "columns of the cache", rank + d, cache.rows.cols)?;
    expect_room("store_latent", "columns of x", x_start + rank + d, x.cols)?;
    expect_room("store_latent", "rows of x", list.rows, x.rows)?;
    for part in cache.parts(slot) {
        let params = Params {
            rows: list.rows as u32,
            list: list.first as u32,
            rank: rank as u32,
            pairs: (d / 2) as u32,
            x_stride: x.stride as u32,
            x_start: x_start as u32,
            slot: part.slot,
            per_loop: part.per_loop,
            first_slot: part.first_slot,
            slots: part.slots,
            sequences: cache.sequences as u32,
            context: cache.context as u32,
            cache_stride: part.tensor.stride as u32,
            eps: EPS,
        };
        pass.dispatch(&STORE_LATENT, params, [&list.table, angles, x, gain], [part.tensor])?;
    }
    Ok(())
}
