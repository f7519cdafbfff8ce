//! What was handed over to the device and not seen yet: passes that may have run or not, looks that are on their way.

use std::collections::VecDeque;

use crate::backend::{GATE_MARKS, Look, Span, Wait};
use crate::error::{Error, Result};
use crate::kernels::NO_PLACE;
use crate::kernels::halt::{ACT, Mode, start};
use crate::model::schedule::{Lead, Limits, Run, behind};
use crate::model::stages::PlanKey;
use crate::model::trace::PassTrace;
use crate::model::{Engine, Sequence};

/// A pass that was handed over.
pub(super) struct Sent {
    runs: Vec<Run>,
    /// Slot, position and loop of each row, in the order of the list.
    rows: Vec<(usize, usize, usize)>,
    dispatches: usize,
    weight_bytes: u64,
}

/// Tokens whose predictions were handed over.
pub(super) struct Leaving {
    /// Their jobs, by key.
    pub jobs: Vec<usize>,
    /// Predictions.
    pub picks: usize,
    /// Candidates of each.
    pub best: usize,
    /// Whether all logits are wanted.
    pub all: bool,
}

/// What was handed over and not looked at yet.
pub(super) struct Tick {
    pub passes: Vec<Sent>,
    pub leaving: Option<Leaving>,
    pub look: Look,
}

/// What a device is doing. It stays with the engine: a caller may drop a future while it waits, and nothing is lost.
#[derive(Default)]
pub(super) struct Flight {
    pub ticks: VecDeque<Tick>,
    /// Tokens may be marked as running though nobody drives them.
    pub stale: bool,
    /// Passes may have been handed over that no tick tells of: a traced or a shadowed pass ended in the middle. What the cache holds is
    /// then not known.
    pub unsure: bool,
}

impl Engine {
    pub(super) fn limits(&self) -> Limits {
        Limits { rows: self.work.chunk, catch_up: self.catch_up.min(self.work.chunk), eager: self.eager }
    }

    pub(super) fn write_list(&mut self, list: usize, rows: &[[u32; 4]]) -> Result<()> {
        self.backend.write(&self.work.table, list * self.work.chunk * 4, bytemuck::cast_slice(rows.as_flattened()))
    }

    /// As [`write_list`](Self::write_list), for a list that nothing uses which was handed over in this tick.
    pub(super) fn prepare_list(&mut self, list: usize, rows: &[[u32; 4]]) -> Result<()> {
        self.backend.prepare(&self.work.table, list * self.work.chunk * 4, bytemuck::cast_slice(rows.as_flattened()))
    }

    /// Hands passes over. `place` finds the place of a token in flight.
    pub(super) async fn send(&mut self, passes: Vec<Vec<Run>>, place: impl Fn(&Run, usize) -> Option<usize>) -> Result<Vec<Sent>> {
        // At the last loop that there is a slot for, old rows only owe their keys and values: no state is needed after it.
        let keys_only = |run: &Run, position| run.at_loop + 1 == self.loops && place(run, position).is_none();
        let mut shapes = Vec::with_capacity(passes.len());
        for runs in &passes {
            let all = || runs.iter().flat_map(|run| run.positions.clone().map(move |position| (run, position)));
            let whole = all().filter(|(run, position)| !keys_only(run, *position));
            let rows: Vec<_> = whole.chain(all().filter(|(run, position)| keys_only(run, *position))).collect();
            let list: Vec<[u32; 4]> = rows
                .iter()
                .map(|(run, position)| {
                    let place = place(run, *position).map_or(NO_PLACE, |place| place as u32);
                    [place, run.slot as u32, *position as u32, run.at_loop as u32]
                })
                .collect();
            let whole = all().filter(|(run, position)| !keys_only(run, *position)).count();
            let rows: Vec<_> = rows.into_iter().map(|(run, position)| (run.slot, position, run.at_loop)).collect();
            shapes.push((list, whole, rows));
        }
        let mut spans = Vec::with_capacity(passes.len());
        for (index, (list, whole, _)) in shapes.iter().enumerate() {
            self.prepare_list(self.work.loop_list(index), list)?;
            spans.push(self.spans(&list[..*whole]));
        }
        let mut sent = Vec::with_capacity(passes.len());
        for (index, ((runs, (_, whole, rows)), spans)) in passes.into_iter().zip(shapes).zip(spans).enumerate() {
            let (dispatches, weight_bytes) = self.replay(PlanKey::Loop { index, rows: rows.len(), whole, spans }).await?;
            sent.push(Sent { runs, rows, dispatches, weight_bytes });
        }
        Ok(sent)
    }

    /// Asks for the marks of so many passes, for the tokens in flight and, where some leave, for what was predicted.
    pub(super) fn look(&mut self, passes: usize, leaving: Option<&Leaving>) -> Result<Look> {
        let work = &self.work;
        let mut spans = vec![Span::words(self.backend.gate(), GATE_MARKS, passes), Span::rows(&work.act, 0, work.chunk)];
        if let Some(Leaving { picks: picks @ 1.., all, .. }) = leaving {
            spans.extend([Span::rows(&work.values, 0, *picks), Span::rows(&work.ids, 0, *picks)]);
            if *all {
                spans.push(Span::rows(&work.logits, 0, *picks));
            }
        }
        self.backend.look(&spans)
    }

    /// Enters the passes that ran into the ledgers.
    pub(super) fn commit(&mut self, passes: &[Sent], marks: &[f32]) -> Result<()> {
        for (pass, mark) in passes.iter().zip(marks) {
            let ran = mark.to_bits() != 0;
            self.count(pass, ran);
            for run in pass.runs.iter().filter(|_| ran) {
                self.sequences.ledger_mut(run.slot).advance(run.at_loop, run.positions.clone())?;
            }
        }
        Ok(())
    }

    pub(super) fn count(&mut self, pass: &Sent, ran: bool) {
        let counters = self.backend.counters_mut();
        if ran {
            counters.passes += 1;
            counters.rows += pass.rows.len() as u64;
            counters.rows_catching_up += pass.catching_up() as u64;
            counters.weight_bytes += pass.weight_bytes;
        } else {
            counters.empty_dispatches += pass.dispatches as u64;
        }
    }

    /// The oldest tick with what its look shows, once that has arrived.
    pub(super) async fn arrived(&mut self, wait: Wait) -> Result<Option<(Tick, Vec<Vec<f32>>)>> {
        let Some(tick) = self.flight.ticks.front_mut() else { return Ok(None) };
        // It stays in its place while it is waited for.
        let data = self.backend.take(&mut tick.look, wait).await;
        let tick = self.flight.ticks.pop_front();
        Ok(tick.zip(Some(data?)))
    }

    /// Waits for what an earlier driver left under way, so that the ledgers are true and nobody runs.
    pub(super) async fn settle(&mut self) -> Result<()> {
        if self.flight.unsure {
            let reason = "a traced or checked pass was ended in the middle, and what the cache holds is not known: load the model again";
            return Err(Error::Usage { reason: reason.into() });
        }
        while let Some((tick, data)) = self.arrived(Wait::Blocking).await? {
            self.commit(&tick.passes, &data[0])?;
        }
        if self.flight.stale {
            self.backend.write(&self.work.act, 0, &vec![0.0; self.work.chunk * ACT])?;
            self.flight.stale = false;
        }
        Ok(())
    }

    /// Lets up to `rows` rows of a sequence catch up, in passes of their own: for times when there is nothing else to do. Returns how
    /// many did; 0 once every position stands at the deepest loop that any of them has run. Loops that nobody has come to yet are
    /// left to whoever does.
    ///
    /// Nothing that the model computes depends on it, only when.
    pub async fn catch_up(&mut self, sequence: &Sequence, rows: usize) -> Result<usize> {
        self.check_owner(sequence)?;
        self.settle().await?;
        let slot = sequence.slot;
        self.sequences.ledger_mut(slot).truncate(sequence.len);
        // A token that runs on keeps the gate open.
        self.flight.stale = true;
        self.backend.write(&self.work.act, 0, &start(1, 0, Mode::Full))?;
        let mut done = 0;
        while done < rows {
            let ledger = self.sequences.ledger(slot).clone();
            let mut lead = Lead { slot, first: sequence.len, end: sequence.len, cap: 0, ledger: ledger.clone(), waited: 0 };
            let runs = behind(&mut lead, &ledger, 1, (rows - done).min(self.work.chunk))?;
            if runs.is_empty() {
                break;
            }
            self.flight.unsure = true;
            let passes = self.send(vec![runs], |_, _| None).await?;
            done += passes.iter().map(|pass| pass.rows.len()).sum::<usize>();
            let look = self.look(passes.len(), None)?;
            self.flight.ticks.push_back(Tick { passes, leaving: None, look });
            self.flight.unsure = false;
            let wait = if self.backend.is_host() { Wait::Free } else { Wait::Blocking };
            if let Some((tick, data)) = self.arrived(wait).await? {
                self.commit(&tick.passes, &data[0])?;
            }
        }
        self.settle().await?;
        Ok(done)
    }
}

impl Sent {
    /// Its rows in the order of the list: slot, position, loop.
    pub fn rows(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        self.rows.iter().copied()
    }

    fn catching_up(&self) -> usize {
        self.runs.iter().map(|run| run.old).sum()
    }

    /// What a trace says of it.
    pub fn trace(&self) -> PassTrace {
        PassTrace {
            rows: self.rows.len(),
            rows_catching_up: self.catching_up(),
            loops: self.runs.iter().map(|run| (run.at_loop + 1, run.positions.len())).collect(),
            dispatches: self.dispatches,
            weight_bytes: self.weight_bytes,
        }
    }
}
