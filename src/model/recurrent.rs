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

use crate::backend::{Backend, Pass};
use crate::error::Result;
use crate::kernels::begin::begin;
use crate::kernels::halt::{Halting, halt};
use crate::kernels::inject::inject;
use crate::kernels::recur::{Lora, recur};
use crate::model::attention::{Step, Work};
use crate::model::block::Block;
use crate::model::config::Config;
use crate::model::defaults::Exit;
use crate::model::ffn::{Ffn, Moe, MoeWork};
use crate::model::loader::Loader;
use crate::tensor::{Dtype, Tensor};

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

/// The state of the loop for every row.
#[derive(Clone, Copy)]
pub(crate) struct State {
    /// (rows, dim).
    pub h: Tensor,
    /// The prelude's output, injected at every loop: (rows, dim).
    pub e: Tensor,
    /// Σ weight · h: (rows, dim).
    pub out: Tensor,
    /// (rows, 4): cumulative p, loops, last p, last weight.
    pub act: Tensor,
}

impl State {
    /// Allocates it for `rows` rows.
    pub fn new(backend: &mut Backend, config: &Config, rows: usize) -> Result<Self> {
        let mut tensor = |what, cols| backend.tensor(what, Dtype::F32, rows, cols);
        Ok(Self { h: tensor("h", config.dim)?, e: tensor("e", config.dim)?, out: tensor("out", config.dim)?, act: tensor("act", 4)? })
    }
}

/// The recurrent block's weights and tables.
pub(crate) struct Recurrent {
    norm: Tensor,
    block: Block,
    lora: Lora,
    /// A, then B: (2, dim).
    lti: Tensor,
    halt: Tensor,
    bias: f32,
    threshold: f32,
    loop_emb: Tensor,
    /// The largest A: the spectral radius of the state's own update, below 1 by construction.
    pub spectral_radius: f32,
    pub state: State,
}

impl Recurrent {
    /// Loads `recurrent.*` with the loop embeddings of `loops` loops.
    pub fn load(loader: &mut Loader, config: &Config, loops: usize, work: &Work, moe: MoeWork, state: State) -> Result<Self> {
        let (d, r) = (config.dim, config.lora_rank);
        let ffn = Ffn::Moe(Box::new(Moe::load(loader, config, "recurrent.block.ffn", moe)?));
        let a = decay(&loader.read("recurrent.injection.log_A", &[d])?, loader.read("recurrent.injection.log_dt", &[1])?[0]);
        let spectral_radius = a.iter().copied().fold(0.0, f32::max);
        let lti = [a, loader.read("recurrent.injection.B", &[d])?].concat();
        let loop_emb: Vec<f32> = (0..loops).flat_map(|t| config.loop_embedding(t)).collect();
        Ok(Self {
            norm: loader.small("recurrent.norm.weight", &[d])?,
            block: Block::load(loader, config, "recurrent.block", work, ffn)?,
            lora: Lora {
                down: loader.small("recurrent.lora.down.weight", &[r, d])?,
                scale: loader.small("recurrent.lora.scale.weight", &[config.max_loop_iters, r])?,
                b: loader.small("recurrent.lora.B", &[r, d])?,
            },
            lti: loader.upload("A and B", d, &lti)?,
            halt: loader.small("recurrent.act.halt.weight", &[1, d])?,
            bias: loader.read("recurrent.act.halt.bias", &[1])?[0],
            threshold: config.act_threshold,
            loop_emb: loader.upload("loop embeddings", d, &loop_emb)?,
            spectral_radius,
            state,
        })
    }

    /// Records h = e = x, out = 0, nobody halted.
    pub fn record_begin(&self, pass: &mut Pass, x: &Tensor, rows: usize) -> Result<()> {
        let State { h, e, out, act } = &self.state;
        begin(pass, x, h, e, out, act, rows)
    }

    /// Records one loop of the rows of `step.list`, each at its own t.
    pub fn record_loop(&self, pass: &mut Pass, step: Step, depth: Depth) -> Result<()> {
        let State { h, e, out, act } = &self.state;
        let halting = Halting {
            bias: self.bias,
            threshold: self.threshold,
            loops: depth.loops,
            min_loops: depth.min_loops,
            fixed: depth.exit == Exit::Fixed,
        };
        inject(pass, step.list, h, e, &self.loop_emb, &self.norm, step.x)?;
        self.block.record(pass, step)?;
        recur(pass, step.list, step.x, e, &self.lora, &self.lti, h)?;
        halt(pass, step.list, halting, h, &self.halt, out, act)
    }
}

/// A = exp(−exp(clamp(log_dt + log_A, −20, 20))).
pub(crate) fn decay(log_a: &[f32], log_dt: f32) -> Vec<f32> {
    log_a.iter().map(|log_a| (-(log_dt + log_a).clamp(-20.0, 20.0).exp()).exp()).collect()
}
