//! Plays a script on the lazy engine, and holds at every step what must be true of its ledgers, its counters and its passes.

use std::mem::take;

use pollster::block_on;
use refrain::model::{Depth, Detail, Engine, Feed, Logits, Output, Pace, RowOutput, Sequence, Trace};

use super::case::{CONTEXT, Case, Op, Setup};

pub const ALL: Logits = Logits { every: true, best: 1, all: true };

/// What went wrong.
pub type Checked<T> = Result<T, String>;

/// The tokens of a sequence, each with the depth that it was fed with.
pub type Path = Vec<(u32, Depth)>;

/// Tokens that were fed, and what came of them: those of `path` from `first` on.
pub struct Event {
    pub what: String,
    pub path: Path,
    pub first: usize,
    pub output: Output,
}

/// What was seen, so that it shows when the cases no longer try what they are for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub tokens: u64,
    pub rows: u64,
    /// Rows that the schedule `full` would have run.
    pub rows_full: u64,
    pub rows_catching_up: u64,
    pub empty_dispatches: u64,
    /// Passes that held rows at different loops.
    pub mixed_passes: u64,
    pub forks: u64,
    pub truncations: u64,
    /// Rows that caught up because `Engine::catch_up` was called.
    pub called_up: u64,
    /// Sequences that left a batch with tokens under way, or were dropped with it.
    pub left_in_flight: u64,
}

pub struct Live {
    /// None while it is in a batch.
    pub sequence: Option<Sequence>,
    path: Path,
    /// By loop: positions that had to run it so far; those that the schedule `full` would have.
    least: Vec<usize>,
    most: Vec<usize>,
    /// More may have run than is known.
    pub loose: bool,
}

/// The engine, the sequences that live on it, and what has come of them.
pub struct Play<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) setup: &'a Setup,
    pub(super) vocabulary: u32,
    pub(super) live: Vec<Live>,
    pub events: Vec<Event>,
    pub seen: Seen,
    /// Rows may have run for tokens that were given up.
    pub(super) spilled: bool,
}

/// An error with the place where it came up.
pub fn at<T>(what: &str, result: refrain::Result<T>) -> Checked<T> {
    result.map_err(|error| format!("{what}: {error}"))
}

pub fn ensure(good: bool, what: impl FnOnce() -> String) -> Checked<()> {
    if good { Ok(()) } else { Err(what()) }
}

impl Live {
    pub fn new(engine: &Engine) -> Checked<Self> {
        let sequence = Some(at("a sequence", engine.sequence())?);
        let none = || vec![0; engine.max_loops() + 1];
        Ok(Self { sequence, path: Vec::new(), least: none(), most: none(), loose: false })
    }

    /// Tokens were fed and came out: takes them down, and what they did for the ledger.
    pub fn fed(&mut self, what: &str, tokens: &[u32], depth: Depth, output: Output, seen: &mut Seen) -> Checked<Event> {
        let first = self.path.len();
        ensure(output.rows.len() == tokens.len() && output.predictions.len() == tokens.len(), || format!("{what}: {output:?}"))?;
        self.path.extend(tokens.iter().map(|token| (*token, depth)));
        let full = self.most.iter().sum::<usize>();
        for (position, RowOutput { loops, .. }) in (first + 1..).zip(&output.rows) {
            self.least[..*loops].fill(position);
            self.most[..depth.loops].fill(position);
        }
        seen.tokens += tokens.len() as u64;
        seen.rows_full += (self.most.iter().sum::<usize>() - full) as u64;
        Ok(Event { what: what.into(), path: self.path.clone(), first, output })
    }

    /// Tokens that the model has and there is room for.
    pub fn fitting(&self, tokens: &[u32], vocabulary: u32) -> Vec<u32> {
        tokens.iter().take(CONTEXT - self.path.len()).map(|token| token % vocabulary).collect()
    }

    fn truncate(&mut self, len: usize) {
        self.path.truncate(len);
        self.least.iter_mut().chain(&mut self.most).for_each(|done| *done = (*done).min(len));
    }
}

impl<'a> Play<'a> {
    pub fn new(engine: &'a mut Engine, case: &'a Case) -> Checked<Self> {
        let live = (0..case.setup.sequences).map(|_| Live::new(engine)).collect::<Checked<_>>()?;
        let vocabulary = case.model.vocabulary() as u32;
        Ok(Self { engine, setup: &case.setup, vocabulary, live, events: Vec::new(), seen: Seen::default(), spilled: false })
    }

    /// Plays the script.
    pub fn play(&mut self, script: &[Op]) -> Checked<()> {
        let (mut held, start) = (0, self.engine.counters());
        for (i, op) in script.iter().enumerate() {
            let what = format!("operation {i}");
            let before = self.engine.counters().rows;
            self.spilled = false;
            self.run(&what, op)?;
            let now = self.check_ledgers(&what)?;
            let (ran, more) = ((self.engine.counters().rows - before) as i64, now as i64 - held as i64);
            match op {
                Op::Fork { .. } | Op::Truncate { .. } | Op::Anew { .. } => ensure(ran == 0, || format!("{what}: {ran} rows ran"))?,
                // Nobody is computed twice, and nobody is in the ledger who was not computed.
                _ if !self.spilled => ensure(ran == more, || format!("{what}: {ran} rows ran, {more} came into the ledgers"))?,
                _ => ensure(ran >= more, || format!("{what}: {ran} rows ran, {more} came into the ledgers"))?,
            }
            held = now;
        }
        let end = self.engine.counters();
        self.seen.rows = end.rows - start.rows;
        self.seen.rows_catching_up = end.rows_catching_up - start.rows_catching_up;
        self.seen.empty_dispatches = end.empty_dispatches - start.empty_dispatches;
        Ok(())
    }

    fn run(&mut self, what: &str, op: &Op) -> Checked<()> {
        let (count, loops) = (self.live.len(), self.setup.loops);
        match op {
            Op::Feed { feeds, cap, traced } => self.feed(what, feeds, cap.depth(loops), *traced),
            Op::Decode { who, tokens, cap } => {
                tokens.iter().try_for_each(|token| self.feed(what, &[(*who, vec![*token])], cap.depth(loops), false))
            }
            Op::Fork { who, onto } => {
                let (who, onto) = (who % count, onto % count);
                if who == onto {
                    return Ok(());
                }
                // The place of the other is free then, with all that lies there.
                self.live[onto].sequence = None;
                let Live { sequence, path, least, most, .. } = &self.live[who];
                let Some(sequence) = sequence else { return Ok(()) };
                let copy = Some(at(what, block_on(self.engine.fork(sequence)))?);
                self.live[onto] = Live { sequence: copy, path: path.clone(), least: least.clone(), most: most.clone(), loose: false };
                self.seen.forks += 1;
                Ok(())
            }
            Op::Truncate { who, keep } => {
                let live = &mut self.live[who % count];
                let keep = keep % (live.path.len() + 1);
                self.seen.truncations += u64::from(keep < live.path.len());
                live.sequence.iter_mut().for_each(|sequence| sequence.truncate(keep));
                live.truncate(keep);
                Ok(())
            }
            Op::Anew { who } => {
                self.live[who % count].sequence = None;
                self.live[who % count] = Live::new(self.engine)?;
                Ok(())
            }
            Op::CatchUp { who, rows } => self.catch_up(what, who % count, *rows),
            Op::Batch { steps, abandon } => self.batch(what, steps, *abandon),
        }
    }

    fn feed(&mut self, what: &str, feeds: &[(usize, Vec<u32>)], depth: Depth, traced: bool) -> Checked<()> {
        let mut chosen: Vec<(usize, Vec<u32>, Sequence)> = Vec::new();
        for (who, tokens) in feeds {
            let who = who % self.live.len();
            let tokens = self.live[who].fitting(tokens, self.vocabulary);
            // A sequence that was named twice has been taken.
            if let Some(sequence) = self.live[who].sequence.take_if(|_| !tokens.is_empty()) {
                chosen.push((who, tokens, sequence));
            }
        }
        if chosen.is_empty() {
            return Ok(());
        }
        let rows = self.engine.counters().rows;
        let mut feeds: Vec<Feed> = chosen.iter_mut().map(|(_, tokens, sequence)| Feed { sequence, tokens }).collect();
        let output = if traced {
            let run = self.engine.forward_traced(&mut feeds, depth, ALL, Detail::default());
            let (output, trace) = at(what, block_on(run))?;
            self.check_trace(what, &trace, self.engine.counters().rows - rows)?;
            output
        } else {
            at(what, block_on(self.engine.forward(&mut feeds, depth, ALL)))?
        };
        let in_order = output.predictions.iter().enumerate().all(|(i, prediction)| prediction.row == i);
        ensure(in_order, || format!("{what}: the predictions are out of order"))?;
        let (mut rows, mut predictions) = (output.rows.into_iter(), output.predictions.into_iter());
        for (who, tokens, sequence) in chosen {
            let n = tokens.len();
            let output = Output { rows: rows.by_ref().take(n).collect(), predictions: predictions.by_ref().take(n).collect() };
            self.live[who].sequence = Some(sequence);
            self.events.push(self.live[who].fed(&format!("{what}, sequence {who}"), &tokens, depth, output, &mut self.seen)?);
        }
        Ok(())
    }

    /// Passes hold no more than they may, and together the rows that ran.
    fn check_trace(&mut self, what: &str, trace: &Trace, ran: u64) -> Checked<()> {
        let Setup { chunk, catch_up, eager, .. } = self.setup;
        for pass in &trace.passes {
            let at_loops = pass.loops.iter().map(|(_, rows)| rows).sum::<usize>();
            let most = catch_up.unwrap_or(usize::MAX).saturating_add(*eager);
            let good = pass.rows == at_loops && pass.rows <= chunk.unwrap_or(usize::MAX) && pass.rows_catching_up <= most;
            ensure(good, || format!("{what}: {pass:?}"))?;
            self.seen.mixed_passes += u64::from(*eager == 0 && pass.loops.iter().any(|(at_loop, _)| *at_loop != pass.loops[0].0));
        }
        let rows = trace.passes.iter().map(|pass| pass.rows as u64).sum::<u64>();
        ensure(rows == ran, || format!("{what}: {ran} rows ran, {rows} in the trace"))
    }

    fn catch_up(&mut self, what: &str, who: usize, rows: usize) -> Checked<()> {
        let live = &mut self.live[who];
        let Some(sequence) = &live.sequence else { return Ok(()) };
        let ledger = at(what, block_on(self.engine.ledger(sequence)))?;
        let expected = rows.min(ledger.debt(ledger.deepest()));
        let found = at(what, block_on(self.engine.catch_up(sequence, rows)))?;
        live.loose = true;
        self.seen.called_up += found as u64;
        ensure(found == expected, || format!("{what}: {found} rows caught up, expected {expected}"))
    }

    /// Ledgers are staircases over all positions, in which stands what was needed; without rows that run ahead of their need, no more
    /// than the schedule `full` would run, and where the host looks after every pass nothing else at all. Returns all their rows.
    fn check_ledgers(&mut self, what: &str) -> Checked<usize> {
        let exact = self.engine.pace() == Pace { group: 1, ahead: 0 };
        let mut rows = 0;
        for (who, live) in self.live.iter_mut().enumerate() {
            let Some(sequence) = &live.sequence else { return Err(format!("{what}: sequence {who} is lost")) };
            let ledger = at(what, block_on(self.engine.ledger(sequence)))?;
            let done: Vec<usize> = (0..=self.setup.loops).map(|t| ledger.done(t)).collect();
            if take(&mut live.loose) {
                live.least.iter_mut().zip(&done).for_each(|(least, done)| *least = (*least).max(*done));
                live.most.iter_mut().zip(&done).for_each(|(most, done)| *most = (*most).max(*done));
            }
            let says = |why: &str| format!("{what}, sequence {who}: {why}: {done:?}, expected {:?} to {:?}", live.least, live.most);
            ensure(sequence.len() == live.path.len() && ledger.positions() == sequence.len(), || says("positions"))?;
            ensure(done.windows(2).all(|pair| pair[0] >= pair[1]), || says("no staircase"))?;
            ensure(done.iter().zip(&live.least).all(|(done, least)| done >= least), || says("rows are missing"))?;
            if self.setup.eager == 0 {
                ensure(done.iter().zip(&live.most).all(|(done, most)| done <= most), || says("more than full"))?;
                ensure(!exact || done == live.least, || says("more than was needed"))?;
            }
            rows += done.iter().sum::<usize>();
        }
        Ok(rows)
    }
}
