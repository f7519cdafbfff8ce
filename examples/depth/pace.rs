//! What looking costs: passes of the loop are handed to a GPU in groups, and after each group the host looks whether the token has halted
//! (see [`Pace`]). Prints a table for the shallow and the deep tokens of a crafted model and for a shipped model's problems.

use std::time::Instant;

use refrain::backend::Counters;
use refrain::generate::Model;
use refrain::model::defaults::Exit;
use refrain::model::{Depth, Engine, Feed, Logits, Pace};
use refrain::{Options, Result, shipped};

use crate::common::{self, Args, Random, count, crafted, median};

const LOOPS: usize = 32;
const DEPTH: Depth = Depth { loops: LOOPS, min_loops: 0, exit: Exit::Model };
const GROUPS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Tokens that one engine decodes: several texts, each a sequence of its own, and how long each may be.
struct Work {
    name: &'static str,
    texts: Vec<Vec<u32>>,
}

struct Tried {
    pace: Pace,
    engine: Engine,
    times: Vec<f64>,
    counters: Counters,
    loops: usize,
}

pub async fn measure(args: &Args) -> Result<()> {
    let names = match args.value("--device") {
        Some(name) => vec![name],
        None => vec!["llvmpipe", "SwiftShader"],
    };
    let tokens = args.number("--tokens", 200)?;
    for name in names {
        let tiny = crafted::model("tiny", LOOPS)?;
        let mut random = Random(5);
        let mut text = |depth| (0..32).map(|_| crafted::token(depth, LOOPS, 512, &mut random)).collect::<Vec<u32>>();
        let (shallow, deep) = (text(3), text(28));
        let mut engines = engines(name, &tiny).await?;
        try_all(name, &Work { name: "tiny, 3 loops", texts: vec![shallow] }, &mut engines, tokens).await?;
        try_all(name, &Work { name: "tiny, 28 loops", texts: vec![deep] }, &mut engines, tokens).await?;
        drop(engines);
        if let Some(source) = shipped::source("follow") {
            let prompts = ["p >k a >o z >v k >f e >a o >i u >y ?p ?a ?e ?u", "a >b b >c c >d d >e e >f f >f ?a ?b ?c ?d"];
            let model = Model::open(&source, &Options { device: common::device("cpu")?, ..Options::default() }, &mut |_| {}).await?;
            let texts = prompts.iter().map(|prompt| model.encode(prompt)).collect::<Result<_>>()?;
            let mut engines = self::engines(name, &source).await?;
            try_all(name, &Work { name: "follow", texts }, &mut engines, tokens).await?;
        }
    }
    Ok(())
}

/// An engine for every pace.
async fn engines(device: &str, source: &refrain::model::files::Source) -> Result<Vec<Tried>> {
    let mut engines = Vec::new();
    for (group, ahead) in GROUPS.into_iter().flat_map(|group| [(group, 0), (group, 1)]) {
        if group >= LOOPS && ahead > 0 {
            continue; // one group holds all loops
        }
        let pace = Pace { group, ahead };
        let options = Options {
            device: common::device(device)?,
            context: Some(64),
            loops: Some(LOOPS),
            chunk: Some(32),
            pace: Some(pace),
            ..Options::default()
        };
        let engine = Engine::load(source, &options, &mut |_| {}).await?;
        engines.push(Tried { pace, engine, times: Vec::new(), counters: Counters::default(), loops: 0 });
    }
    Ok(engines)
}

/// Lets the engines take turns, text by text, until each has decoded so many tokens; prints what came out.
async fn try_all(device: &str, work: &Work, engines: &mut [Tried], tokens: usize) -> Result<()> {
    // Once for warmth: shaders and plans are made at the first use.
    for tried in engines.iter_mut() {
        tried.decode(&work.texts).await?;
        (tried.times, tried.counters, tried.loops) = Default::default();
    }
    while engines[0].times.len() < tokens {
        for tried in engines.iter_mut() {
            tried.decode(&work.texts).await?;
        }
    }
    let n = engines[0].times.len() as f64;
    println!("\n{device}, {}: {n} tokens of {:.1} loops each", work.name, engines[0].loops as f64 / n);
    println!(
        "{:>5} {:>5} {:>10} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8}",
        "group", "ahead", "median ms", "mean ms", "tenth ms", "submits/t", "waits/t", "polls/t", "empty/t"
    );
    for tried in engines.iter_mut() {
        let mut sorted = std::mem::take(&mut tried.times);
        sorted.sort_by(f64::total_cmp);
        let (c, Pace { group, ahead }) = (std::mem::take(&mut tried.counters), tried.pace);
        tried.loops = 0;
        println!(
            "{group:>5} {ahead:>5} {:>10.3} {:>8.3} {:>8.3} {:>9.2} {:>8.2} {:>8.2} {:>8.1}",
            median(&sorted),
            sorted.iter().sum::<f64>() / n,
            sorted[sorted.len() / 10],
            c.submits as f64 / n,
            c.read_backs as f64 / n,
            c.polls as f64 / n,
            c.empty_dispatches as f64 / n
        );
    }
    Ok(())
}

impl Tried {
    async fn decode(&mut self, texts: &[Vec<u32>]) -> Result<()> {
        for text in texts {
            let mut sequence = self.engine.sequence()?;
            for token in text {
                let (before, start) = (self.engine.counters(), Instant::now());
                let feed = Feed { sequence: &mut sequence, tokens: &[*token] };
                let output = self.engine.forward(&mut [feed], DEPTH, Logits::GREEDY).await?;
                self.times.push(start.elapsed().as_secs_f64() * 1e3);
                count(&mut self.counters, before, self.engine.counters());
                self.loops += output.rows[0].loops;
            }
        }
        Ok(())
    }
}
