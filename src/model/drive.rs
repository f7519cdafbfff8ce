//! Runs tokens through the model: they enter (embedding, prelude), loop until they halt, and leave (coda, logits).
//!
//! Everything goes in ticks. A tick hands some passes of the loop over to the device and asks to look at how the tokens in flight stand
//! after them; what the look shows decides what the next tick holds. [`Pace`] says how many passes a tick has and how many ticks the
//! device may be ahead of what the host has seen. A pass that turns out to be needed by nobody runs empty (see the kernel `inject`), and
//! the ledgers of the sequences count only passes that ran.

use std::task::Poll;

use crate::backend::{Backend, MOST_MARKS, Wait};
use crate::error::{Error, Result};
use crate::kernels::halt::{ACT, Mode, RUNNING, start};
use crate::model::defaults::Exit;
use crate::model::flight::{Leaving, Sent, Tick};
use crate::model::rows::{Logits, Output, Prediction, RowOutput};
use crate::model::schedule::{Lead, Run, Schedule, compose};
use crate::model::stages::PlanKey;
use crate::model::trace::Watch;
use crate::model::work::{ENTERING, LEAVING, PICKS, TOKENS};
use crate::model::{Depth, Engine};

/// How far the host lets a device run before it looks whether tokens have halted.
///
/// More passes in a tick are fewer looks, and more passes that run empty after the last token has halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Passes of the loop that are handed over at once, at least 1.
    pub group: usize,
    /// Groups that may be under way before the host has seen how the first of them ended. With 0 it waits for each; with 1 it
    /// looks at one while the device works on the next.
    pub ahead: usize,
}

impl Pace {
    /// What is best where the host is to wait only once a token; docs/depth.md has the figures.
    pub fn of(backend: &Backend) -> Self {
        // The host's own memory can be looked at for nothing. A GPU has a pass to do while the host looks at the one before; larger
        // groups only run more of them empty.
        Self { group: 1, ahead: usize::from(!backend.is_host()) }
    }
}

/// Tokens of one sequence on their way through the model.
pub(super) struct Job {
    /// Its name among the jobs of a driver.
    pub key: usize,
    slot: usize,
    tokens: Vec<u32>,
    /// Position of the first token.
    first: usize,
    depth: Depth,
    logits: Logits,
    /// Tokens that have left; those after them, as many as there are places, are in flight.
    left: usize,
    places: Vec<usize>,
    lead: Option<Lead>,
    pub output: Output,
    /// The first position of this run whose logits came out as NaN or infinity.
    bad: Option<usize>,
    /// Whether this is the second run, which looks for the place where they began.
    again: bool,
    /// What ended it early.
    pub failed: Option<Error>,
}

/// Drives jobs on an engine.
pub(super) struct Driver {
    pub jobs: Vec<Job>,
    /// Free places, the lowest last.
    free: Vec<usize>,
    next_key: usize,
    pub watch: Option<Watch>,
}

impl Job {
    /// Tokens of the sequence at `slot` from position `first` on.
    pub fn new(slot: usize, first: usize, tokens: &[u32], depth: Depth, logits: Logits) -> Self {
        let tokens = tokens.to_vec();
        Self {
            key: 0,
            slot,
            tokens,
            first,
            depth,
            logits,
            left: 0,
            places: Vec::new(),
            lead: None,
            output: Output::default(),
            bad: None,
            again: false,
            failed: None,
        }
    }

    /// Whether all predictions are there, or none will come.
    pub fn is_done(&self) -> bool {
        self.left == self.tokens.len() || self.failed.is_some()
    }

    fn mode(&self, schedule: Schedule) -> Mode {
        match (self.depth.exit, schedule) {
            (Exit::Fixed, _) => Mode::Fixed,
            (Exit::Model, Schedule::Full) => Mode::Full,
            (Exit::Model, Schedule::Lazy) => Mode::Halt,
        }
    }

    /// The positions in flight.
    pub fn in_flight(&self) -> std::ops::Range<usize> {
        let first = self.first + self.left;
        first..first + self.places.len()
    }

    fn place(&self, position: usize) -> Option<usize> {
        self.places.get(position.checked_sub(self.first + self.left)?).copied()
    }

    fn picks(&self, position: usize) -> bool {
        self.logits.every || position + 1 == self.first + self.tokens.len()
    }
}

impl Driver {
    /// A driver for nobody yet. First it sees to it that nothing of an earlier one is under way.
    pub async fn new(engine: &mut Engine) -> Result<Self> {
        engine.settle().await?;
        let free = (0..engine.work.chunk).rev().collect();
        Ok(Self { jobs: Vec::new(), free, next_key: 0, watch: None })
    }

    /// Takes a job; returns its key.
    pub fn join(&mut self, engine: &mut Engine, mut job: Job) -> usize {
        job.key = self.next_key;
        self.next_key += 1;
        // What lies past the first token was fed and cut off again, or computed for nobody.
        engine.sequences.ledger_mut(job.slot).truncate(job.first);
        let key = job.key;
        self.jobs.push(job);
        key
    }

    /// Runs until every job is done.
    pub async fn run(&mut self, engine: &mut Engine) -> Result<()> {
        while self.jobs.iter().any(|job| !job.is_done()) {
            self.tick(engine).await?;
        }
        Ok(())
    }

    /// Hands over what can be, and takes what there is.
    pub async fn tick(&mut self, engine: &mut Engine) -> Result<()> {
        // A GPU's looks let others have the thread. The host's own memory is never waited for, and a pass may take long.
        if engine.backend.is_host() {
            yield_once().await;
        }
        engine.flight.stale = true;
        if engine.flight.ticks.is_empty() {
            self.enter(engine).await?;
        }
        engine.flight.unsure = true;
        let mut passes = self.send(engine).await?;
        if engine.backend.is_host() && !passes.is_empty() {
            let mut look = engine.look(passes.len(), None)?;
            let data = engine.backend.take(&mut look, Wait::Free).await?;
            self.observe(engine, std::mem::take(&mut passes), &data)?;
        }
        let leaving = self.leave(engine).await?;
        if leaving.is_some() || !passes.is_empty() {
            let look = engine.look(passes.len(), leaving.as_ref())?;
            engine.flight.ticks.push_back(Tick { passes, leaving, look });
        }
        engine.flight.unsure = false;
        self.wait(engine).await?;
        engine.flight.stale = self.jobs.iter().any(|job| !job.places.is_empty());
        Ok(())
    }

    /// Takes looks until the device is no further ahead than it may be.
    async fn wait(&mut self, engine: &mut Engine) -> Result<()> {
        // With several sequences each look may end the way of one, and let another in.
        let ahead = if self.jobs.len() == 1 && self.watch.is_none() { engine.pace.ahead } else { 0 };
        while engine.flight.ticks.len() > ahead || engine.flight.ticks.iter().any(|tick| tick.leaving.is_some()) {
            if !self.take(engine).await? {
                break;
            }
            // Where nobody runs on, the passes that were handed over on the chance of it are known to run empty.
            let idle = self.jobs.iter().all(|job| job.lead.as_ref().is_none_or(|lead| lead.end <= lead.first));
            while idle && engine.flight.ticks.front().is_some_and(|tick| tick.leaving.is_none()) {
                let Some(tick) = engine.flight.ticks.pop_front() else { break };
                engine.backend.forget(tick.look);
                tick.passes.iter().for_each(|pass| engine.count(pass, false));
            }
        }
        Ok(())
    }

    /// Takes the look at the oldest tick, if there is one.
    async fn take(&mut self, engine: &mut Engine) -> Result<bool> {
        let wait = if engine.flight.ticks.len() == 1 { Wait::Blocking } else { Wait::Poll };
        let Some((tick, data)) = engine.arrived(wait).await? else { return Ok(false) };
        self.observe(engine, tick.passes, &data)?;
        if let Some(leaving) = &tick.leaving {
            self.collect(engine, leaving, &data);
            self.diagnose(engine).await?;
        }
        Ok(true)
    }

    /// Lets tokens in, as many as there are places.
    async fn enter(&mut self, engine: &mut Engine) -> Result<()> {
        let (mut tokens, mut rows) = (Vec::new(), Vec::new());
        let mut waiting: Vec<&mut Job> = self.jobs.iter_mut().filter(|job| job.lead.is_none() && !job.is_done()).collect();
        // A long prompt takes what the others leave.
        waiting.sort_by_key(|job| job.tokens.len() - job.left);
        for job in waiting {
            let count = self.free.len().min(job.tokens.len() - job.left);
            job.places = self.free.split_off(self.free.len() - count);
            job.places.reverse();
            if count == 0 {
                break;
            }
            let act = start(job.depth.loops, job.depth.min_loops, job.mode(engine.schedule));
            for (i, position) in job.in_flight().enumerate() {
                let (slot, position) = (job.slot as u32, position as u32);
                tokens.push([job.tokens[job.left + i], slot, position, 0]);
                rows.push([job.places[i] as u32, slot, position, 0]);
                engine.backend.write(&engine.work.act, job.places[i] * ACT, &act)?;
            }
            let in_flight = job.in_flight();
            let ledger = engine.sequences.ledger(job.slot).clone();
            job.lead = Some(Lead { slot: job.slot, first: in_flight.start, end: in_flight.end, cap: job.depth.loops, ledger, waited: 0 });
        }
        if rows.is_empty() {
            return Ok(());
        }
        engine.prepare_list(TOKENS, &tokens)?;
        engine.prepare_list(ENTERING, &rows)?;
        match &mut self.watch {
            None => engine.replay(PlanKey::Enter { rows: rows.len(), spans: engine.spans(&rows) }).await.map(|_| ()),
            Some(watch) => watch.enter(engine, &rows).await,
        }
    }

    /// Hands over the passes of a tick: up to a group of them.
    async fn send(&mut self, engine: &mut Engine) -> Result<Vec<Sent>> {
        let flying = self.jobs.iter().filter(|job| job.lead.is_some()).count().max(1);
        let group = if self.watch.is_some() { 1 } else { engine.pace.group.div_ceil(flying).min(engine.work.lists) };
        let mut composed = Vec::new();
        while composed.len() < group {
            let mut leads: Vec<&mut Lead> = self.jobs.iter_mut().filter_map(|job| job.lead.as_mut()).collect();
            let runs = compose(&mut leads, engine.limits())?;
            if runs.is_empty() {
                break;
            }
            composed.push(runs);
        }
        let place = |run: &Run, position| {
            let job = self.jobs.iter().find(|job| job.lead.is_some() && job.slot == run.slot);
            job.and_then(|job| job.place(position))
        };
        let sent = engine.send(composed, place).await?;
        if let Some(watch) = &mut self.watch {
            for pass in &sent {
                watch.pass(engine, pass).await?;
            }
        }
        Ok(sent)
    }

    /// Takes in how the tokens in flight stand, and which passes ran.
    fn observe(&mut self, engine: &mut Engine, passes: Vec<Sent>, data: &[Vec<f32>]) -> Result<()> {
        engine.commit(&passes, &data[0])?;
        let settled = engine.flight.ticks.is_empty();
        for job in &mut self.jobs {
            let Some(lead) = &mut job.lead else { continue };
            let running = |place: &usize| data[1][place * ACT + RUNNING] > 0.0;
            lead.end = lead.first + job.places.iter().rposition(running).map_or(0, |last| last + 1);
            if settled {
                lead.ledger = engine.sequences.ledger(job.slot).clone();
            }
        }
        Ok(())
    }

    /// Lets the tokens out whose loops have ended, or will have by then.
    async fn leave(&mut self, engine: &mut Engine) -> Result<Option<Leaving>> {
        let mut leaving = Leaving { jobs: Vec::new(), picks: 0, best: 1, all: false };
        let (mut rows, mut picks) = (Vec::new(), Vec::new());
        for job in self.jobs.iter().filter(|job| job.lead.as_ref().is_some_and(Lead::ends)) {
            leaving.jobs.push(job.key);
            leaving.best = leaving.best.max(job.logits.best);
            leaving.all |= job.logits.all;
            for (place, position) in job.places.iter().zip(job.in_flight()) {
                if job.picks(position) {
                    picks.push([rows.len() as u32, 0, 0, 0]);
                }
                rows.push([*place as u32, job.slot as u32, position as u32, 0]);
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        leaving.picks = picks.len();
        leaving.best = leaving.best.clamp(1, engine.work.ids.cols);
        engine.prepare_list(LEAVING, &rows)?;
        engine.prepare_list(PICKS, &picks)?;
        let (count, best) = (rows.len(), leaving.best);
        match &mut self.watch {
            None => {
                engine.replay(PlanKey::Leave { rows: count, picks: picks.len(), best, spans: engine.spans(&rows) }).await.map(|_| ())?
            }
            Some(watch) => watch.leave(engine, &rows, &picks, best).await?,
        }
        Ok(Some(leaving))
    }

    /// Gives the jobs that leave what was read of them, and their places to others.
    fn collect(&mut self, engine: &Engine, leaving: &Leaving, data: &[Vec<f32>]) {
        let (work, vocab_size) = (&engine.work, engine.config.vocab_size);
        let mut pick = 0;
        for job in self.jobs.iter_mut().filter(|job| leaving.jobs.contains(&job.key)) {
            let threshold = if job.depth.exit == Exit::Model { engine.config.act_threshold } else { f32::INFINITY };
            for (place, position) in job.places.iter().zip(job.in_flight()) {
                let act = &data[1][place * ACT..][..ACT];
                job.output.rows.push(RowOutput { loops: act[1] as usize, halted: act[0] >= threshold });
                if !job.picks(position) {
                    continue;
                }
                let values = &data[2][pick * work.values.stride..][..2 + leaving.best];
                let ids: &[u32] = bytemuck::cast_slice(&data[3][pick * work.ids.stride..][..leaving.best]);
                if values[1] != 0.0 || !values[0].is_finite() {
                    job.bad.get_or_insert(position);
                }
                let best = ids.iter().copied().zip(values[2..].iter().copied()).take(job.logits.best.max(1));
                job.output.predictions.push(Prediction {
                    row: job.output.rows.len() - 1,
                    best: best.collect(),
                    log_sum_exp: values[0],
                    logits: match data.get(4).filter(|_| job.logits.all) {
                        Some(logits) => logits[pick * work.logits.stride..][..vocab_size].to_vec(),
                        None => Vec::new(),
                    },
                });
                pick += 1;
            }
            job.left += job.places.len();
            job.lead = None;
            self.free.append(&mut job.places);
        }
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Tokens whose logits came out as NaN or infinity run a second time, watched, and their sequence with them from its first loop on: that
    /// tells where it began. Whoever else is under way goes on beside them.
    async fn diagnose(&mut self, engine: &mut Engine) -> Result<()> {
        let Self { jobs, watch, .. } = self;
        for job in jobs.iter_mut().filter(|job| job.again || job.bad.is_some()) {
            if let Some(position) = job.bad.take() {
                // Positions before may have caught up beside them, and 0 · NaN is NaN. What is not finite goes no further than this job.
                engine.rewind(job.slot, job.first).await?;
                if job.again {
                    let found = watch.as_mut().and_then(|watch| watch.acquit(job.slot));
                    job.failed = Some(Error::NonFinite { place: found.unwrap_or_else(|| format!("the head at position {position}")) });
                } else {
                    watch.get_or_insert_with(Watch::passing).suspect(job.slot);
                    (job.again, job.left, job.output) = (true, 0, Output::default());
                }
            } else if job.is_done() {
                watch.as_mut().and_then(|watch| watch.acquit(job.slot));
            }
        }
        self.watch.take_if(|watch| watch.is_over());
        Ok(())
    }

    /// Gives up a job, whatever it has come to. Its sequence can be used for other things at once.
    pub async fn remove(&mut self, engine: &mut Engine, key: usize) -> Result<()> {
        // Passes that are under way were composed with it.
        while self.take(engine).await? {}
        let Some(at) = self.jobs.iter().position(|job| job.key == key) else { return Ok(()) };
        let job = self.jobs.remove(at);
        self.watch.as_mut().and_then(|watch| watch.acquit(job.slot));
        self.watch.take_if(|watch| watch.is_over());
        for place in job.places {
            engine.backend.write(&engine.work.act, place * ACT + RUNNING, &[0.0])?;
            self.free.push(place);
        }
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        Ok(())
    }
}

/// The most passes that a group may have.
pub(super) const MOST_PASSES: usize = MOST_MARKS;

/// Gives the thread away once: pending, and woken at the same time.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
