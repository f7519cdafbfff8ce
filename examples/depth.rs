//! Depth on demand, measured: a crafted model whose tokens decide their depth decodes the same tokens with every loop for every token
//! (`full`, as the PyTorch package does) and with loops only where they are needed (`lazy`), in slices that take turns:
//! `cargo run --release --example depth -- [tiny|100m] [--tokens N] [--repeat N] [--only N] [--catch-up N] [--device NAME]
//! [--json]`
//!
//! With `--pace`: what it costs to look often, or seldom, whether a token has halted (see `depth/pace.rs`).

#![allow(clippy::print_stdout)] // an example prints

mod common;
#[path = "depth/pace.rs"]
mod pace;

use std::time::Instant;

use common::{Args, Random, count, crafted, median, wrong};
use refrain::backend::Counters;
use refrain::model::defaults::Exit;
use refrain::model::{DEFAULT_CHUNK, Depth, Detail, Engine, Feed, Logits, Schedule, Sequence};
use refrain::{Options, Result};
use serde_json::json;

const LOOPS: usize = 16;
const DEPTH: Depth = Depth { loops: LOOPS, min_loops: 0, exit: Exit::Model };
/// Tokens of the prompt; their depth is 4.
const PROMPT: usize = 8;
/// Tokens that one schedule decodes before it is the other's turn: what else runs on the machine then slows both alike.
const SLICE: usize = 50;
/// Of one token in so many all logits are compared; of the others the best one and the sum.
const SAMPLE: usize = 50;

/// How deep tokens are, from a random number between 0 and 1.
type Depths = (&'static str, fn(f32) -> usize);

const DISTRIBUTIONS: [Depths; 3] = [
    ("geometric, mean 4.6, at most 16", |u| ((1.0 + ((1.0 - u).ln() / (1.0 - 1.0 / 4.6f32).ln()).floor()) as usize).min(LOOPS)),
    ("98% at 4, 2% at 16", |u| if u < 0.98 { 4 } else { 16 }),
    ("90% at 4, 10% at 16", |u| if u < 0.9 { 4 } else { 16 }),
];

/// One schedule's way through the tokens.
struct Side {
    schedule: Schedule,
    sequence: Sequence,
    /// Milliseconds of every token.
    times: Vec<f64>,
    counters: Counters,
    /// Rows that caught up at every token.
    caught_up: Vec<u64>,
    /// The best next token, its logit and log Σ e^logit at every token, and all logits of some.
    best: Vec<(u32, f32, f32)>,
    logits: Vec<Vec<f32>>,
}

fn main() -> Result<()> {
    let args = Args::new();
    if args.has("--pace") {
        return pollster::block_on(pace::measure(&args));
    }
    pollster::block_on(measure(&args))
}

async fn measure(args: &Args) -> Result<()> {
    let (size, tokens) = (args.word().unwrap_or("tiny"), args.number("--tokens", 1000)?);
    let repeat = args.number("--repeat", 1)?.max(1);
    let mut options =
        Options { device: args.device()?, context: Some(PROMPT + tokens), loops: Some(LOOPS), sequences: Some(2), ..Options::default() };
    if args.has("--catch-up") {
        options.catch_up = Some(args.number("--catch-up", 0)?);
        // A pass has room for them and for the token that needs them.
        options.chunk = options.catch_up.map(|rows| (rows + 1).max(DEFAULT_CHUNK));
    }
    let mut engine = Engine::load(&crafted::model(size, LOOPS)?, &options, &mut |_| {}).await?;
    if !args.has("--json") {
        let parameters = engine.config().parameters().total as f64 / 1e6;
        println!("{size}: {parameters:.1} M parameters, {LOOPS} loops, {tokens} tokens, on {}", engine.device().name);
    }
    let only = args.number("--only", 0)?;
    for (i, distribution) in DISTRIBUTIONS.iter().enumerate().filter(|(i, _)| only == 0 || only == i + 1) {
        let mut random = Random(2 + i as u64);
        let vocab_size = engine.config().vocab_size;
        let mut draw = |depth: usize| (depth, crafted::token(depth, LOOPS, vocab_size, &mut random));
        let prompt: Vec<u32> = (0..PROMPT).map(|_| draw(4).1).collect();
        let mut chance = Random(100 + i as u64);
        let given: Vec<(usize, u32)> = (0..tokens).map(|_| draw(distribution.1(chance.unit()))).collect();
        // Every run does the same; of each token the fastest time is kept.
        let mut sides = run(&mut engine, &prompt, &given).await?;
        for _ in 1..repeat {
            for (side, again) in sides.0.iter_mut().zip(run(&mut engine, &prompt, &given).await?.0) {
                side.times.iter_mut().zip(again.times).for_each(|(time, again)| *time = time.min(again));
            }
        }
        report(distribution.0, &given, &sides.0, sides.1, args.has("--json"));
    }
    Ok(())
}

/// Decodes the tokens with both schedules; returns lazy and full, and the dispatches of a loop.
async fn run(engine: &mut Engine, prompt: &[u32], given: &[(usize, u32)]) -> Result<([Side; 2], usize)> {
    let side = |engine: &Engine, schedule| -> Result<Side> {
        let sequence = engine.sequence()?;
        let (times, caught_up, best, logits) = Default::default();
        Ok(Side { schedule, sequence, times, counters: Counters::default(), caught_up, best, logits })
    };
    let mut sides = [side(engine, Schedule::Lazy)?, side(engine, Schedule::Full)?];
    let mut dispatches = 0;
    for side in &mut sides {
        engine.set_schedule(side.schedule);
        let (last, first) = prompt.split_last().unwrap_or((&0, &[]));
        engine.forward(&mut [Feed { sequence: &mut side.sequence, tokens: first }], DEPTH, Logits::GREEDY).await?;
        let feed = Feed { sequence: &mut side.sequence, tokens: &[*last] };
        let (_, trace) = engine.forward_traced(&mut [feed], DEPTH, Logits::GREEDY, Detail::default()).await?;
        dispatches = trace.passes.first().map_or(0, |pass| pass.dispatches);
    }
    for (number, slice) in given.chunks(SLICE).enumerate() {
        let turns = if number % 2 == 0 { [0, 1] } else { [1, 0] };
        for turn in turns {
            sides[turn].decode(engine, slice).await?;
        }
    }
    Ok((sides, dispatches))
}

impl Side {
    async fn decode(&mut self, engine: &mut Engine, slice: &[(usize, u32)]) -> Result<()> {
        engine.set_schedule(self.schedule);
        for (depth, token) in slice {
            let all = self.times.len().is_multiple_of(SAMPLE);
            let logits = Logits { every: false, best: 1, all };
            let (before, start) = (engine.counters(), Instant::now());
            let output = engine.forward(&mut [Feed { sequence: &mut self.sequence, tokens: &[*token] }], DEPTH, logits).await?;
            self.times.push(start.elapsed().as_secs_f64() * 1e3);
            count(&mut self.counters, before, engine.counters());
            self.caught_up.push(engine.counters().rows_catching_up - before.rows_catching_up);
            if output.rows[0].loops != *depth {
                return Err(wrong("a token's depth", &depth.to_string(), &output.rows[0].loops.to_string()));
            }
            let prediction = &output.predictions[0];
            self.best.push((prediction.best[0].0, prediction.best[0].1, prediction.log_sum_exp));
            if all {
                self.logits.push(prediction.logits.clone());
            }
        }
        Ok(())
    }

    fn total(&self) -> f64 {
        self.times.iter().sum()
    }

    /// The slowest token.
    fn worst(&self) -> usize {
        (0..self.times.len()).max_by(|a, b| self.times[*a].total_cmp(&self.times[*b])).unwrap_or(0)
    }
}

/// How far the two sides' logits are apart, relative to the largest, and at how many tokens their best next token differs.
fn difference([lazy, full]: &[Side; 2]) -> (f32, usize) {
    let flat = |side: &Side| -> Vec<f32> {
        let sums = side.best.iter().flat_map(|(_, best, sum)| [*best, *sum]);
        sums.chain(side.logits.iter().flatten().copied()).collect()
    };
    let (a, b) = (flat(lazy), flat(full));
    let largest = b.iter().fold(0f32, |max, x| max.max(x.abs()));
    let apart = a.iter().zip(&b).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
    let others = lazy.best.iter().zip(&full.best).filter(|(a, b)| a.0 != b.0).count();
    (apart / largest, others)
}

fn report(name: &str, given: &[(usize, u32)], sides: &[Side; 2], dispatches: usize, as_json: bool) {
    let (n, [lazy, full]) = (given.len() as f64, sides);
    let mean = given.iter().map(|(depth, _)| depth).sum::<usize>() as f64 / n;
    let (apart, others) = difference(sides);
    let ratio = |number: fn(&Side) -> f64| number(lazy) / number(full);
    let passes = ratio(|side| side.counters.passes as f64);
    let (total, middle) = (ratio(Side::total), ratio(|side| median(&side.times)));
    if as_json {
        let side = |side: &Side| {
            let Counters { passes, rows, rows_catching_up, empty_dispatches, read_backs, polls, weight_bytes, .. } = side.counters;
            let worst = side.worst();
            json!({
                "passes": passes, "rows": rows, "rows_catching_up": rows_catching_up, "empty_dispatches": empty_dispatches,
                "read_backs": read_backs, "polls": polls, "weight_bytes": weight_bytes, "ms_total": side.total(),
                "ms_median": median(&side.times), "ms_worst": side.times[worst], "worst_caught_up": side.caught_up[worst],
            })
        };
        let all = json!({
            "depths": name, "mean": mean, "tokens": given.len(), "dispatches_a_loop": dispatches, "lazy": side(lazy), "full": side(full),
            "ratio_passes": passes, "ratio_time": total, "ratio_median": middle, "logits_apart": apart, "other_best": others,
        });
        println!("{all}");
        return;
    }
    println!("\n{name} (mean here {mean:.2}); {dispatches} dispatches a loop");
    println!(
        "      {:>8} {:>8} {:>9} {:>10} {:>9} {:>9} {:>16} {:>9} {:>8} {:>7} {:>7}",
        "passes", "rows", "catch up", "total s", "median ms", "worst ms", "(rows caught up)", "weight GB", "waits/t", "polls/t", "empty/t"
    );
    for (what, side) in ["lazy", "full"].iter().zip(sides) {
        let (c, worst) = (side.counters, side.worst());
        println!(
            "{what:<5} {:>8} {:>8} {:>9} {:>10.2} {:>9.2} {:>9.2} {:>16} {:>9.2} {:>8.2} {:>7.2} {:>7.1}",
            c.passes,
            c.rows,
            c.rows_catching_up,
            side.total() / 1e3,
            median(&side.times),
            side.times[worst],
            side.caught_up[worst],
            c.weight_bytes as f64 / 1e9,
            c.read_backs as f64 / n,
            c.polls as f64 / n,
            c.empty_dispatches as f64 / n
        );
    }
    let bytes = ratio(|side| side.counters.weight_bytes as f64);
    println!("lazy / full: passes {passes:.3}, weight bytes {bytes:.3}, time {total:.3}, median token {middle:.3}");
    println!("logits at most {apart:.1e} of the largest apart; another best token at {others} of {n}");
}
