//! What storing weights in fewer bits does to a model: the same tokens through both, compared token by token.
//!
//! Of each token: KL(P ‖ Q) = Σ p (ln p − ln q) of the distributions of the next token, P with the reference's weights; whether both find
//! the same token most likely; whether they ran the same number of loops; whether they chose the same experts in each loop that both ran.

use super::{Depth, Detail, Engine, Feed, Logits};
use crate::error::Result;

/// What a model made of one token.
#[derive(Clone, Debug)]
pub struct Observed {
    /// ln p of every token that may come next.
    pub log_probabilities: Vec<f32>,
    /// Loops that it took.
    pub loops: usize,
    /// The experts chosen in each of them, in the order of their ids.
    pub experts: Vec<Vec<u32>>,
}

impl Observed {
    /// The most likely next token; of equal ones that of the lowest id.
    pub fn best(&self) -> usize {
        let best = |best: (usize, f32), (i, x): (usize, f32)| if x > best.1 { (i, x) } else { best };
        self.log_probabilities.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), best).0
    }
}

/// How two models differ over the same tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Tokens compared.
    pub tokens: usize,
    /// Mean of KL(P ‖ Q), in nats.
    pub kl_mean: f64,
    /// The largest.
    pub kl_max: f64,
    /// Tokens after which both find the same token most likely.
    pub same_best: usize,
    /// Tokens that took another number of loops.
    pub other_loops: usize,
    /// Tokens for which other experts were chosen in some loop that both ran.
    pub other_experts: usize,
}

impl Engine {
    /// Runs each of `prompts` as a sequence of its own and takes down what became of every token. It reads back after every step, so it
    /// is slow.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub async fn observe(&mut self, prompts: &[Vec<u32>], depth: Depth) -> Result<Vec<Observed>> {
        let mut all = Vec::new();
        for tokens in prompts {
            let mut sequence = self.sequence()?;
            let mut feeds = [Feed { sequence: &mut sequence, tokens }];
            let logits = Logits { every: true, best: 1, all: true };
            let detail = Detail { experts: true, ..Detail::default() };
            let (output, trace) = self.forward_traced(&mut feeds, depth, logits, detail).await?;
            for ((row, prediction), trace) in output.rows.into_iter().zip(output.predictions).zip(trace.tokens) {
                let experts = trace.loops.iter().take(row.loops).map(|at| {
                    let mut ids: Vec<u32> = at.experts.iter().map(|(id, _)| *id).collect();
                    ids.sort_unstable();
                    ids
                });
                let log_probabilities = prediction.logits.iter().map(|logit| logit - prediction.log_sum_exp).collect();
                all.push(Observed { log_probabilities, loops: row.loops, experts: experts.collect() });
            }
        }
        Ok(all)
    }
}

impl Quality {
    /// Compares what two models made of the same tokens.
    pub fn of(reference: &[Observed], other: &[Observed]) -> Self {
        let mut quality = Self { tokens: reference.len(), ..Self::default() };
        for (p, q) in reference.iter().zip(other) {
            let pairs = p.log_probabilities.iter().zip(&q.log_probabilities).map(|(p, q)| (f64::from(*p), f64::from(*q)));
            // What P holds impossible adds nothing, whatever Q says.
            let kl = pairs.map(|(p, q)| if p.exp() == 0.0 { 0.0 } else { p.exp() * (p - q) }).sum::<f64>();
            // A divergence is never below 0; rounding may be.
            let kl = if kl < 0.0 { 0.0 } else { kl };
            quality.kl_mean += kl / reference.len() as f64;
            quality.kl_max = quality.kl_max.max(kl);
            quality.same_best += usize::from(p.best() == q.best());
            quality.other_loops += usize::from(p.loops != q.loops);
            quality.other_experts += usize::from(p.experts.iter().zip(&q.experts).any(|(p, q)| p != q));
        }
        quality
    }
}
