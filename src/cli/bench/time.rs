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

impl Test {
    /// `pp512`, `tg128 @ d512`.
    pub fn name(&self) -> String {
        let kind = if self.kind == Kind::Prompt { "pp" } else { "tg" };
        let cached = if self.cached == 0 { String::new() } else { format!(" @ d{}", self.cached) };
        format!("{kind}{}{cached}", self.tokens)
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

/// A test that was run once more while every kernel was timed.
pub(super) struct Profiled {
    pub test: Test,
    pub profile: Profile,
    pub run: Run,
}

/// Runs the first test of each kind once to warm up and once while every kernel is timed. `watch` as in [`all`].
pub(super) fn profile(engine: &mut Engine, tests: &[Test], watch: &mut dyn FnMut(&Test, bool) -> Result<()>) -> Result<Vec<Profiled>> {
    let mut rows = Vec::new();
    for test in profiled(tests) {
        let mut sequence = engine.sequence()?;
        if test.cached > 0 {
            feed(engine, &mut sequence, &prompt(engine, test.cached), test.depth())?;
        }
        once(engine, &mut sequence, test, watch)?;
        engine.start_profile()?;
        let run = once(engine, &mut sequence, test, watch);
        let profile = block_on(engine.take_profile())?;
        rows.push(Profiled { test: *test, profile, run: run? });
    }
    Ok(rows)
}

/// The first test of each kind.
pub(super) fn profiled(tests: &[Test]) -> impl Iterator<Item = &Test> {
    [Kind::Prompt, Kind::Generation].into_iter().filter_map(|kind| tests.iter().find(|test| test.kind == kind))
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
