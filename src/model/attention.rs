//! The two kinds of attention. Both write what they cache of a row, then attend over what is cached, their own row included.
//!
//! Grouped-query (GQA): `[q | k | v] = W x`, RoPE on q and k, a key/value head serves several query heads.
//!
//! Latent (MLA), absorbed: with c̄ = RMSNorm(c) and kv_up = \[W_uk | W_uv\] per head,
//! `q_nopeᵀ (W_uk c̄) = (W_ukᵀ q_nope)ᵀ c̄` and `Σ a (W_uv c̄) = W_uv (Σ a c̄)`, so that keys and values are never expanded: the
//! cache holds \[c̄ | RoPE(r)\], a head's query is \[W_ukᵀ q_nope | RoPE(q_rope)\], its value is c̄.

use crate::backend::{Backend, Pass};
use crate::error::Result;
use crate::kernels::attention::{Heads, Output, Queries, Spans, attention, span_columns};
use crate::kernels::linear::{Columns, FEW_ROWS, Into, PerHead, linear};
use crate::kernels::store_kv::store_kv;
use crate::kernels::store_latent::{Gains, store_latent};
use crate::kernels::transposed::transposed;
use crate::kernels::{CacheTensor, RowList, Slot};
use crate::model::config::{self, Config};
use crate::model::loader::Loader;
use crate::tensor::{Dtype, Matrix, Tensor, stride};

/// One attention layer: weights, sizes, and the work tensors that it shares with the other layers.
pub(crate) enum Attention {
    Gqa(Box<Gqa>),
    Mla(Box<Mla>),
}

/// Grouped-query attention.
pub(crate) struct Gqa {
    /// \[wq; wk; wv\]: ((heads + 2 · key/value heads) · head size, dim).
    qkv: Matrix,
    wo: Matrix,
    heads: Heads,
    work: GqaWork,
}

/// Latent attention.
pub(crate) struct Mla {
    /// \[q_down; kv_down\]: (q_lora + kv_lora + rope, dim).
    down: Matrix,
    q_norm: Tensor,
    /// \[q_up_nope; q_up_rope\]: (heads · nope + heads · rope, q_lora).
    q_up: Matrix,
    kv_norm: Tensor,
    /// \[W_uk; W_uv\] a head: (heads · (nope + v), kv_lora).
    kv_up: Matrix,
    wo: Matrix,
    heads: Heads,
    nope: usize,
    v: usize,
    work: MlaWork,
}

/// Work tensors of grouped-query attention.
#[derive(Clone, Copy)]
pub(crate) struct GqaWork {
    qkv: Tensor,
    y: Tensor,
    spans: Tensor,
}

/// Work tensors of latent attention.
#[derive(Clone, Copy)]
pub(crate) struct MlaWork {
    down: Tensor,
    c_q: Tensor,
    q_up: Tensor,
    q: Tensor,
    context: Tensor,
    y: Tensor,
    spans: Tensor,
}

/// The work tensors of whichever kind the model has.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    Gqa(GqaWork),
    Mla(MlaWork),
}

impl Work {
    /// Columns of each work tensor, named; the last is for few rows only.
    fn widths(config: &Config) -> Vec<(&'static str, usize)> {
        let h = config.n_heads;
        match config.attention {
            config::Attention::Gqa { n_kv_heads, head_dim } => vec![
                ("qkv", (h + 2 * n_kv_heads) * head_dim),
                ("attention output", h * head_dim),
                ("spans of attention", span_columns(h, head_dim)),
            ],
            config::Attention::Mla { kv_lora_rank, q_lora_rank, rope, nope, v } => vec![
                ("latents", q_lora_rank + kv_lora_rank + rope),
                ("query latents", q_lora_rank),
                ("queries", h * (nope + rope)),
                ("absorbed queries", h * kv_lora_rank),
                // Heads start at multiples of 4, so that a linear layer can read them as vec4.
                ("latent context", h * stride(kv_lora_rank)),
                ("attention output", h * v),
                ("spans of attention", span_columns(h, kv_lora_rank)),
            ],
        }
    }

    /// The most columns that any of them has.
    pub fn widest(config: &Config) -> usize {
        Self::widths(config).iter().map(|(_, width)| *width).max().unwrap_or(0)
    }

    /// Allocates them for `rows` rows.
    pub fn new(backend: &mut Backend, config: &Config, rows: usize) -> Result<Self> {
        let widths = Self::widths(config);
        let last = widths.len() - 1;
        let rows_of = |i: usize| if i == last { rows.min(FEW_ROWS) } else { rows };
        let mut next = widths.iter().enumerate().map(|(i, (what, width))| backend.tensor(what, Dtype::F32, rows_of(i), *width));
        let mut tensor = || next.next().unwrap_or_else(|| Err(crate::error::Error::Usage { reason: "no such work tensor".into() }));
        Ok(match config.attention {
            config::Attention::Gqa { .. } => Self::Gqa(GqaWork { qkv: tensor()?, y: tensor()?, spans: tensor()? }),
            config::Attention::Mla { .. } => Self::Mla(MlaWork {
                down: tensor()?,
                c_q: tensor()?,
                q_up: tensor()?,
                q: tensor()?,
                context: tensor()?,
                y: tensor()?,
                spans: tensor()?,
            }),
        })
    }
}

/// What a block is recorded for: which rows, where their keys go, and the tensors that it works on.
#[derive(Clone, Copy)]
pub(crate) struct Step<'a> {
    pub list: RowList,
    /// How many of the rows, the first ones, run the whole block. The others only leave their keys and values.
    pub whole: usize,
    pub slot: Slot,
    pub cache: &'a CacheTensor,
    /// (positions, rope/2, \[cos, sin\]).
    pub angles: &'a Tensor,
    /// The residual stream: (rows, dim), read and added to.
    pub x: &'a Tensor,
    /// Its normalised copy.
    pub normed: &'a Tensor,
    /// How the positions that a row looks back on are shared out.
    pub spans: Spans,
}

impl Attention {
    /// Loads the layer `PREFIX.attn`.
    pub fn load(loader: &mut Loader, config: &Config, prefix: &str, work: &Work) -> Result<Self> {
        let (d, h) = (config.dim, config.n_heads);
        let name = |part: &str| format!("{prefix}.attn.{part}.weight");
        match (config.attention, work) {
            (config::Attention::Gqa { n_kv_heads, head_dim }, Work::Gqa(work)) => Ok(Self::Gqa(Box::new(Gqa {
                qkv: loader.stacked(&[(name("wq"), d), (name("wk"), n_kv_heads * head_dim), (name("wv"), n_kv_heads * head_dim)], d)?,
                wo: loader.stacked(&[(name("wo"), d)], d)?,
                heads: Heads {
                    heads: h,
                    group: h / n_kv_heads,
                    plain: 0,
                    rope: head_dim,
                    key_step: head_dim,
                    value_dim: head_dim,
                    value_start: n_kv_heads * head_dim,
                    value_step: head_dim,
                    scale: (head_dim as f32).powf(-0.5),
                },
                work: *work,
            }))),
            (config::Attention::Mla { kv_lora_rank, q_lora_rank, rope, nope, v }, Work::Mla(work)) => Ok(Self::Mla(Box::new(Mla {
                down: loader.stacked(&[(name("q_down"), q_lora_rank), (name("kv_down"), kv_lora_rank + rope)], d)?,
                q_norm: loader.small(&name("q_norm"), &[q_lora_rank])?,
                q_up: loader.stacked(&[(name("q_up_nope"), h * nope), (name("q_up_rope"), h * rope)], q_lora_rank)?,
                kv_norm: loader.small(&name("kv_norm"), &[kv_lora_rank])?,
                kv_up: loader.stacked_heads(&[(name("kv_up"), h * (nope + v))], kv_lora_rank, nope + v)?,
                heads: Heads {
                    heads: h,
                    group: h, // one latent serves all heads
                    plain: kv_lora_rank,
                    rope,
                    key_step: 0,
                    value_dim: kv_lora_rank,
                    value_start: 0,
                    value_step: 0,
                    scale: ((nope + rope) as f32).powf(-0.5),
                },
                wo: loader.stacked(&[(name("wo"), d)], h * v)?,
                nope,
                v,
                work: *work,
            }))),
            _ => Err(crate::error::Error::Usage { reason: "work tensors of the other kind of attention".into() }),
        }
    }

    /// Records x += attention(normed).
    pub fn record(&self, pass: &mut Pass, step: Step) -> Result<()> {
        match self {
            Self::Gqa(gqa) => gqa.record(pass, step),
            Self::Mla(mla) => mla.record(pass, step),
        }
    }
}

impl Gqa {
    fn record(&self, pass: &mut Pass, Step { list, whole: rows, slot, cache, angles, x, normed, spans }: Step) -> Result<()> {
        let (work, heads, whole) = (&self.work, self.heads, RowList { rows, ..list });
        let d = heads.rope;
        let (k_start, v_start) = (heads.heads * d, heads.heads * d + heads.value_start);
        // [q | k | v] = [wq; wk; wv] x;   cached: [RoPE(k) | v]
        linear(pass, &self.qkv, normed.into(), (&work.qkv).into(), list.rows, Into::Set)?;
        store_kv(pass, list, angles, heads.heads / heads.group, &work.qkv, (k_start, v_start), cache, slot)?;
        // x += wo attention(RoPE(q))
        let queries = Queries { plain: &work.qkv, turned: &work.qkv, start: 0, angles };
        let output = Output { y: &work.y, head: d, spans: &work.spans };
        attention(pass, whole, heads, queries, cache, slot, output, spans)?;
        linear(pass, &self.wo, (&work.y).into(), x.into(), rows, Into::Add)
    }
}

impl Mla {
    fn record(&self, pass: &mut Pass, Step { list, whole: rows, slot, cache, angles, x, normed, spans }: Step) -> Result<()> {
        let (h, work, whole) = (self.heads.heads, &self.work, RowList { rows, ..list });
        let rank = self.heads.value_dim;
        let per_head = |start, outs| PerHead { w: &self.kv_up, batch: h, start, step: self.nope + self.v, outs };
        let (uk, uv) = (per_head(0, self.nope), per_head(self.nope, self.v));
        // [q | c | r] = [q_down; kv_down] x;   c_q = RMSNorm(q),  cached: [RMSNorm(c) | RoPE(r)]
        linear(pass, &self.down, normed.into(), (&work.down).into(), list.rows, Into::Set)?;
        store_latent(pass, list, angles, &work.down, Gains { kv: &self.kv_norm, q: &self.q_norm }, cache, slot, &work.c_q)?;
        // [q_nope | q_rope] = [q_up_nope; q_up_rope] c_q;   a head's query: [W_ukᵀ q_nope | RoPE(q_rope)]
        linear(pass, &self.q_up, (&work.c_q).into(), (&work.q_up).into(), rows, Into::Set)?;
        transposed(pass, uk, columns(&work.q_up, self.nope), columns(&work.q, rank), rows)?;
        let queries = Queries { plain: &work.q, turned: &work.q_up, start: h * self.nope, angles };
        let output = Output { y: &work.context, head: stride(rank), spans: &work.spans };
        attention(pass, whole, self.heads, queries, cache, slot, output, spans)?;
        // y = W_uv Σ a c̄ per head;   x += wo y
        linear(pass, uv, columns(&work.context, stride(rank)), columns(&work.y, self.v), rows, Into::Set)?;
        linear(pass, &self.wo, (&work.y).into(), x.into(), rows, Into::Add)
    }
}

/// Columns of heads, each `step` after the one before it.
fn columns(tensor: &Tensor, step: usize) -> Columns<'_> {
    Columns { tensor, step }
}
