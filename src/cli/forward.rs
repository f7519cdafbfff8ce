//! `refrain forward`: token ids in, tensors out. The door for parity and debugging.
//!
//! The B sequences of `input_ids (B, T)` run as one batch. The file written holds, under the names of the golden cases,
//!
//! ```text
//! always                logits (B, T, V), loops_used_full (B, T)              one pass over everything
//! with --prompt-len P   logits_decode (B, D+1, V)                             the last of P tokens, then D single steps with the cache
//! with --trace          embed, prelude.i, coda.i, recurrent (B, P, dim)       of the pass over the prompt (P = T without --prompt-len)
//!                       loop.h (L, B, P, dim), loop.halt_p, loop.weight (L, B, P), loop.experts, loop.gates (L, B, P, K)
//!                       logits_prompt (B, P, V), loops_used (B, P)
//! ```

pub(super) mod save;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use pollster::block_on;

use self::save::{Data, Named, Target, write_tensors};
use super::common::{self, Common, Loading, Scheduling};
use super::watch::JsonWork;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::defaults::Exit;
use crate::model::files::Weights;
use crate::model::{Depth, Detail, Engine, Feed, Logits, LoopTrace, Options, Output, Schedule, Sequence, TokenTrace, Trace, read_config};

/// Options of `forward`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A shipped model, hf:owner/repo[@revision] or the path of a model folder
    #[arg(value_name = "MODEL")]
    model: String,
    /// safetensors file with `input_ids`, integers of shape (sequences, tokens)
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// safetensors file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The most loops of a token [default: the model's own]
    #[arg(long, value_name = "N")]
    loops: Option<usize>,
    /// Loops, counted from 1, before which no token halts
    #[arg(long, value_name = "M")]
    min_loops: Option<usize>,
    /// When a token stops looping [default: the model's own, else model]
    #[arg(long, value_enum, value_name = "WHEN")]
    exit: Option<When>,
    /// Also run the first P tokens as a prompt and write the logits of the last, `logits_decode`
    #[arg(long, value_name = "P")]
    prompt_len: Option<usize>,
    /// After the prompt, feed the next D tokens one by one and write the logits of each
    #[arg(long, value_name = "D", requires = "prompt_len", default_value_t = 0)]
    decode: usize,
    /// Also write every stage and every loop of the pass over the prompt; implies --schedule full
    #[arg(long)]
    trace: bool,
    /// Tokens of one pass
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    /// Positions of the cache [default: as many as there are tokens]
    #[arg(short, long, value_name = "N")]
    ctx_size: Option<usize>,
    /// JSON file to write: what the device did
    #[arg(long, value_name = "FILE")]
    counters: Option<PathBuf>,
    #[command(flatten)]
    loading: Loading,
    #[command(flatten)]
    scheduling: Scheduling,
}

/// When a token stops looping.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    /// When its halting mass reaches the model's threshold; its output is the weighted sum
    Model,
    /// After exactly N loops; its output is the state after the last
    Fixed,
}

/// Runs the passes and writes their tensors.
pub(super) fn main(args: &Args, common: &Common) -> Result<()> {
    let source = common::source(&args.model, common)?;
    let (config, _) = read_config(&source)?;
    let inputs = Inputs::read(&args.inputs, &config)?;
    let prompt = inputs.prompt(args)?;
    common::check_output("--out", &args.out, &source, &[&args.inputs])?;
    if let Some(counters) = &args.counters {
        common::check_output("--counters", counters, &source, &[&args.inputs])?;
    }
    let out = Target::new(&args.out)?;
    let counters = args.counters.as_deref().map(Target::new).transpose()?;
    if !out.is_special() && args.counters.as_ref().is_some_and(|counters| common::is_same(counters, &args.out)) {
        let expected = "another file than --out".into();
        return Err(Error::Argument { name: "--counters".into(), expected, found: args.out.display().to_string() });
    }
    let options = Options {
        context: Some(args.ctx_size.unwrap_or(inputs.tokens)),
        loops: args.loops,
        sequences: Some(inputs.sequences),
        chunk: args.chunk,
        ..args.loading.options(common)
    };
    let mut options = args.scheduling.options(options);
    if args.trace {
        // The tensors of a trace hold every token at every loop.
        options.schedule = Schedule::Full;
    }
    let mut model = common.load(&source, &options)?;
    let own = model.engine().default_depth();
    let depth = Depth {
        loops: args.loops.unwrap_or(own.loops),
        min_loops: args.min_loops.unwrap_or(own.min_loops),
        exit: args.exit.map_or(own.exit, |when| match when {
            When::Model => Exit::Model,
            When::Fixed => Exit::Fixed,
        }),
    };
    let started = Instant::now();
    let mut run = Run { engine: model.engine_mut(), inputs: &inputs, depth, vocabulary: config.vocab_size, tensors: Vec::new() };
    run.whole()?;
    if args.trace || args.prompt_len.is_some() {
        run.prompt(&config, prompt, args.prompt_len.map(|_| args.decode), args.trace)?;
    }
    let tensors = run.tensors;
    if common.verbose {
        common::say(&format!("time: {:.3} s", started.elapsed().as_secs_f64()));
    }
    out.write(|file| write_tensors(file, &tensors))?;
    match counters {
        Some(counters) => counters.write(|file| writeln!(file, "{}", pretty(&JsonWork::from(&model.engine().counters())))),
        None => Ok(()),
    }
}

fn pretty(value: &impl serde::Serialize) -> String {
    // Numbers: serializing them cannot fail.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// `input_ids`, checked.
pub(super) struct Inputs {
    pub sequences: usize,
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Of one sequence after the other.
    pub ids: Vec<u32>,
}

impl Inputs {
    pub fn read(path: &Path, config: &Config) -> Result<Self> {
        let file = Weights::open_file(path)?;
        let fail = |expected: &str, found: String| Error::Tensor {
            path: path.display().to_string(),
            tensor: "input_ids".into(),
            expected: expected.into(),
            found,
        };
        let (shape, numbers) = file.read_integers("input_ids")?;
        let &[sequences, tokens] = shape.as_slice() else {
            return Err(fail("a shape of two sizes, (sequences, tokens)", format!("{} sizes, {shape:?}", shape.len())));
        };
        if numbers.is_empty() {
            return Err(fail("at least one sequence of at least one token", format!("the shape ({sequences}, {tokens})")));
        }
        let id = |(at, number): (usize, i64)| match u32::try_from(number) {
            Ok(id) if (id as usize) < config.vocab_size => Ok(id),
            _ => {
                let place = format!("{number} at [{}, {}]", at / tokens, at % tokens);
                Err(fail(&format!("token ids from 0 to {}", config.vocab_size - 1), place))
            }
        };
        let ids = numbers.into_iter().enumerate().map(id).collect::<Result<_>>()?;
        Ok(Self { sequences, tokens, ids })
    }

    /// The length of the prompt, if the tokens reach for it and the steps after it.
    fn prompt(&self, args: &Args) -> Result<usize> {
        let fail =
            |name: &str, expected: String, found: usize| Err(Error::Argument { name: name.into(), expected, found: found.to_string() });
        let prompt = args.prompt_len.unwrap_or(self.tokens);
        if !(1..=self.tokens).contains(&prompt) {
            return fail("--prompt-len", format!("1 to the {} tokens of input_ids", self.tokens), prompt);
        }
        let left = self.tokens - prompt;
        if args.decode > left {
            return fail("--decode", format!("at most the {left} tokens of input_ids after the prompt of {prompt}"), args.decode);
        }
        Ok(prompt)
    }
}

/// The passes over the inputs, and what they gave so far.
struct Run<'a> {
    engine: &'a mut Engine,
    inputs: &'a Inputs,
    depth: Depth,
    vocabulary: usize,
    tensors: Vec<Named>,
}

impl Run<'_> {
    /// One pass over everything.
    fn whole(&mut self) -> Result<()> {
        let (b, t) = (self.inputs.sequences, self.inputs.tokens);
        let mut sequences = self.sequences()?;
        let output = self.feed(&mut sequences, 0, t, true)?;
        self.save("loops_used_full", &[b, t], Data::I32(loops_used(&output)));
        self.save("logits", &[b, t, self.vocabulary], Data::F32(logits(output)));
        Ok(())
    }

    /// The pass over the prompt, with its stages if they are wanted, and the steps after it if there are any.
    fn prompt(&mut self, config: &Config, prompt: usize, steps: Option<usize>, trace: bool) -> Result<()> {
        let (b, v) = (self.inputs.sequences, self.vocabulary);
        let mut sequences = self.sequences()?;
        let mut last = if trace {
            let mut feeds = feeds(self.inputs, &mut sequences, 0, prompt);
            let all = Logits { every: true, best: 1, all: true };
            let detail = Detail { states: true, experts: true, lens: 0 };
            let (output, trace) = block_on(self.engine.forward_traced(&mut feeds, self.depth, all, detail))?;
            self.save_trace(config, prompt, &trace);
            self.save("loops_used", &[b, prompt], Data::I32(loops_used(&output)));
            let logits = logits(output);
            let last = logits.chunks_exact(prompt * v).map(|sequence| sequence[(prompt - 1) * v..].to_vec()).collect();
            self.save("logits_prompt", &[b, prompt, v], Data::F32(logits));
            last
        } else {
            rows(self.feed(&mut sequences, 0, prompt, false)?)
        };
        let Some(steps) = steps else { return Ok(()) };
        for step in 0..steps {
            let next = rows(self.feed(&mut sequences, prompt + step, 1, false)?);
            last.iter_mut().zip(next).for_each(|(logits, next)| logits.extend(next));
        }
        self.save("logits_decode", &[b, steps + 1, v], Data::F32(last.concat()));
        Ok(())
    }

    fn save_trace(&mut self, config: &Config, prompt: usize, trace: &Trace) {
        let (b, d, k, l) = (self.inputs.sequences, config.dim, config.n_experts_per_tok, self.depth.loops);
        let stage = [b, prompt, d];
        let rows = |take: &dyn Fn(&TokenTrace) -> &Vec<f32>| Data::F32(trace.tokens.iter().flat_map(take).copied().collect());
        // (L, B, P, …): the tokens are in the order of (B, P), each with its loops.
        let at = |t: usize| trace.tokens.iter().filter_map(move |token| token.loops.get(t));
        let each = |take: fn(&LoopTrace) -> f32| Data::F32((0..l).flat_map(at).map(take).collect());
        let experts = || (0..l).flat_map(at).flat_map(|at| &at.experts);
        self.save("embed", &stage, rows(&|token| &token.embed));
        for i in 0..config.prelude_layers {
            self.save(&format!("prelude.{i}"), &stage, rows(&|token| &token.prelude[i]));
        }
        self.save("loop.h", &[l, b, prompt, d], Data::F32((0..l).flat_map(at).flat_map(|at| at.h.iter().copied()).collect()));
        self.save("loop.halt_p", &[l, b, prompt], each(|at| at.halt_p));
        self.save("loop.weight", &[l, b, prompt], each(|at| at.weight));
        self.save("loop.experts", &[l, b, prompt, k], Data::I32(experts().map(|(id, _)| *id as i32).collect()));
        self.save("loop.gates", &[l, b, prompt, k], Data::F32(experts().map(|(_, gate)| *gate).collect()));
        self.save("recurrent", &stage, rows(&|token| &token.recurrent));
        for i in 0..config.coda_layers {
            self.save(&format!("coda.{i}"), &stage, rows(&|token| &token.coda[i]));
        }
    }

    fn save(&mut self, name: &str, shape: &[usize], data: Data) {
        self.tensors.push(Named::new(name, shape, data));
    }

    /// An empty sequence for each of the inputs.
    fn sequences(&self) -> Result<Vec<Sequence>> {
        (0..self.inputs.sequences).map(|_| self.engine.sequence()).collect()
    }

    /// Feeds tokens `first..first + count` of every sequence; all logits of every token, or of each sequence's last.
    fn feed(&mut self, sequences: &mut [Sequence], first: usize, count: usize, every: bool) -> Result<Output> {
        let mut feeds = feeds(self.inputs, sequences, first, count);
        block_on(self.engine.forward(&mut feeds, self.depth, Logits { every, best: 1, all: true }))
    }
}

/// Tokens `first..first + count` of each sequence.
fn feeds<'a>(inputs: &'a Inputs, sequences: &'a mut [Sequence], first: usize, count: usize) -> Vec<Feed<'a>> {
    let tokens = inputs.ids.chunks_exact(inputs.tokens).map(|ids| &ids[first..first + count]);
    sequences.iter_mut().zip(tokens).map(|(sequence, tokens)| Feed { sequence, tokens }).collect()
}

fn loops_used(output: &Output) -> Vec<i32> {
    output.rows.iter().map(|row| row.loops as i32).collect()
}

/// The logits of each prediction.
fn rows(output: Output) -> Vec<Vec<f32>> {
    output.predictions.into_iter().map(|prediction| prediction.logits).collect()
}

/// The logits of all predictions, one after the other.
fn logits(output: Output) -> Vec<f32> {
    rows(output).concat()
}
