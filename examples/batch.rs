//! Several sequences decoded together against one after the other, by the same engine. Together, a sequence whose token has halted is
//! fed its next token at once while the others still loop:
//! `cargo run --release --example batch -- [follow|tiny|100m] [--tokens N] [--sequences N] [--rounds N] [--device NAME]`

#![allow(clippy::print_stdout)] // an example prints

mod common;

use std::time::Instant;

use common::{Args, Random, count, crafted};
use refrain::backend::Counters;
use refrain::generate::Model;
use refrain::model::{Depth, Engine, Feed, Logits, Output, Sequence};
use refrain::{Options, Result, shipped};

/// The best token and the one after it: how far they are apart says whether rounding could have changed them.
const BEST_TWO: Logits = Logits { every: false, best: 2, all: false };
const LOOPS: usize = 16;

/// One way through the tokens.
#[derive(Default)]
struct Side {
    /// Seconds of every round.
    seconds: Vec<f64>,
    counters: Counters,
    /// The tokens of every sequence, each with its lead over the second best.
    texts: Vec<Vec<(u32, f32)>>,
    loops: usize,
}

fn main() -> Result<()> {
    pollster::block_on(async {
        let args = Args::new();
        let (tokens, sequences) = (args.number("--tokens", 64)?, args.number("--sequences", 8)?);
        let name = args.word().unwrap_or("follow");
        let mut options = Options { device: args.device()?, sequences: Some(sequences), ..Options::default() };
        let mut prompts = Vec::new();
        let mut model = match shipped::source(name) {
            Some(source) => {
                let model = Model::open(&source, &options, &mut |_| {}).await?;
                let texts = ["p >k a >o z >v k >f ?p", "a >b b >c c >d d >e ?a", "k >e e >i t >t m >t ?k", "i >w n >g g >o w >n ?i ?n"];
                for i in 0..sequences {
                    prompts.push(model.encode(texts[i % texts.len()])?);
                }
                model
            }
            None => {
                options.context = Some(8 + tokens);
                let model = Model::open(&crafted::model(name, LOOPS)?, &options, &mut |_| {}).await?;
                let (mut random, vocab_size) = (Random(9), model.config().vocab_size as u32);
                prompts.extend((0..sequences).map(|_| (0..8).map(|_| random.bits() % vocab_size).collect()));
                model
            }
        };
        let engine = model.engine_mut();
        println!("{name}: {sequences} sequences of {tokens} tokens, on {}", engine.device().name);
        let (mut alone, mut together) = (Side::default(), Side::default());
        // The first round is for warmth: shaders and plans are made at their first use.
        for round in 0..=args.number("--rounds", 3)?.max(1) {
            alone.round(engine, &prompts, tokens, false).await?;
            together.round(engine, &prompts, tokens, true).await?;
            if round == 0 {
                (alone.seconds, alone.counters, alone.loops) = Default::default();
                (together.seconds, together.counters, together.loops) = Default::default();
            }
        }
        report(&alone, &together, (sequences * tokens) as f64);
        Ok(())
    })
}

impl Side {
    /// Reads the prompts, then decodes so many tokens of each sequence against the clock.
    async fn round(&mut self, engine: &mut Engine, prompts: &[Vec<u32>], tokens: usize, batch: bool) -> Result<()> {
        let depth = engine.default_depth();
        let mut started = Vec::new();
        self.texts.clear();
        for prompt in prompts {
            let mut sequence = engine.sequence()?;
            let output = engine.forward(&mut [Feed { sequence: &mut sequence, tokens: prompt }], depth, BEST_TWO).await?;
            self.texts.push(vec![best(&output)]);
            started.push(sequence);
        }
        let (before, start) = (engine.counters(), Instant::now());
        if batch {
            self.together(engine, started, depth, tokens).await?;
        } else {
            self.alone(engine, started, depth, tokens).await?;
        }
        self.seconds.push(start.elapsed().as_secs_f64());
        count(&mut self.counters, before, engine.counters());
        Ok(())
    }

    async fn alone(&mut self, engine: &mut Engine, started: Vec<Sequence>, depth: Depth, tokens: usize) -> Result<()> {
        for (mut sequence, text) in started.into_iter().zip(&mut self.texts) {
            for _ in 0..tokens {
                let token = text.last().map_or(0, |last| last.0);
                let output = engine.forward(&mut [Feed { sequence: &mut sequence, tokens: &[token] }], depth, BEST_TWO).await?;
                self.loops += output.rows[0].loops;
                text.push(best(&output));
            }
        }
        Ok(())
    }

    async fn together(&mut self, engine: &mut Engine, started: Vec<Sequence>, depth: Depth, tokens: usize) -> Result<()> {
        let mut batch = engine.batch().await?;
        // Keys count from 0, in the order of the insertions.
        for (sequence, text) in started.into_iter().zip(&self.texts) {
            let key = batch.insert(sequence)?;
            batch.feed(key, &[text[0].0], depth, BEST_TWO)?;
        }
        loop {
            let finished = batch.next().await?;
            if finished.is_empty() {
                return Ok(());
            }
            for finished in finished {
                let text = &mut self.texts[finished.key];
                let output = finished.output?;
                let next = best(&output);
                self.loops += output.rows[0].loops;
                text.push(next);
                if text.len() <= tokens {
                    batch.feed(finished.key, &[next.0], depth, BEST_TWO)?;
                }
            }
        }
    }
}

/// The best next token, and how far its logit is ahead of the second best.
fn best(output: &Output) -> (u32, f32) {
    match output.predictions.first().map_or(&[][..], |prediction| &prediction.best) {
        [(token, logit), (_, second), ..] => (*token, logit - second),
        [(token, _)] => (*token, f32::INFINITY),
        [] => (0, 0.0),
    }
}

fn report(alone: &Side, together: &Side, tokens: f64) {
    println!(
        "{:<10} {:>10} {:>13} {:>8} {:>9} {:>7} {:>9} {:>13} {:>8} {:>8}",
        "", "tokens/s", "(best round)", "loops/t", "passes/t", "rows/t", "catch up", "weight MB/t", "waits/t", "polls/t"
    );
    for (what, side) in [("alone", alone), ("together", together)] {
        let n = tokens * side.seconds.len() as f64;
        let c = side.counters;
        println!(
            "{what:<10} {:>10.1} {:>13.1} {:>8.2} {:>9.2} {:>7.2} {:>9.2} {:>13.3} {:>8.2} {:>8.2}",
            n / side.seconds.iter().sum::<f64>(),
            tokens / side.fastest(),
            side.loops as f64 / n,
            c.passes as f64 / n,
            c.rows as f64 / n,
            c.rows_catching_up as f64 / n,
            c.weight_bytes as f64 / n / 1e6,
            c.read_backs as f64 / n,
            c.polls as f64 / n
        );
    }
    let all = |side: &Side| side.seconds.iter().sum::<f64>();
    println!(
        "together / alone: {:.2} times the tokens/s; best rounds {:.2}",
        all(alone) / all(together),
        alone.fastest() / together.fastest()
    );
    let mut other = 0;
    for (key, (a, b)) in alone.texts.iter().zip(&together.texts).enumerate() {
        if let Some(at) = (0..a.len()).find(|at| a.get(*at).map(|t| t.0) != b.get(*at).map(|t| t.0)) {
            other += 1;
            println!("sequence {key}: another token at {at}, where the best is {:.1e} ahead of the second", a[at].1);
        }
    }
    if other == 0 {
        println!("the same tokens");
    }
}

impl Side {
    fn fastest(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}
