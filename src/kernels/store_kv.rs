//! Grouped-query keys and values into the cache: cache\[slot, sequence, position\] = \[RoPE(k) | v\]
//!
//! k and v: heads · d columns each of the rows of x; a cached row has 2 · heads · d columns.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s};
use crate::kernels::rope::turn;
use crate::kernels::{CacheTensor, RowList, Slot, expect, expect_room, row_info, slot_in_part};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters of one part of the cache, which holds slots `first_slot..first_slot + slots`.
    Params {
        rows: u32, list: u32, heads: u32, pairs: u32, x_stride: u32, k_start: u32, v_start: u32,
        slot: u32, per_loop: u32, first_slot: u32, slots: u32, sequences: u32, context: u32, cache_stride: u32,
    }
}

/// The kernel.
pub const STORE_KV: Kernel<Params, 3, 1> = Kernel {
    name: "store_kv",
    body: include_str!("../../shaders/store_kv.wgsl"),
    links: &[Link::Gate, Link::RopeTurn, Link::Cache],
    reads: [u32s("list"), f32s("angles"), f32s("x")],
    writes: [f32s("cache")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [list, angles, x]: [&[f32]; 3], [cache]: [&mut [f32]; 1]) {
    let (d, width) = (2 * p.pairs as usize, (2 * p.heads * p.pairs) as usize);
    for row in 0..p.rows as usize {
        let info = row_info(list, p.list + row as u32);
        let Some(slot) = slot_in_part(p.slot, p.per_loop, p.first_slot, p.slots, info.at_loop) else { continue };
        let Some(at) = info.at(p.sequences, p.context) else { continue };
        let at = slot * p.sequences as usize * p.context as usize + at;
        let (keys, values) = cache[at * p.cache_stride as usize..][..2 * width].split_at_mut(width);
        let x = &x[row * p.x_stride as usize..];
        for (k, key) in x[p.k_start as usize..][..width].chunks_exact(d).zip(keys.chunks_exact_mut(d)) {
            turn(k, angles, info.position, key);
        }
        values.copy_from_slice(&x[p.v_start as usize..][..width]);
    }
}

/// Records the store of `heads` keys from column `k_start` and values from column `v_start` of x.
#[allow(clippy::too_many_arguments)]
pub fn store_kv(
    pass: &mut Pass,
    list: RowList,
    angles: &Tensor,
    heads: usize,
    x: &Tensor,
    (k_start, v_start): (usize, usize),
    cache: &CacheTensor,
    slot: Slot,
) -> Result<()> {
    let width = heads * angles.cols;
    expect("store_kv", "columns of the cache", 2 * width, cache.rows.cols)?;
    expect_room("store_kv", "columns of x", k_start.max(v_start) + width, x.cols)?;
    expect_room("store_kv", "rows of x", list.rows, x.rows)?;
    for part in cache.parts(slot) {
        let params = Params {
            rows: list.rows as u32,
            list: list.first as u32,
            heads: heads as u32,
            pairs: (angles.cols / 2) as u32,
            x_stride: x.stride as u32,
            k_start: k_start as u32,
            v_start: v_start as u32,
            slot: part.slot,
            per_loop: part.per_loop,
            first_slot: part.first_slot,
            slots: part.slots,
            sequences: cache.sequences as u32,
            context: cache.context as u32,
            cache_stride: part.tensor.stride as u32,
        };
        pass.dispatch(&STORE_KV, params, [&list.table, angles, x], [part.tensor])?;
    }
    Ok(())
}
