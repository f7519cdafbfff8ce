//! The looped block. For every row at its loop t:
//!
//! ```text
//! x   = block(RMSNorm(h + loop_emb(t) + e))
//! x   = x + ((x · downᵀ) ⊙ scale[min(t, max_loop_iters − 1)]) · B_lora
//! h   = A ⊙ h + B ⊙ e + x                     A = exp(−exp(clamp(log_dt + log_A, −20, 20))) in (0, 1)
//! p   = sigmoid(w · h + b);   out and cum grow until cum ≥ act_threshold
//! ```
//!
//! h starts as e, the output of the prelude. The weights are the same at every loop; only loop_emb, scale and the cache slot
//! depend on t, each a look-up by row.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernels::begin::begin;
use crate::kernels::halt::Head;
use crate::kernels::inject::{Gating, inject};
use crate::kernels::recur::{Ending, recur};
use crate::kernels::router::Router;
use crate::kernels::{RowList, States};
use crate::model::attention::{Attention, Step, Work};
use crate::model::block::Block;
use crate::model::config::Config;
use crate::model::defaults::Exit;
use crate::model::ffn::{Ffn, Moe, MoeWork};
use crate::model::loader::Loader;
use crate::tensor::Tensor;

/// How deep a pass goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// The most loops that a token may run, at least 1.
    pub loops: usize,
    /// Loops, counted from 1, before which no token halts. 0 and 1 are the same.
    pub min_loops: usize,
    /// Whether the model decides when a token stops.
    pub exit: Exit,
}

/// The recurrent block's weights and tables.
pub(crate) struct Recurrent {
    /// (2 + loops, dim): the gain of the loop's norm, that of the block's attention, then the loop embeddings.
    injection: Tensor,
    block: Block,
    router: Router,
    ending: Ending,
    /// The largest A: the spectral radius of the state's own update, below 1 by construction.
    pub spectral_radius: f32,
    pub states: States,
}

impl Recurrent {
    /// Loads `recurrent.*` with the loop embeddings of `loops` loops.
    pub fn load(loader: &mut Loader, config: &Config, loops: usize, work: &Work, moe: MoeWork, states: States) -> Result<Self> {
        let (d, r) = (config.dim, config.lora_rank);
        let moe = Moe::load(loader, config, "recurrent.block", moe)?;
        let router = moe.router();
        let a = decay(&loader.read("recurrent.injection.log_A", &[d])?, loader.read("recurrent.injection.log_dt", &[1])?[0]);
        let spectral_radius = a.iter().copied().fold(0.0, f32::max);
        let attention = Attention::load(loader, config, "recurrent.block", work)?;
        Ok(Self {
            injection: loader.table(
                "norms and loop embeddings",
                (2 + loops, d),
                Vec::new(),
                &[("recurrent.norm.weight", &[d]), ("recurrent.block.attn_norm.weight", &[d])],
                || (0..loops).flat_map(|t| config.loop_embedding(t)).collect(),
            )?,
            block: Block { attn_norm: None, attention, ffn: Ffn::Moe(Box::new(moe)) },
            router,
            ending: Ending {
                table: loader.table(
                    "A, B, halting head and LoRA",
                    (3 + 2 * r, d),
                    a,
                    &[
                        ("recurrent.injection.B", &[d]),
                        ("recurrent.act.halt.weight", &[1, d]),
                        ("recurrent.lora.down.weight", &[r, d]),
                        ("recurrent.lora.B", &[r, d]),
                    ],
                    Vec::new,
                )?,
                scale: loader.small("recurrent.lora.scale.weight", &[config.max_loop_iters, r])?,
                head: Head { bias: loader.read("recurrent.act.halt.bias", &[1])?[0], threshold: config.act_threshold },
            },
            spectral_radius,
            states,
        })
    }

    /// The router of the block's mixture.
    pub fn router(&self) -> Router {
        self.router
    }

    /// Records h = e = x, out = 0 for the tokens of the list.
    pub fn record_begin(&self, pass: &mut Pass, list: RowList, x: &Tensor, out: &Tensor) -> Result<()> {
        begin(pass, list, x, &self.states, out)
    }

    /// Records one loop of the rows of `step.list`, each at its own t; tokens in flight add to their row of `out`. All of it is left out
    /// where nobody runs on.
    pub fn record_loop(&self, pass: &mut Pass, step: Step, gating: Gating, out: &Tensor) -> Result<()> {
        pass.gated();
        inject(pass, step.list, &self.states, &self.injection, gating, step.x, step.normed)?;
        self.block.record(pass, step)?;
        let whole = RowList { rows: step.whole, ..step.list };
        recur(pass, whole, step.x, &self.ending, &self.states, out, gating.act)
    }
}

/// A = exp(−exp(clamp(log_dt + log_A, −20, 20))).
pub(crate) fn decay(log_a: &[f32], log_dt: f32) -> Vec<f32> {
    log_a.iter().map(|log_a| (-(log_dt + log_a).clamp(-20.0, 20.0).exp()).exp()).collect()
}
