//! Causal attention over the cache: y\[r, h\] = Σ_j softmax_j(q\[r, h\] · k\[j\] / √d) · v\[j\],  j ≤ position(r)
//!
//! One kernel for both kinds, since keys and values are only spans of the cached rows:
//! - grouped-query (Ainslie et al. 2023): a cached row is \[k of every key/value head | v of every head\], head h reads
//!   key/value head ⌊h / group⌋;
//! - latent, absorbed (DeepSeek-V2, 2024): a cached row is \[c̄ | RoPE(r)\]; all heads read the whole of it as key and c̄ as value.
//!
//! A query is \[q | RoPE(turned)\]: grouped-query heads are turned as a whole, latent ones in their last columns.
//! q: (rows, heads · plain), turned: (rows, heads · rope), y: (rows, heads, value_dim).
//!
//! Softmax is computed online (Milakov & Gimelshein 2018): a running maximum and sum, one pass over the cache. Where few rows look back
//! on many positions these are shared out in [`Spans`], each with its own softmax, which [a second kernel](super::attention_merge) puts
//! together (Dao et al. 2023, Flash-Decoding).

use crate::backend::Pass;
use crate::error::Result;
use crate::kernel::{Kernel, Link, Tier, Twin, f32s, u32s};
use crate::kernels::attention_merge::attention_merge;
use crate::kernels::linear::FEW_ROWS;
use crate::kernels::product::{Rows, mix, product};
use crate::kernels::rope::turn;
use crate::kernels::{CacheTensor, RowInfo, RowList, Slot, expect, expect_room, row_info, slot_in_part};
use crate::params;
use crate::tensor::{Tensor, stride};

params! {
    /// Parameters of one part of the cache, which holds slots `first_slot..first_slot + slots`.
    Params {
        rows: u32, list: u32, heads: u32, group: u32, at_once: u32,
        plain: u32, pairs: u32, key_step: u32, value_dim: u32, value_start: u32, value_step: u32,
        q_stride: u32, turned_stride: u32, turned_start: u32, y_stride: u32, y_head: u32, y_span: u32, span: u32, spans: u32,
        slot: u32, per_loop: u32, first_slot: u32, slots: u32, sequences: u32, context: u32, cache_stride: u32,
        scale: f32,
    }
}

/// The widest key that the tests try: wide enough for every published size (1024 + 64).
pub const MAX_KEY: usize = 1216;
/// The widest value.
pub const MAX_VALUE: usize = 1024;

/// The kernel.
pub const ATTENTION: Kernel<Params, 5, 1> = Kernel {
    name: "attention",
    body: include_str!("../../shaders/attention.wgsl"),
    links: &[Link::Gate, Link::Reduce, Link::Reduce8, Link::Eight, Link::RopeTurn, Link::Cache],
    reads: [u32s("list"), f32s("angles"), f32s("q"), f32s("turned"), f32s("cache")],
    writes: [f32s("y")],
    grid: |p, _| [p.rows as usize, (p.heads / p.group * p.group.div_ceil(p.at_once)) as usize, p.spans as usize],
    twin: Twin::Plain(twin),
};

/// Queries that a workgroup of the shader takes at once.
const QUERIES: usize = 8;
/// Positions that it takes at once.
const BLOCK: usize = 64;
/// `vec4`s of a query that its shared memory holds.
const COLUMNS: usize = 72;

/// Rows whose queries meet the keys in one product, at most: their scores should stay in a cache.
const TOGETHER: usize = 16;

/// All heads of a group read the same keys and values, and so do rows of one sequence at one loop: a product of their queries with the
/// keys, softmax over the positions up to each row's own, a product with the values.
fn twin(p: &Params, [list, angles, q, turned, cache]: [&[f32]; 5], [y]: [&mut [f32]; 1]) {
    let (plain, rope, group) = (p.plain as usize, 2 * p.pairs as usize, p.group as usize);
    let (key_dim, value_dim) = (plain + rope, p.value_dim as usize);
    let all: Vec<RowInfo> = (0..p.rows).map(|row| row_info(list, p.list + row)).collect();
    let (mut first, mut queries, mut weights, mut means) = (0, Vec::new(), Vec::new(), Vec::new());
    for rows in all.chunk_by(|a, b| (a.sequence, a.at_loop) == (b.sequence, b.at_loop)).flat_map(|rows| rows.chunks(TOGETHER)) {
        let of = first..first + rows.len();
        first = of.end;
        let Some(slot) = slot_in_part(p.slot, p.per_loop, p.first_slot, p.slots, rows[0].at_loop) else { continue };
        if rows[0].sequence >= p.sequences as usize {
            continue;
        }
        let start = (slot * p.sequences as usize + rows[0].sequence) * p.context as usize * p.cache_stride as usize;
        let every = |start, stride| Rows { start, stride };
        for (shared, span) in (0..p.heads as usize / group).flat_map(|shared| (0..p.spans as usize).map(move |span| (shared, span))) {
            let from = span * p.span as usize;
            // Positions of the span that a row sees: none from a position outside of the cache.
            let end = |row: &RowInfo| row.at(p.sequences, p.context).map_or(0, |_| row.position + 1);
            let seen = |row: &RowInfo| end(row).saturating_sub(from).min(p.span as usize);
            let longest = rows.iter().map(seen).max().unwrap_or(0);
            queries.clear();
            for (row, info) in of.clone().zip(rows) {
                for head in shared * group..(shared + 1) * group {
                    queries.extend_from_slice(&q[row * p.q_stride as usize + head * plain..][..plain]);
                    let pairs = &turned[row * p.turned_stride as usize + p.turned_start as usize + head * rope..][..rope];
                    let at = queries.len();
                    queries.resize(at + rope, 0.0);
                    if info.position < p.context as usize {
                        turn(pairs, angles, info.position, &mut queries[at..]);
                    }
                }
            }
            let count = rows.len() * group;
            let start = start + from * p.cache_stride as usize;
            let keys = every(start + shared * p.key_step as usize, p.cache_stride as usize);
            let values = every(start + p.value_start as usize + shared * p.value_step as usize, p.cache_stride as usize);
            weights.resize(count * longest, 0.0);
            product((count, key_dim, longest), (&queries, every(0, key_dim)), (cache, keys), (&mut weights, every(0, longest)), false);
            let mut sums = vec![LOWEST; count];
            for (i, weights) in weights.chunks_exact_mut(longest.max(1)).enumerate() {
                let (seen, later) = weights.split_at_mut(seen(&rows[i / group]));
                sums[i] = softmax(seen, p.scale);
                later.fill(0.0);
            }
            means.clear();
            means.resize(count * value_dim, 0.0);
            mix((count, longest, value_dim), (&weights, every(0, longest)), (cache, values), (&mut means, every(0, value_dim)));
            for (i, mean) in means.chunks_exact(value_dim).enumerate() {
                let (row, head) = (of.start + i / group, shared * group + i % group);
                let to = row * p.y_stride as usize + head * p.y_head as usize + span * p.y_span as usize;
                y[to..][..value_dim].copy_from_slice(mean);
                if p.spans > 1 {
                    y[to + value_dim] = sums[i];
                }
            }
        }
    }
}

/// softmax(scale · x) in place; log Σ e^(scale · x), the lowest number where there is nothing.
fn softmax(x: &mut [f32], scale: f32) -> f32 {
    if x.is_empty() {
        return LOWEST;
    }
    let largest = x.iter().map(|x| x * scale).fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = (*x * scale - largest).exp());
    let total: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= total);
    largest + total.ln()
}

/// As in the shader: below every score, and far from overflow.
const LOWEST: f32 = -3.0e38;

/// Positions that a workgroup looks back on, where not on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spans {
    /// Spans of every row: 1 for all positions at once.
    pub count: usize,
    /// Positions of each.
    pub positions: usize,
}

impl Spans {
    /// All positions in one span.
    pub const ONE: Spans = Spans { count: 1, positions: u32::MAX as usize };
    /// The most of them.
    pub const MOST: usize = 16;

    /// For `rows` rows that look back on up to `positions` positions. Workgroups of eight queries fill a device where there are many rows;
    /// a software GPU is full with a workgroup a core. Rounded to powers of two, so that few plans serve all lengths.
    pub fn of(rows: usize, positions: usize, tier: &Tier) -> Self {
        if rows > FEW_ROWS || tier.lanes == 1 || positions <= Self::SHORT {
            return Self::ONE;
        }
        let all = positions.next_power_of_two();
        let count = (all / Self::SHORT).min(Self::MOST);
        Self { count, positions: all / count }
    }

    /// Positions that one span is for.
    const SHORT: usize = 256;
}

/// Rounds of the shader's loops over so many positions: what a driver that limits them must allow. Short loops count, though a driver may
/// unroll them.
pub fn rounds(key_dim: usize, value_dim: usize, positions: usize, tier: &Tier) -> usize {
    let threads = tier.workgroup as usize;
    let own = BLOCK / threads;
    // Keys and values may start inside of a vec4.
    let [key, value] = [key_dim, value_dim].map(|dim| dim.div_ceil(4) + 1);
    let load = (QUERIES * key).div_ceil(threads) + key.div_ceil(COLUMNS);
    let loads = if key > COLUMNS { positions.div_ceil(BLOCK) } else { 1 };
    let scores = 1 + key.div_ceil(COLUMNS) + key * (1 + own) + 7 * (1 + own);
    let reductions = 2 * (threads.ilog2() as usize + 1);
    let values = value.div_ceil(threads) * (1 + BLOCK / 4 + 4 * QUERIES);
    positions.div_ceil(BLOCK) * (scores + reductions + values) + loads * load + QUERIES
}

/// Which spans of a cached row are keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Query heads that share a key/value head.
    pub group: usize,
    /// First columns of a key that are not turned by position.
    pub plain: usize,
    /// Columns after them that are.
    pub rope: usize,
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

impl Heads {
    /// Columns of a key.
    pub fn key_dim(&self) -> usize {
        self.plain + self.rope
    }

    /// Heads of a group that a workgroup takes at once: as even shares of it as eight queries allow.
    fn at_once(&self) -> usize {
        self.group.div_ceil(self.group.div_ceil(QUERIES))
    }
}

/// Where the queries are.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// (rows, heads · plain); any tensor where nothing is plain.
    pub plain: &'a Tensor,
    /// (rows, …): the columns to be turned, head by head from column `start` on.
    pub turned: &'a Tensor,
    /// See `turned`.
    pub start: usize,
    /// (positions, rope/2, \[cos, sin\]).
    pub angles: &'a Tensor,
}

/// Where the results go: head h of a row to column `h · head` of y.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// (rows, …).
    pub y: &'a Tensor,
    /// Columns from one head to the next.
    pub head: usize,
    /// Memory for spans: see [`span_columns`]. Not used for one.
    pub spans: &'a Tensor,
}

/// Columns of a row of the memory for spans: every head's and span's value and log-sum-exp.
pub fn span_columns(heads: usize, value_dim: usize) -> usize {
    heads * Spans::MOST * stride(value_dim + 1)
}

/// Records attention of the listed rows.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    pass: &mut Pass,
    list: RowList,
    heads: Heads,
    queries: Queries,
    cache: &CacheTensor,
    slot: Slot,
    output: Output,
    spans: Spans,
) -> Result<()> {
    let Queries { plain, turned, start, angles } = queries;
    expect_room("attention", "key columns", heads.key_dim(), MAX_KEY)?;
    expect_room("attention", "value columns", heads.value_dim, MAX_VALUE)?;
    expect_room("attention", "columns of q", heads.heads * heads.plain, plain.cols)?;
    expect_room("attention", "columns of the queries to be turned", start + heads.heads * heads.rope, turned.cols)?;
    expect("attention", "columns of the angles", heads.rope, angles.cols)?;
    expect_room("attention", "columns of y", (heads.heads - 1) * output.head + heads.value_dim, output.y.cols)?;
    expect_room("attention", "rows of q and y", list.rows, plain.rows.min(turned.rows).min(output.y.rows))?;
    let width = stride(heads.value_dim + 1);
    let (y, y_head, y_span) = match spans.count {
        1 => (output.y, output.head, 0),
        count => (output.spans, count * width, width),
    };
    expect_room("attention", "columns for spans", heads.heads * spans.count * y_span, y.cols)?;
    expect_room("attention", "rows for spans", list.rows, y.rows)?;
    for part in cache.parts(slot) {
        let params = Params {
            rows: list.rows as u32,
            list: list.first as u32,
            heads: heads.heads as u32,
            group: heads.group as u32,
            at_once: heads.at_once() as u32,
            plain: heads.plain as u32,
            pairs: (heads.rope / 2) as u32,
            key_step: heads.key_step as u32,
            value_dim: heads.value_dim as u32,
            value_start: heads.value_start as u32,
            value_step: heads.value_step as u32,
            q_stride: plain.stride as u32,
            turned_stride: turned.stride as u32,
            turned_start: start as u32,
            y_stride: y.stride as u32,
            y_head: y_head as u32,
            y_span: y_span as u32,
            span: spans.positions as u32,
            spans: spans.count as u32,
            slot: part.slot,
            per_loop: part.per_loop,
            first_slot: part.first_slot,
            slots: part.slots,
            sequences: cache.sequences as u32,
            context: cache.context as u32,
            cache_stride: part.tensor.stride as u32,
            scale: heads.scale,
        };
        // Only the device knows how far each row looks back.
        pass.work(0, 0);
        pass.dispatch(&ATTENTION, params, [&list.table, angles, plain, turned, part.tensor], [y])?;
    }
    if spans.count > 1 {
        attention_merge(pass, (y, y_head, y_span), spans.count, heads, (output.y, output.head), list.rows)?;
    }
    Ok(())
}
