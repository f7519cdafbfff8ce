//! Everything that a pass writes, allocated once for the largest pass.

use crate::backend::Backend;
use crate::error::Result;
use crate::kernels::halt::ACT;
use crate::kernels::top::PART;
use crate::model::attention;
use crate::model::config::Config;
use crate::model::ffn::{self, MoeWork, SwigluWork};
use crate::tensor::{Dtype, Tensor, stride};

/// The most candidates that are chosen on the device.
pub(crate) const BEST: usize = 64;

/// Lists of rows. What is handed over at once has lists that do not share memory, so that all can be written beforehand.
///
/// Tokens that enter, by their ids.
pub(crate) const TOKENS: usize = 0;
/// Tokens that enter, by their places.
pub(crate) const ENTERING: usize = 1;
/// Tokens that leave, by their places.
pub(crate) const LEAVING: usize = 2;
/// The rows whose logits are wanted, among those that leave.
pub(crate) const PICKS: usize = 3;
const LISTS: usize = 4;

/// Words of the widest row of a work tensor.
pub fn widest(config: &Config) -> usize {
    let widths = [attention::Work::widest(config), ffn::widest(config), config.vocab_size, config.dim];
    stride(widths.into_iter().max().unwrap_or(1)) + 4 * ffn::slots(config)
}

/// The work tensors of a model for passes of up to `chunk` rows.
pub(crate) struct Work {
    pub chunk: usize,
    /// Passes whose lists there is room for at a time.
    pub lists: usize,
    /// Lists of rows, ((LISTS + lists) · chunk, 4) of u32: those below, then one for each pass of a group.
    pub table: Tensor,
    /// The residual stream of the prelude and of the block in the loop: (chunk, dim).
    pub x: Tensor,
    pub normed: Tensor,
    pub attention: attention::Work,
    pub dense: SwigluWork,
    pub moe: MoeWork,
    /// Σ weight · h of every token in flight: (chunk, dim).
    pub out: Tensor,
    /// How it stands with every token in flight, see the kernel `halt`: (chunk, 8).
    pub act: Tensor,
    /// The rows whose logits are wanted: (chunk, dim).
    pub picked: Tensor,
    /// (chunk, vocabulary).
    pub logits: Tensor,
    /// (chunk, 2 + best), see the kernel `top`.
    pub values: Tensor,
    /// (chunk, best) of u32.
    pub ids: Tensor,
    /// As values and ids, for every part of every row of logits.
    pub part_values: Tensor,
    pub part_ids: Tensor,
}

impl Work {
    /// Allocates for at most `chunk` rows: fewer, if the widest tensor would pass the device's binding limit.
    pub fn new(backend: &mut Backend, config: &Config, chunk: usize, lists: usize) -> Result<Self> {
        let rows = chunk.min(backend.max_words() / widest(config)).max(1);
        let lists = lists.clamp(1, (backend.max_words() / (4 * rows)).saturating_sub(LISTS).max(1));
        let best = BEST.min(config.vocab_size);
        let parts = config.vocab_size.div_ceil(PART);
        Ok(Self {
            chunk: rows,
            lists,
            table: backend.tensor("the table of rows", Dtype::U32, (LISTS + lists) * rows, 4)?,
            x: backend.tensor("x", Dtype::F32, rows, config.dim)?,
            normed: backend.tensor("normed x", Dtype::F32, rows, config.dim)?,
            attention: attention::Work::new(backend, config, rows)?,
            dense: SwigluWork::new(backend, rows, config.ffn_dim())?,
            moe: MoeWork::new(backend, config, rows)?,
            out: backend.tensor("out", Dtype::F32, rows, config.dim)?,
            act: backend.tensor("act", Dtype::F32, rows, ACT)?,
            picked: backend.tensor("picked rows", Dtype::F32, rows, config.dim)?,
            logits: backend.tensor("logits", Dtype::F32, rows, config.vocab_size)?,
            values: backend.tensor("best logits", Dtype::F32, rows, 2 + best)?,
            ids: backend.tensor("best tokens", Dtype::U32, rows, best)?,
            part_values: backend.tensor("best logits of parts", Dtype::F32, rows * parts, 2 + best)?,
            part_ids: backend.tensor("best tokens of parts", Dtype::U32, rows * parts, best)?,
        })
    }

    /// The list of a pass of a group.
    pub fn loop_list(&self, index: usize) -> usize {
        LISTS + index
    }
}
