//! Causal attention over the cache: y\[r, h\] = Σ_j softmax_j(q\[r, h\] · k\[j\] / √d) · v\[j\],  j ≤ position(r)
//!
//! One kernel for both kinds, since keys and values are only spans of the cached rows:
//! - grouped-query (Ainslie et al. 2023): a cached row is \[k of every key/value head | v of every head\], head h reads
//!   key/value head ⌊h / group⌋;
//! - latent, absorbed (DeepSeek-V2, 2024): a cached row is \[c̄ | RoPE(r)\]; all heads read the whole of it as key and c̄ as value.
//!
//! Softmax is computed online (Milakov & Gimelshein 2018): a running maximum and sum, one pass over the cache.
//! q: (rows, heads · key_dim), y: (rows, heads, value_dim).

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Tier, Twin, f32s, u32s};
use crate::kernels::product::{Rows, mix, product};
use crate::kernels::{CacheTensor, RowInfo, RowList, Slot, expect_room, row_info, slot_in_part};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters of one part of the cache, which holds slots `first_slot..first_slot + slots`.
    Params {
        rows: u32, list: u32, heads: u32, group: u32,
        key_dim: u32, key_step: u32, value_dim: u32, value_start: u32, value_step: u32,
        q_stride: u32, y_stride: u32, y_head: u32,
        slot: u32, per_loop: u32, first_slot: u32, slots: u32, sequences: u32, context: u32, cache_stride: u32,
        scale: f32,
    }
}

/// The widest key that the shader's shared memory holds.
pub const MAX_KEY: usize = 1216;
/// The widest value.
pub const MAX_VALUE: usize = 1024;

/// The kernel.
pub const ATTENTION: Kernel<Params, 3, 1> = Kernel {
    name: "attention",
    body: include_str!("../../shaders/attention.wgsl"),
    links: &[Link::Gate, Link::Reduce, Link::Cache],
    reads: [u32s("list"), f32s("q"), f32s("cache")],
    writes: [f32s("y")],
    grid: |p, _| [p.rows as usize, p.heads as usize, 1],
    twin: Twin::Plain(twin),
};

/// Rows whose queries meet the keys in one product, at most: their scores should stay in a cache.
const TOGETHER: usize = 16;

/// All heads of a group read the same keys and values, and so do rows of one sequence at one loop: a product of their queries with the
/// keys, softmax over the positions up to each row's own, a product with the values.
fn twin(p: &Params, [list, q, cache]: [&[f32]; 3], [y]: [&mut [f32]; 1]) {
    let (key_dim, value_dim, group) = (p.key_dim as usize, p.value_dim as usize, p.group as usize);
    let rows: Vec<RowInfo> = (0..p.rows).map(|row| row_info(list, p.list + row)).collect();
    let (mut first, mut queries, mut weights, mut means) = (0, Vec::new(), Vec::new(), Vec::new());
    for rows in rows.chunk_by(|a, b| (a.sequence, a.at_loop) == (b.sequence, b.at_loop)).flat_map(|rows| rows.chunks(TOGETHER)) {
        let of = first..first + rows.len();
        first = of.end;
        let Some(slot) = slot_in_part(p.slot, p.per_loop, p.first_slot, p.slots, rows[0].at_loop) else { continue };
        let start = (slot * p.sequences as usize + rows[0].sequence) * p.context as usize * p.cache_stride as usize;
        let positions = |row: &RowInfo| (row.position + 1).min(p.context as usize);
        let longest = rows.iter().map(positions).max().unwrap_or(0);
        let every = |start, stride| Rows { start, stride };
        for shared in 0..p.heads as usize / group {
            queries.clear();
            for row in of.clone() {
                queries.extend_from_slice(&q[row * p.q_stride as usize + shared * group * key_dim..][..group * key_dim]);
            }
            let count = rows.len() * group;
            let keys = every(start + shared * p.key_step as usize, p.cache_stride as usize);
            let values = every(start + p.value_start as usize + shared * p.value_step as usize, p.cache_stride as usize);
            weights.resize(count * longest, 0.0);
            product((count, key_dim, longest), (&queries, every(0, key_dim)), (cache, keys), (&mut weights, every(0, longest)), false);
            for (i, weights) in weights.chunks_exact_mut(longest).enumerate() {
                let (seen, later) = weights.split_at_mut(positions(&rows[i / group]));
                softmax(seen, p.scale);
                later.fill(0.0);
            }
            means.resize(count * value_dim, 0.0);
            mix((count, longest, value_dim), (&weights, every(0, longest)), (cache, values), (&mut means, every(0, value_dim)));
            for (i, mean) in means.chunks_exact(value_dim).enumerate() {
                let (row, head) = (of.start + i / group, shared * group + i % group);
                y[row * p.y_stride as usize + head * p.y_head as usize..][..value_dim].copy_from_slice(mean);
            }
        }
    }
}

/// softmax(scale · x) in place.
fn softmax(x: &mut [f32], scale: f32) {
    let largest = x.iter().map(|x| x * scale).fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = (*x * scale - largest).exp());
    let total: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= total);
}

/// Rounds of the shader's loops over so many positions: what a driver that limits them must allow.
pub fn rounds(key_dim: usize, value_dim: usize, positions: usize, tier: &Tier) -> usize {
    let threads = tier.workgroup as usize;
    let (keys, values) = (key_dim / 4 + 3, value_dim.div_ceil(threads) * (threads / 4 + 4));
    let reductions = 2 * threads.ilog2() as usize;
    positions.div_ceil(threads) * (1 + keys + values + reductions) + (key_dim + value_dim).div_ceil(threads) + 4
}

/// Which spans of a cached row are keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Query heads that share a key/value head.
    pub group: usize,
    /// Columns of a key.
    pub key_dim: usize,
    /// Columns from one key head to the next.
    pub key_step: usize,
    /// Columns of a value.
    pub value_dim: usize,
    /// Column of the first value head.
    pub value_start: usize,
    /// Columns from one value head to the next.
    pub value_step: usize,
    /// Factor of the scores: (query head size)^(−1/2).
    pub scale: f32,
}

/// Records attention of the listed rows; head h of y starts at column `h · y_head`.
pub fn attention(
    pass: &mut Pass,
    list: RowList,
    heads: Heads,
    q: &Tensor,
    cache: &CacheTensor,
    slot: Slot,
    (y, y_head): (&Tensor, usize),
) -> Result<()> {
    expect_room("attention", "key columns", heads.key_dim, MAX_KEY)?;
    expect_room("attention", "value columns", heads.value_dim, MAX_VALUE)?;
    expect_room("attention", "columns of q", heads.heads * heads.key_dim, q.cols)?;
    expect_room("attention", "columns of y", (heads.heads - 1) * y_head + heads.value_dim, y.cols)?;
    expect_room("attention", "rows of q and y", list.rows, q.rows.min(y.rows))?;
    for part in cache.parts(slot) {
        let params = Params {
            rows: list.rows as u32,
            list: list.first as u32,
            heads: heads.heads as u32,
            group: heads.group as u32,
            key_dim: heads.key_dim as u32,
            key_step: heads.key_step as u32,
            value_dim: heads.value_dim as u32,
            value_start: heads.value_start as u32,
            value_step: heads.value_step as u32,
            q_stride: q.stride as u32,
            y_stride: y.stride as u32,
            y_head: y_head as u32,
            slot: part.slot,
            per_loop: part.per_loop,
            first_slot: part.first_slot,
            slots: part.slots,
            sequences: cache.sequences as u32,
            context: cache.context as u32,
            cache_stride: part.tensor.stride as u32,
            scale: heads.scale,
        };
        pass.dispatch(&ATTENTION, params, [&list.table, q, part.tensor], [y])?;
    }
    Ok(())
}
