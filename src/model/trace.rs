//! A pass that is watched: every stage runs alone and is read back. Slow, and only here; the ordinary pass knows nothing of it.

use crate::backend::{Pass, Span};
use crate::error::Result;
use crate::model::work::BEST;
use crate::model::{Depth, Engine, Feed, Logits, Output};
use crate::tensor::Tensor;

/// All stages of one forward pass. Arrays are row-major, a row a token in the order of the feeds.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// (rows, dim).
    pub embed: Vec<f32>,
    /// After each block of the prelude, (rows, dim).
    pub prelude: Vec<Vec<f32>>,
    /// Every loop.
    pub loops: Vec<LoopTrace>,
    /// The loop's output, (rows, dim).
    pub recurrent: Vec<f32>,
    /// After each block of the coda, (rows, dim).
    pub coda: Vec<Vec<f32>>,
}

/// One loop of every row.
#[derive(Clone, Debug, Default)]
pub struct LoopTrace {
    /// The state after the loop, (rows, dim).
    pub h: Vec<f32>,
    /// Halting probability, (rows).
    pub halt_p: Vec<f32>,
    /// ACT weight, (rows).
    pub weight: Vec<f32>,
    /// Chosen experts, (rows, K).
    pub experts: Vec<u32>,
    /// Their gates, (rows, K).
    pub gates: Vec<f32>,
}

impl Engine {
    /// As [`forward`](Self::forward), with every stage read back. Errors are the same.
    pub async fn forward_traced(&mut self, feeds: &mut [Feed<'_>], depth: Depth, logits: Logits) -> Result<(Output, Trace)> {
        let rows = self.rows(feeds, depth, logits.every)?;
        let best = logits.best.clamp(1, BEST.min(self.config.vocab_size));
        let (prelude, coda) = (self.net.prelude.len(), self.net.coda.len());
        let mut trace = Trace {
            prelude: vec![Vec::new(); prelude],
            loops: vec![LoopTrace::default(); depth.loops],
            coda: vec![Vec::new(); coda],
            ..Trace::default()
        };
        let mut output = Output::default();
        let (x, state, moe) = (self.work.x, self.net.recurrent.state, self.work.moe);
        for chunk in rows.chunks(self.work.chunk) {
            let n = chunk.len();
            let picks = chunk.iter().filter(|row| row.pick()).count();
            self.write_rows(chunk, depth)?;
            self.stage(|engine, pass| engine.record_embed(pass, n)).await?;
            trace.embed.extend(self.values(&x, n).await?);
            for layer in 0..prelude {
                self.stage(|engine, pass| engine.record_prelude(pass, layer, n)).await?;
                trace.prelude[layer].extend(self.values(&x, n).await?);
            }
            self.stage(|engine, pass| engine.record_begin(pass, n)).await?;
            for (t, at) in trace.loops.iter_mut().enumerate() {
                self.stage(|engine, pass| engine.record_loop(pass, t, n, depth)).await?;
                at.h.extend(self.values(&state.h, n).await?);
                let act = self.values(&state.act, n).await?;
                at.halt_p.extend(act.chunks_exact(4).map(|state| state[2]));
                at.weight.extend(act.chunks_exact(4).map(|state| state[3]));
                at.experts.extend(self.values(&moe.ids, n).await?.iter().map(|id| id.to_bits()));
                at.gates.extend(self.values(&moe.gates, n).await?);
            }
            trace.recurrent.extend(self.values(&state.out, n).await?);
            for layer in 0..coda {
                self.stage(|engine, pass| engine.record_coda(pass, layer, n)).await?;
                trace.coda[layer].extend(self.values(&state.out, n).await?);
            }
            self.stage(|engine, pass| engine.record_logits(pass, picks, best)).await?;
            self.collect(chunk, depth, best, logits.all, &mut output).await?;
        }
        self.advance(feeds, depth);
        Ok((output, trace))
    }

    /// Records one stage and runs it.
    async fn stage(&mut self, record: impl FnOnce(&Self, &mut Pass) -> Result<()>) -> Result<()> {
        let mut pass = self.backend.pass();
        record(self, &mut pass)?;
        let plan = self.backend.plan(pass)?;
        self.backend.run(&plan).await
    }

    /// The first `rows` rows of a tensor, without padding.
    async fn values(&mut self, tensor: &Tensor, rows: usize) -> Result<Vec<f32>> {
        let padded = self.backend.read(&[Span::rows(tensor, 0, rows)]).await?.swap_remove(0);
        Ok(padded.chunks_exact(tensor.stride).flat_map(|row| row[..tensor.cols].iter().copied()).collect())
    }
}
