//! The latents of multi-head latent attention (DeepSeek-V2, 2024), those of keys and values into the cache:
//!
//! - cache\[slot, sequence, position\] = \[RMSNorm(c) · gain | RoPE(r)\]
//! - c_q = RMSNorm(q) · q_gain
//!
//! x: (rows, \[q | c | r\]) of q_lora_rank, kv_lora_rank and rope columns; c_q: (rows, q_lora_rank). Nothing else of a token is cached,
//! whatever the number of heads.

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
        rows: u32, list: u32, rank: u32, pairs: u32, q_rank: u32, x_stride: u32, q_stride: u32,
        slot: u32, per_loop: u32, first_slot: u32, slots: u32, sequences: u32, context: u32, cache_stride: u32,
        eps: f32,
    }
}

/// The kernel.
pub const STORE_LATENT: Kernel<Params, 5, 2> = Kernel {
    name: "store_latent",
    body: include_str!("../../shaders/store_latent.wgsl"),
    links: &[Link::Gate, Link::Reduce, Link::RopeTurn, Link::Cache],
    reads: [u32s("list"), f32s("angles"), f32s("x"), f32s("gain"), f32s("q_gain")],
    writes: [f32s("cache"), f32s("c_q")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [list, angles, x, gain, q_gain]: [&[f32]; 5], [cache, c_q]: [&mut [f32]; 2]) {
    let (q_rank, rank, d) = (p.q_rank as usize, p.rank as usize, 2 * p.pairs as usize);
    for row in 0..p.rows as usize {
        let info = row_info(list, p.list + row as u32);
        let (q, c_r) = x[row * p.x_stride as usize..][..q_rank + rank + d].split_at(q_rank);
        normalise(q, q_gain, p.eps, &mut c_q[row * p.q_stride as usize..][..q_rank]);
        let Some(slot) = slot_in_part(p.slot, p.per_loop, p.first_slot, p.slots, info.at_loop) else { continue };
        let Some(at) = info.at(p.sequences, p.context) else { continue };
        let at = slot * p.sequences as usize * p.context as usize + at;
        let (latent, key) = cache[at * p.cache_stride as usize..][..rank + d].split_at_mut(rank);
        let (c, r) = c_r.split_at(rank);
        normalise(c, gain, p.eps, latent);
        turn(r, angles, info.position, key);
    }
}

/// The norms of both latents.
#[derive(Clone, Copy, Debug)]
pub struct Gains<'a> {
    /// Of keys and values: (1, kv_lora_rank).
    pub kv: &'a Tensor,
    /// Of queries: (1, q_lora_rank).
    pub q: &'a Tensor,
}

/// Records the norms and the store. Where the cache is in several parts, every part's dispatch writes c_q anew.
#[allow(clippy::too_many_arguments)]
pub fn store_latent(
    pass: &mut Pass,
    list: RowList,
    angles: &Tensor,
    x: &Tensor,
    gains: Gains,
    cache: &CacheTensor,
    slot: Slot,
    c_q: &Tensor,
) -> Result<()> {
    let (q_rank, rank, d) = (gains.q.cols, gains.kv.cols, angles.cols);
    expect("store_latent", "columns of the cache", rank + d, cache.rows.cols)?;
    expect("store_latent", "columns of x", q_rank + rank + d, x.cols)?;
    expect("store_latent", "columns of c_q", q_rank, c_q.cols)?;
    expect_room("store_latent", "rows of x and c_q", list.rows, x.rows.min(c_q.rows))?;
    for part in cache.parts(slot) {
        let params = Params {
            rows: list.rows as u32,
            list: list.first as u32,
            rank: rank as u32,
            pairs: (d / 2) as u32,
            q_rank: q_rank as u32,
            x_stride: x.stride as u32,
            q_stride: c_q.stride as u32,
            slot: part.slot,
            per_loop: part.per_loop,
            first_slot: part.first_slot,
            slots: part.slots,
            sequences: cache.sequences as u32,
            context: cache.context as u32,
            cache_stride: part.tensor.stride as u32,
            eps: EPS,
        };
        pass.dispatch(&STORE_LATENT, params, [&list.table, angles, x, gains.kv, gains.q], [part.tensor, c_q])?;
    }
    Ok(())
}
