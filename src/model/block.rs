//! A transformer block: x = x + attention(RMSNorm(x)); x = x + ffn(RMSNorm(x))

use crate::backend::Pass;
use crate::error::Result;
use crate::kernels::rmsnorm::rmsnorm;
use crate::model::attention::{Attention, Step, Work};
use crate::model::config::Config;
use crate::model::ffn::Ffn;
use crate::model::loader::Loader;
use crate::tensor::Tensor;

/// A block's weights.
pub(crate) struct Block {
    attn_norm: Tensor,
    attention: Attention,
    ffn_norm: Tensor,
    ffn: Ffn,
}

impl Block {
    /// Loads the norms and the attention of `PREFIX`, and puts `ffn` after them.
    pub fn load(loader: &mut Loader, config: &Config, prefix: &str, work: &Work, ffn: Ffn) -> Result<Self> {
        Ok(Self {
            attn_norm: loader.small(&format!("{prefix}.attn_norm.weight"), &[config.dim])?,
            attention: Attention::load(loader, config, prefix, work)?,
            ffn_norm: loader.small(&format!("{prefix}.ffn_norm.weight"), &[config.dim])?,
            ffn,
        })
    }

    /// Records the block on the residual stream `step.x`.
    pub fn record(&self, pass: &mut Pass, step: Step) -> Result<()> {
        let rows = step.whole;
        rmsnorm(pass, step.x, &self.attn_norm, step.normed, step.list.rows)?;
        self.attention.record(pass, step)?;
        rmsnorm(pass, step.x, &self.ffn_norm, step.normed, rows)?;
        self.ffn.record(pass, step.normed, step.x, rows)
    }
}
