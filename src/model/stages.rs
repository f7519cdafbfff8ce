//! The stages that a token passes, recorded as passes of kernels, and the plans made of them.

use crate::backend::Pass;
use crate::error::Result;
use crate::kernels::attention::Spans;
use crate::kernels::embed::embed;
use crate::kernels::inject::Gating;
use crate::kernels::linear::{Into, linear};
use crate::kernels::rmsnorm::rmsnorm;
use crate::kernels::top::{Parts, top};
use crate::kernels::{RowList, Slot};
use crate::model::Engine;
use crate::model::attention::Step;
use crate::model::work::{ENTERING, LEAVING, PICKS, TOKENS};

/// What tells one plan from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PlanKey {
    /// Embedding and prelude of so many tokens.
    Enter { rows: usize, spans: Spans },
    /// The pass of this number in its group, of so many rows; the first `whole` of them run all of it, the others leave their keys
    /// and values.
    Loop { index: usize, rows: usize, whole: usize, spans: Spans },
    /// Coda of so many tokens, and the logits of some of them.
    Leave { rows: usize, picks: usize, best: usize, spans: Spans },
    /// Coda and logits of the one state that lies in x.
    Lens { best: usize, spans: Spans },
}

/// Plans that are kept. There are as many as there are numbers of rows, and each is small.
const PLANS: usize = 4096;

impl Engine {
    /// A list of the table of rows.
    fn list(&self, list: usize, rows: usize) -> RowList {
        RowList { table: self.work.table, first: list * self.work.chunk, rows }
    }

    fn step(&self, list: RowList, slot: Slot, spans: Spans) -> Step<'_> {
        let (cache, angles, x, normed) = (&self.cache, &self.net.angles, &self.work.x, &self.work.normed);
        Step { list, whole: list.rows, slot, cache, angles, x, normed, spans }
    }

    /// How rows of a list look back on their positions.
    pub(super) fn spans(&self, rows: &[[u32; 4]]) -> Spans {
        let positions = rows.iter().map(|[_, _, position, _]| *position as usize + 1).max().unwrap_or(0);
        Spans::of(rows.len(), positions, &self.backend.tier())
    }

    // The stages. Plans record them one after the other; a traced pass runs each alone.

    pub(super) fn record_embed(&self, pass: &mut Pass, rows: usize) -> Result<()> {
        embed(pass, &self.net.embed, self.list(TOKENS, rows), &self.work.x)
    }

    pub(super) fn record_prelude(&self, pass: &mut Pass, layer: usize, rows: usize, spans: Spans) -> Result<()> {
        self.net.prelude[layer].record(pass, self.step(self.list(ENTERING, rows), Slot::Layer(layer), spans))
    }

    pub(super) fn record_begin(&self, pass: &mut Pass, rows: usize) -> Result<()> {
        let work = &self.work;
        self.net.recurrent.record_begin(pass, self.list(ENTERING, rows), &work.x, &work.out)
    }

    pub(super) fn record_loop(&self, pass: &mut Pass, index: usize, rows: usize, whole: usize, spans: Spans) -> Result<()> {
        let work = &self.work;
        let slot = Slot::Loops(self.config.prelude_layers + self.config.coda_layers);
        let step = Step { whole, ..self.step(self.list(work.loop_list(index), rows), slot, spans) };
        let gating = Gating { act: &work.act, gate: self.backend.gate(), pass_index: index };
        self.net.recurrent.record_loop(pass, step, gating, &work.out)
    }

    /// The loop's output of the tokens that leave, into x.
    pub(super) fn record_gather(&self, pass: &mut Pass, rows: usize) -> Result<()> {
        embed(pass, &self.work.out.into(), self.list(LEAVING, rows), &self.work.x)
    }

    pub(super) fn record_coda(&self, pass: &mut Pass, layer: usize, rows: usize, spans: Spans) -> Result<()> {
        let slot = Slot::Layer(self.config.prelude_layers + layer);
        self.net.coda[layer].record(pass, self.step(self.list(LEAVING, rows), slot, spans))
    }

    /// Logits of the rows in the list of picks, and their best candidates.
    pub(super) fn record_logits(&self, pass: &mut Pass, picks: usize, best: usize) -> Result<()> {
        if picks == 0 {
            return Ok(());
        }
        let work = &self.work;
        embed(pass, &work.x.into(), self.list(PICKS, picks), &work.picked)?;
        rmsnorm(pass, &work.picked, &self.net.norm, &work.normed, picks)?;
        linear(pass, &self.net.embed, (&work.normed).into(), (&work.logits).into(), picks, Into::Set)?;
        let parts = Parts { values: &work.part_values, ids: &work.part_ids };
        top(pass, &work.logits, best, parts, &work.values, &work.ids, picks)
    }

    fn record(&self, key: PlanKey) -> Result<Pass> {
        let mut pass = self.backend.pass();
        let coda = |pass: &mut Pass, rows, spans| (0..self.net.coda.len()).try_for_each(|layer| self.record_coda(pass, layer, rows, spans));
        match key {
            PlanKey::Enter { rows, spans } => {
                self.record_embed(&mut pass, rows)?;
                (0..self.net.prelude.len()).try_for_each(|layer| self.record_prelude(&mut pass, layer, rows, spans))?;
                self.record_begin(&mut pass, rows)?;
            }
            PlanKey::Loop { index, rows, whole, spans } => self.record_loop(&mut pass, index, rows, whole, spans)?,
            PlanKey::Leave { rows, picks, best, spans } => {
                self.record_gather(&mut pass, rows)?;
                coda(&mut pass, rows, spans)?;
                self.record_logits(&mut pass, picks, best)?;
            }
            PlanKey::Lens { best, spans } => {
                coda(&mut pass, 1, spans)?;
                self.record_logits(&mut pass, 1, best)?;
            }
        }
        Ok(pass)
    }

    /// Runs the plan for a shape, made once and kept; returns its dispatches and the bytes of weights that it reads.
    pub(super) async fn replay(&mut self, key: PlanKey) -> Result<(usize, u64)> {
        if !self.plans.get(&key).is_some_and(|plan| self.backend.is_current(plan)) {
            let plan = self.backend.plan(self.record(key)?)?;
            if self.plans.len() == PLANS {
                self.plans.clear();
            }
            self.plans.insert(key, plan);
        }
        match self.plans.get(&key) {
            Some(plan) => {
                self.backend.run(plan).await?;
                Ok((plan.dispatches(), plan.weight_bytes()))
            }
            None => Ok((0, 0)),
        }
    }
}
