//! What happens to each token, loop by loop. A traced pass reads back after every step, so it is slow, and only it: the ordinary pass
//! knows nothing of this. The same looks tell where NaN or infinity began, once they have come out.

use std::collections::{BTreeMap, HashMap};

use crate::backend::{Pass, Span};
use crate::error::Result;
use crate::kernels::halt::ACT;
use crate::kernels::router::Router;
use crate::model::Engine;
use crate::model::flight::Sent;
use crate::model::stages::PlanKey;
use crate::model::work::{BEST, LEAVING, PICKS};
use crate::tensor::Tensor;

/// How much a trace holds. Halting and the change of the state are always there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Whether the stages are kept whole: embedding, blocks, the state after every loop.
    pub states: bool,
    /// Whether the chosen experts are kept.
    pub experts: bool,
    /// Candidates of the lens at every loop, at most 64; 0 for no lens. The lens is the coda and the head on the state that a token
    /// had after a loop, with the final keys and values of the tokens before it: what [`Exit::Fixed`](crate::model::defaults::Exit) would
    /// give there. The output of a token that halts is the weighted sum of these states, and may say something else.
    pub lens: usize,
}

/// One forward pass, watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// In the order of the feeds.
    pub tokens: Vec<TokenTrace>,
    /// The passes of the loop, in their order.
    pub passes: Vec<PassTrace>,
}

/// What became of one token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenTrace {
    /// The loops that it ran until its output was there. Those after it halted were needed by a token of the same chunk (or by
    /// nobody, under [`Schedule::Full`](crate::model::Schedule)): their weight is 0. Loops in which it catches up later are not its
    /// own matter any more; [`PassTrace`] counts them.
    pub loops: Vec<LoopTrace>,
    /// With [`Detail::states`]: the embedding, (dim).
    pub embed: Vec<f32>,
    /// The state after each block of the prelude, (dim) each.
    pub prelude: Vec<Vec<f32>>,
    /// The loop's output, (dim).
    pub recurrent: Vec<f32>,
    /// The state after each block of the coda, (dim) each.
    pub coda: Vec<Vec<f32>>,
}

/// One loop of one token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoopTrace {
    /// Halting probability.
    pub halt_p: f32,
    /// ACT weight: the share of this loop's state in the output.
    pub weight: f32,
    /// ‖h′ − h‖ / ‖h‖, how much the loop changed the state.
    pub delta: f32,
    /// With [`Detail::experts`]: the chosen experts with their gates, in the order of the router.
    pub experts: Vec<(u32, f32)>,
    /// With [`Detail::experts`]: how far the last expert chosen was ahead of the best one left out, in biased router logits. Two
    /// correct programs may choose differently where it is near 0. Infinite where all are chosen.
    pub router_margin: f32,
    /// With [`Detail::lens`]: the likeliest next tokens by the state after this loop alone, with their probabilities.
    pub lens: Vec<(u32, f32)>,
    /// With [`Detail::states`]: the state after the loop, (dim).
    pub h: Vec<f32>,
}

/// One pass of the loop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassTrace {
    /// Rows: a row is one token at one loop.
    pub rows: usize,
    /// Of these, rows of older tokens that caught up.
    pub rows_catching_up: usize,
    /// Rows at each loop, counted from 1, as (loop, rows); a loop stands here once for each sequence.
    pub loops: Vec<(usize, usize)>,
    /// Kernels.
    pub dispatches: usize,
    /// Bytes of weight matrices read, at most: see [`Counters`](crate::backend::Counters).
    pub weight_bytes: u64,
}

/// Watches the tokens of a driver.
pub(super) struct Watch {
    detail: Detail,
    tokens: HashMap<(usize, usize), Watched>,
    passes: Vec<PassTrace>,
    /// The router's rows, and its bias.
    router: Option<(Vec<Vec<f32>>, Vec<f32>)>,
    /// Sequences, by slot, that are looked through for NaN and infinity, each with the place where it was first seen.
    suspects: BTreeMap<usize, Option<String>>,
    /// Whether nobody wants the trace itself.
    passing: bool,
}

struct Watched {
    /// `None` once it has left.
    place: Option<usize>,
    h: Vec<f32>,
    /// The states after every loop, for the lens.
    states: Vec<Vec<f32>>,
    trace: TokenTrace,
}

impl Watch {
    pub fn new(detail: Detail) -> Self {
        Self { detail, tokens: HashMap::new(), passes: Vec::new(), router: None, suspects: BTreeMap::new(), passing: false }
    }

    /// One that is there for suspects alone.
    pub fn passing() -> Self {
        Self { passing: true, ..Self::new(Detail::default()) }
    }

    /// Looks through a sequence from here on.
    pub fn suspect(&mut self, slot: usize) {
        self.suspects.insert(slot, None);
    }

    /// Ends that, and says where NaN or infinity was first seen.
    pub fn acquit(&mut self, slot: usize) -> Option<String> {
        self.suspects.remove(&slot).flatten()
    }

    /// Whether nobody has any use for it.
    pub fn is_over(&self) -> bool {
        self.passing && self.suspects.is_empty()
    }

    /// Looks at a stage of a token.
    fn inspect(&mut self, (slot, position): (usize, usize), numbers: &[f32], stage: impl FnOnce() -> String) {
        if let Some(found @ None) = self.suspects.get_mut(&slot)
            && !numbers.iter().all(|x| x.is_finite())
        {
            *found = Some(format!("{} at position {position}", stage()));
        }
    }

    /// Looks at a stage of all tokens of a list.
    fn inspect_all(&mut self, rows: &[[u32; 4]], values: &[Vec<f32>], stage: &dyn Fn() -> String) {
        for (row, values) in rows.iter().zip(values) {
            self.inspect((row[1] as usize, row[2] as usize), values, stage);
        }
    }

    /// The trace of the tokens at these slots and positions.
    pub fn finish(mut self, tokens: impl Iterator<Item = (usize, usize)>) -> Trace {
        let tokens = tokens.map(|at| self.tokens.remove(&at).map_or_else(TokenTrace::default, |token| token.trace)).collect();
        Trace { tokens, passes: self.passes }
    }

    /// Tokens enter: rows of place, slot, position.
    pub(super) async fn enter(&mut self, engine: &mut Engine, rows: &[[u32; 4]]) -> Result<()> {
        let (n, x, spans) = (rows.len(), engine.work.x, engine.spans(rows));
        let mut traces = vec![TokenTrace::default(); n];
        let mut stages = Vec::new();
        engine.stage(|engine, pass| engine.record_embed(pass, n)).await?;
        stages.push(engine.values(&x, n).await?);
        self.inspect_all(rows, &stages[0], &|| "the embedding".into());
        for layer in 0..engine.net.prelude.len() {
            engine.stage(|engine, pass| engine.record_prelude(pass, layer, n, spans)).await?;
            stages.push(engine.values(&x, n).await?);
            self.inspect_all(rows, &stages[layer + 1], &|| format!("prelude.{layer}"));
        }
        engine.stage(|engine, pass| engine.record_begin(pass, n)).await?;
        for (i, trace) in traces.iter_mut().enumerate().filter(|_| self.detail.states) {
            trace.embed.clone_from(&stages[0][i]);
            trace.prelude = stages[1..].iter().map(|stage| stage[i].clone()).collect();
        }
        for ((row, trace), h) in rows.iter().zip(traces).zip(stages.pop().unwrap_or_default()) {
            let watched = Watched { place: Some(row[0] as usize), h, states: Vec::new(), trace };
            self.tokens.insert((row[1] as usize, row[2] as usize), watched);
        }
        Ok(())
    }

    /// A pass was handed over: waits for it and takes down what became of the tokens in flight.
    pub(super) async fn pass(&mut self, engine: &mut Engine, pass: &Sent) -> Result<()> {
        self.passes.push(pass.trace());
        if self.detail.experts && self.router.is_none() {
            let Router { w, bias, .. } = engine.net.recurrent.router();
            self.router = Some((engine.values(&w, w.rows).await?, engine.values(&bias, 1).await?.swap_remove(0)));
        }
        let (context, states, moe) = (engine.cache.context, engine.net.recurrent.states, engine.work.moe.slots);
        let is_watched = |slot, position| self.tokens.contains_key(&(slot, position)) || self.suspects.contains_key(&slot);
        let rows: Vec<_> = pass.rows().enumerate().filter(|(_, (slot, position, _))| is_watched(*slot, *position)).collect();
        let mut spans = vec![Span::rows(&engine.work.act, 0, engine.work.chunk)];
        for (i, (slot, position, _)) in &rows {
            spans.push(Span::rows(&states.h, slot * context + position, 1));
            // What the router saw is the last that was normed in the block.
            spans.extend([Span::rows(&moe.ids, *i, 1), Span::rows(&moe.gates, *i, 1), Span::rows(&engine.work.normed, *i, 1)]);
        }
        let read = engine.backend.read(&spans).await?;
        let (act, rest) = read.split_at(1);
        for ((_, (slot, position, at_loop)), read) in rows.iter().zip(rest.chunks_exact(4)) {
            let h = read[0][..states.h.cols].to_vec();
            let stage = || format!("loop {}", at_loop + 1);
            self.inspect((*slot, *position), &h, stage);
            let Some(place) = self.tokens.get(&(*slot, *position)).and_then(|token| token.place) else { continue };
            let act = &act[0][place * ACT..][..ACT];
            self.inspect((*slot, *position), act, stage);
            let Some(token) = self.tokens.get_mut(&(*slot, *position)) else { continue };
            let norm = |h: &mut dyn Iterator<Item = f32>| h.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            let change = norm(&mut h.iter().zip(&token.h).map(|(new, old)| new - old)) / norm(&mut token.h.iter().copied());
            let mut trace = LoopTrace { halt_p: act[2], weight: act[3], delta: change as f32, ..LoopTrace::default() };
            if self.detail.experts {
                let ids: &[u32] = bytemuck::cast_slice(&read[1][..moe.ids.cols]);
                trace.experts = ids.iter().copied().zip(read[2].iter().copied()).collect();
                trace.router_margin = self.router.as_ref().map_or(f32::INFINITY, |router| margin(router, &read[3], moe.ids.cols));
            }
            if self.detail.states {
                trace.h.clone_from(&h);
            }
            if self.detail.lens > 0 {
                token.states.push(h.clone());
            }
            token.h = h;
            token.trace.loops.push(trace);
        }
        Ok(())
    }

    /// Tokens leave: rows of place, slot, position.
    pub(super) async fn leave(&mut self, engine: &mut Engine, rows: &[[u32; 4]], picks: &[[u32; 4]], best: usize) -> Result<()> {
        if self.detail.lens > 0 {
            self.look_through(engine, rows).await?;
            engine.write_list(LEAVING, rows)?;
            engine.write_list(PICKS, picks)?;
        }
        let (n, x, spans) = (rows.len(), engine.work.x, engine.spans(rows));
        engine.stage(|engine, pass| engine.record_gather(pass, n)).await?;
        let mut stages = vec![engine.values(&x, n).await?];
        self.inspect_all(rows, &stages[0], &|| "the output of the loops".into());
        for layer in 0..engine.net.coda.len() {
            engine.stage(|engine, pass| engine.record_coda(pass, layer, n, spans)).await?;
            stages.push(engine.values(&x, n).await?);
            self.inspect_all(rows, &stages[layer + 1], &|| format!("coda.{layer}"));
        }
        engine.stage(|engine, pass| engine.record_logits(pass, picks.len(), best)).await?;
        for (i, row) in rows.iter().enumerate() {
            let Some(token) = self.tokens.get_mut(&(row[1] as usize, row[2] as usize)) else { continue };
            token.place = None;
            token.states.clear();
            if !self.detail.states {
                continue;
            }
            token.trace.recurrent.clone_from(&stages[0][i]);
            token.trace.coda = stages[1..].iter().map(|stage| stage[i].clone()).collect();
        }
        Ok(())
    }

    /// The lens on every state of the tokens that leave. The tokens' own keys and values in the coda come out wrong; the coda has to
    /// run once more after this.
    async fn look_through(&mut self, engine: &mut Engine, rows: &[[u32; 4]]) -> Result<()> {
        let best = self.detail.lens.clamp(1, BEST.min(engine.config.vocab_size));
        // The keys and values of all of them, as each will see those before it.
        engine.replay(PlanKey::Leave { rows: rows.len(), picks: 0, best: 1, spans: engine.spans(rows) }).await?;
        engine.write_list(PICKS, &[[0; 4]])?;
        let mut order: Vec<&[u32; 4]> = rows.iter().collect();
        // The last positions first: what one leaves behind at its own position, those before it never look at.
        order.sort_by_key(|row| std::cmp::Reverse(row[2]));
        for row in order {
            let Some(token) = self.tokens.get_mut(&(row[1] as usize, row[2] as usize)) else { continue };
            engine.write_list(LEAVING, &[*row])?;
            for (state, trace) in token.states.iter().zip(&mut token.trace.loops) {
                let x = engine.work.x;
                engine.backend.write_rows(&x, 0, x.cols, state)?;
                engine.replay(PlanKey::Lens { best, spans: engine.spans(&[*row]) }).await?;
                let (values, ids) = (engine.work.values, engine.work.ids);
                let read = engine.backend.read(&[Span::rows(&values, 0, 1), Span::rows(&ids, 0, 1)]).await?;
                let ids: &[u32] = bytemuck::cast_slice(&read[1][..best]);
                trace.lens = ids.iter().copied().zip(read[0][2..].iter().map(|logit| (logit - read[0][0]).exp().min(1.0))).collect();
            }
        }
        Ok(())
    }
}

/// The difference between the k-th and the next of the biased router logits of x.
fn margin((router, bias): &(Vec<Vec<f32>>, Vec<f32>), x: &[f32], k: usize) -> f32 {
    let dot = |row: &Vec<f32>| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
    let mut logits: Vec<f32> = router.iter().zip(bias).map(|(row, bias)| dot(row) + bias).collect();
    logits.sort_unstable_by(|a, b| b.total_cmp(a));
    logits.get(k).map_or(f32::INFINITY, |next| logits[k - 1] - next)
}

impl Engine {
    /// Records one stage and runs it.
    async fn stage(&mut self, record: impl FnOnce(&Self, &mut Pass) -> Result<()>) -> Result<()> {
        let mut pass = self.backend.pass();
        record(self, &mut pass)?;
        let plan = self.backend.plan(pass)?;
        self.backend.run(&plan).await
    }

    /// The first `rows` rows of a tensor, without padding.
    async fn values(&mut self, tensor: &Tensor, rows: usize) -> Result<Vec<Vec<f32>>> {
        let padded = self.backend.read(&[Span::rows(tensor, 0, rows)]).await?.swap_remove(0);
        Ok(padded.chunks_exact(tensor.stride).map(|row| row[..tensor.cols].to_vec()).collect())
    }
}
