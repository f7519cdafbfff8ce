//! What is timed, and how: wall-clock time around forward passes that end with their prediction on the host.

use std::time::Instant;

use pollster::block_on;

use crate::backend::Profile;
use crate::error::Result;
use crate::model::defaults::Exit;
use crate::model::{Depth, Engine, Feed, Logits, Sequence};

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub kind: Kind,
    /// Tokens that are timed.
    pub tokens: usize,
    /// Tokens that are in the cache before.
    pub cached: usize,
    /// Loops of every token.
    pub loops: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All tokens in one forward pass.
    Prompt,
    /// One by one, each the best after the one before it.
    Generation,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Prompt, Self::Generation];
}

impl Test {
    /// `pp512`, `tg128 @ d512`.
    pub fn name(&self) -> String {
        let kind = if self.kind == Kind::Prompt { "pp" } else { "tg" };
        let cached = if self.cached == 0 { String::new() } else { format!(" @ d{}", self.cached) };
        format!("{kind}{}{cached}", self.tokens)
    }

    /// `tg128 @ d512, 8 loops`.
    pub fn whole_name(&self) -> String {
        format!("{}, {} loop{}", self.name(), self.loops, if self.loops == 1 { "" } else { "s" })
    }

    fn depth(&self) -> Depth {
        Depth { loops: self.loops, min_loops: 0, exit: Exit::Fixed }
    }
}

/// A test and the seconds of each of its runs.
pub(super) struct Row {
    pub test: Test,
    pub seconds: Vec<f64>,
}

/// A test that was run again while every kernel was timed: of its runs the one that spent the least time in kernels.
pub(super) struct Profiled {
    pub test: Test,
    pub profile: Profile,
    pub run: Run,
    /// Runs of which this is the fastest.
    pub runs: usize,
    /// The median of the runs in which no kernel was timed, in seconds.
    pub plain: f64,
}

/// Runs the first test of each kind once to warm up, and then as often as its row was while every kernel is timed. `profiled` gets each that
/// is complete; `watch` as in [`all`].
pub(super) fn profile(
    engine: &mut Engine,
    rows: &[Row],
    watch: &mut dyn FnMut(&Test, bool) -> Result<()>,
    profiled: &mut Vec<Profiled>,
) -> Result<()> {
    for Row { test, seconds } in Kind::ALL.iter().filter_map(|kind| rows.iter().find(|row| row.test.kind == *kind)) {
        watch(test, false)?;
        let mut sequence = engine.sequence()?;
        if test.cached > 0 {
            feed(engine, &mut sequence, &prompt(engine, test.cached), test.depth())?;
        }
        once(engine, &mut sequence, test, watch)?;
        let (runs, plain) = (seconds.len(), median(seconds.clone()));
        let mut fastest: Option<Profiled> = None;
        for _ in 0..runs {
            engine.start_profile()?;
            let run = once(engine, &mut sequence, test, watch);
            let profile = block_on(engine.take_profile())?;
            let run = run?;
            if fastest.as_ref().is_none_or(|fastest| profile.busy() < fastest.profile.busy()) {
                fastest = Some(Profiled { test: *test, profile, run, runs, plain });
            }
        }
        profiled.extend(fastest);
    }
    Ok(())
}

/// The middle one of some numbers, or the mean of the two in the middle; there is at least one.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    (numbers[(numbers.len() - 1) / 2] + numbers[numbers.len() / 2]) / 2.0
}

/// Runs every test once to warm up and `repeat` times to be timed; `rows` gets each that is complete. `watch` is called before the first
/// token, between tokens, and with `true` after each run: an error of it ends everything.
pub(super) fn all(
    engine: &mut Engine,
    tests: &[Test],
    repeat: usize,
    watch: &mut dyn FnMut(&Test, bool) -> Result<()>,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut start: Option<(Test, Sequence)> = None;
    for test in tests {
        watch(test, false)?;
        // What is in the cache serves all tests of these loops.
        if start.as_ref().is_none_or(|(first, _)| (first.loops, first.cached) != (test.loops, test.cached)) {
            // The place of the sequence before it is the only one.
            drop(start.take());
            let mut sequence = engine.sequence()?;
            if test.cached > 0 {
                feed(engine, &mut sequence, &prompt(engine, test.cached), test.depth())?;
            }
            start = Some((*test, sequence));
        }
        let Some((_, sequence)) = &mut start else { continue };
        once(engine, sequence, test, watch)?;
        let seconds = (0..repeat).map(|_| once(engine, sequence, test, watch).map(|run| run.seconds())).collect::<Result<_>>()?;
        rows.push(Row { test: *test, seconds });
    }
    Ok(())
}

/// When a run began, and when each of its predictions was there: one of a prompt, one a token of a generation.
pub(super) struct Run {
    pub begin: Instant,
    pub ends: Vec<Instant>,
}

impl Run {
    pub fn seconds(&self) -> f64 {
        self.ends.last().map_or(0.0, |end| end.duration_since(self.begin).as_secs_f64())
    }
}

/// One run after the cached tokens.
fn once(engine: &mut Engine, sequence: &mut Sequence, test: &Test, watch: &mut dyn FnMut(&Test, bool) -> Result<()>) -> Result<Run> {
    sequence.truncate(test.cached);
    let tokens = prompt(engine, test.tokens);
    let mut ends = Vec::with_capacity(test.tokens);
    let begin = Instant::now();
    match test.kind {
        Kind::Prompt => {
            feed(engine, sequence, &tokens, test.depth())?;
            ends.push(Instant::now());
        }
        Kind::Generation => {
            let mut next = tokens[0];
            for _ in 0..test.tokens {
                watch(test, false)?;
                next = feed(engine, sequence, &[next], test.depth())?;
                ends.push(Instant::now());
            }
        }
    }
    watch(test, true)?;
    Ok(Run { begin, ends })
}

/// Runs tokens; the best next one.
fn feed(engine: &mut Engine, sequence: &mut Sequence, tokens: &[u32], depth: Depth) -> Result<u32> {
    let output = block_on(engine.forward(&mut [Feed { sequence, tokens }], depth, Logits::GREEDY))?;
    let best = output.predictions.first().and_then(|prediction| prediction.best.first());
    Ok(best.map_or(0, |(token, _)| *token))
}

/// Token ids without meaning, the same in every run, spread over the vocabulary by a multiple of the golden ratio.
fn prompt(engine: &Engine, count: usize) -> Vec<u32> {
    let vocabulary = engine.config().vocab_size as u64;
    (1..=count as u64).map(|i| (((i * 0x9e37_79b1 % (1 << 32)) * vocabulary) >> 32) as u32).collect()
}
