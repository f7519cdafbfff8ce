//! Everything that a pass writes, allocated once for the largest pass.

use crate::backend::Backend;
use crate::error::Result;
use crate::kernels::top::PART;
use crate::model::attention;
use crate::model::config::Config;
use crate::model::ffn::{self, MoeWork, SwigluWork};
use crate::model::recurrent::State;
use crate::tensor::{Dtype, Tensor, stride};

/// The most candidates that are chosen on the device.
pub(crate) const BEST: usize = 64;

/// Words of the widest row of a work tensor.
pub fn widest(config: &Config, loops: usize) -> usize {
    let widths = [attention::Work::widest(config), ffn::widest(config), config.vocab_size, config.dim, 4 * (loops + 1)];
    stride(widths.into_iter().max().unwrap_or(1)) + 4 * config.n_experts_per_tok
}

/// The work tensors of a model for passes of up to `chunk` rows.
pub(crate) struct Work {
    pub chunk: usize,
    loops: usize,
    /// A list of rows for each loop, then the list of picks: ((loops + 1) · chunk, 4) of u32.
    pub table: Tensor,
    /// The residual stream of the prelude and of the block in the loop: (chunk, dim).
    pub x: Tensor,
    pub normed: Tensor,
    pub attention: attention::Work,
    pub dense: SwigluWork,
    pub moe: MoeWork,
    pub state: State,
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
    pub fn new(backend: &mut Backend, config: &Config, chunk: usize, loops: usize) -> Result<Self> {
        let rows = chunk.min(backend.max_words() / widest(config, loops)).max(1);
        let best = BEST.min(config.vocab_size);
        let parts = config.vocab_size.div_ceil(PART);
        Ok(Self {
            chunk: rows,
            loops,
            table: backend.tensor("the table of rows", Dtype::U32, (loops + 1) * rows, 4)?,
            x: backend.tensor("x", Dtype::F32, rows, config.dim)?,
            normed: backend.tensor("normed x", Dtype::F32, rows, config.dim)?,
            attention: attention::Work::new(backend, config, rows)?,
            dense: SwigluWork::new(backend, rows, config.ffn_dim())?,
            moe: MoeWork::new(backend, config, rows)?,
            state: State::new(backend, config, rows)?,
            picked: backend.tensor("picked rows", Dtype::F32, rows, config.dim)?,
            logits: backend.tensor("logits", Dtype::F32, rows, config.vocab_size)?,
            values: backend.tensor("best logits", Dtype::F32, rows, 2 + best)?,
            ids: backend.tensor("best tokens", Dtype::U32, rows, best)?,
            part_values: backend.tensor("best logits of parts", Dtype::F32, rows * parts, 2 + best)?,
            part_ids: backend.tensor("best tokens of parts", Dtype::U32, rows * parts, best)?,
        })
    }

    /// Where the list of picks starts in the table.
    pub fn picks_first(&self) -> usize {
        self.loops * self.chunk
    }
}
