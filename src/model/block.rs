//! A transformer block: x = x + attention(RMSNorm(x)); x = x + ffn(RMSNorm(x))

use crate::backend::Pass;
use crate::error::Result;
use crate::kernels::rmsnorm::rmsnorm;
use crate::model::attention::{Attention, Step};
use crate::model::ffn::Ffn;
use crate::tensor::Tensor;

/// A block's weights.
pub(crate) struct Block {
    /// The norm before the attention; none where what comes before the block leaves its output normed.
    pub attn_norm: Option<Tensor>,
    pub attention: Attention,
    /// With the norm before it.
    pub ffn: Ffn,
}

impl Block {
    /// Records the block on the residual stream `step.x`.
    pub fn record(&self, pass: &mut Pass, step: Step) -> Result<()> {
        if let Some(norm) = &self.attn_norm {
            rmsnorm(pass, step.x, norm, step.normed, step.list.rows)?;
        }
        self.attention.record(pass, step)?;
        self.ffn.record(pass, step.x, step.normed, step.whole)
    }
}
