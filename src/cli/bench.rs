//! `refrain bench`: how fast a model is, in tokens a second.
//!
//! ```text
//! pp512         a prompt of 512 tokens in one forward pass, into an empty sequence
//! tg128         128 tokens generated one by one, each the best after the one before it
//! … @ d512      the same after 512 tokens that are in the cache already
//! ```
//!
//! Every token runs exactly as many loops as its row says (`exit fixed`), so tokens a second times loops are loop-steps a second. Each row
//! is run once before it is timed.

mod report;
mod roofline;
mod time;
mod trace;

use std::path::PathBuf;

use pollster::block_on;

use self::report::{About, Format};
use self::roofline::Roofline;
use self::time::{Kind, Row, Test};
use super::common::{self, Common, Loading};
use super::forward::save::Target;
use super::interrupt;
use crate::backend::DeviceChoice;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::files::Source;
use crate::model::{Engine, Options, read_config};
use crate::shipped;

const HELP: &str = "\
Rows: pp64 is a prompt of 64 tokens in one pass, tg64 is 64 tokens generated one
by one; @ d512 says that 512 tokens were in the cache before. Tokens a second,
mean ± standard deviation; loop-steps/s is tokens a second times loops.

--roofline: a kernel takes at least as long as it takes to read its bytes at the
device's best rate, and to compute what it has to at its best rate; the table
says how much of its time that is. What fits a cache can be above 100 %. Of the
profiled runs (-r) it shows the fastest. On a GPU such a run has a compute pass
for each kernel and is slower than a plain one, whose median stands beside it.

Examples:
  refrain bench                                      a shipped model
  refrain bench -m path/to/folder -p 512 -n 128 -d 0,2048 --loops 1,4,16
  refrain bench --config mythos_1b --dtype q4        a size that has no weights yet
  refrain bench --roofline --trace trace.json        where the time goes";

/// Options of `bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[arg(short, long, default_value = shipped::NAMES[0], value_name = "NAME|DIR", conflicts_with = "config",
        help = format!("A shipped model ({}), hf:owner/repo[@revision] or a model folder", shipped::NAMES.join(", ")))]
    model: String,
    /// A published size (mythos_1b, mythos_3b, …) with weights that nobody has trained, made on the device
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// Tokens of a prompt; 0 leaves prompts out [default: 512, at most half the positions that are left]
    #[arg(short, long, value_name = "N")]
    prompt_tokens: Option<usize>,
    /// Tokens to generate; 0 leaves generation out [default: 128, at most half the positions that are left]
    #[arg(short = 'n', long, value_name = "N")]
    new_tokens: Option<usize>,
    /// Tokens that are in the cache before: rows for each
    #[arg(short = 'd', long, value_name = "N,N,…", value_delimiter = ',', default_value = "0")]
    cached: Vec<usize>,
    /// Timed runs of each row, and profiled runs for --roofline and --trace
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    repeat: usize,
    /// Loops of every token: rows for each [default: the model's own]
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    loops: Vec<usize>,
    /// Also run the first prompt and the first generation while every kernel is timed, and print each kernel as a share of what the device
    /// can do: its read bandwidth and its rate of multiplications with additions, measured before the rows and after them
    #[arg(long)]
    roofline: bool,
    /// JSON file to write (a pipe will do): what ran when in that prompt and that generation, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    loading: Loading,
    /// How to write the results
    #[arg(long, value_enum, default_value_t = Format::Md)]
    format: Format,
}

/// Times every row and prints them all: also those that were done when Ctrl-C or an error ended it.
pub(super) fn main(args: &Args, common: &Common) -> Result<()> {
    let found = Found::new(args, common)?;
    let tests = tests(args, &found)?;
    let trace = checked(args, common, &found)?;
    // A 0 among the loops is refused like any other number of loops that cannot be.
    let loops = tests.iter().map(|test| test.loops);
    let loops = if loops.clone().any(|loops| loops == 0) { Some(0) } else { loops.max() };
    let context = tests.iter().map(|test| test.cached + test.tokens).max();
    let options = Options { context, loops, ..args.loading.options(common) };
    interrupt::watch()?;
    let mut roofline = args.roofline.then(|| Roofline::measure(&options.device)).transpose()?;
    let (mut model, mut made) = (None, None);
    let engine = match found.weights {
        Weights::Files(source) => model.insert(common.load(&source, &options)?).engine_mut(),
        Weights::Untrained(config) => {
            let engine = made.insert(block_on(Engine::untrained(config, &options))?);
            common.loaded(engine);
            engine
        }
    };
    let bar = common.bar("{msg:14} {bar:30} {pos}/{len} {eta}");
    let profiles = roofline.is_some() || trace.is_some();
    let kinds = Kind::ALL.iter().filter(|kind| profiles && tests.iter().any(|test| test.kind == **kind)).count();
    // With the run that warms up.
    let runs = (args.repeat as u64).saturating_add(1);
    bar.set_length(runs.saturating_mul((tests.len() + kinds) as u64));
    let running = interrupt::Running::start();
    let mut shown = None;
    // Called between tokens too, while the clock runs: next to nothing is done then.
    let mut watch = |test: &Test, done: bool| {
        if shown.replace(*test) != Some(*test) {
            bar.set_message(test.name());
            if common.verbose {
                bar.suspend(|| common::say(&test.whole_name()));
            }
        }
        if done {
            bar.inc(1);
        }
        if running.stopped() { Err(Error::Cancelled) } else { Ok(()) }
    };
    let mut rows: Vec<Row> = Vec::new();
    let mut profiled = Vec::new();
    let mut ended = time::all(engine, &tests, args.repeat, &mut watch, &mut rows);
    if ended.is_ok() && profiles {
        ended = time::profile(engine, &rows, &mut watch, &mut profiled);
    }
    bar.finish_and_clear();
    let (device, parameters, needs) = (engine.device().clone(), engine.config().parameters(), engine.needs().clone());
    // A large model leaves no room for the memory that is read to measure the device.
    drop((model, made));
    if ended.is_ok()
        && let Some(roofline) = &mut roofline
    {
        ended = roofline.measure_again(&options.device);
        if running.stopped() {
            ended = Err(Error::Cancelled);
        }
    }
    if matches!(ended, Err(Error::Cancelled)) && !common.quiet {
        common::say(&format!("interrupted: {} of {} rows are complete", rows.len(), tests.len()));
    }
    // Before the table, whose reader may have gone.
    let written = match trace {
        Some(trace) if !profiled.is_empty() => trace.write(|file| {
            serde_json::to_writer(&mut *file, &trace::json(&found.name, &device.name, &profiled))?;
            file.write_all(b"\n")
        }),
        _ => Ok(()),
    };
    let mut printed = Ok(());
    if ended.is_ok() || !rows.is_empty() {
        let roofline = roofline.as_ref().map(|roofline| (roofline, &profiled[..]));
        let (name, untrained, repeat, interrupted) = (&found.name, args.config.is_some(), args.repeat, ended.is_err());
        let about = About { name, untrained, repeat, interrupted, device, parameters, needs, roofline };
        printed = common::print(&report::write(&about, &rows, args.format));
    }
    ended.and(written).and(printed)
}

/// Refuses what cannot be measured or written, before anything is; the file of the trace.
fn checked(args: &Args, common: &Common, found: &Found) -> Result<Option<Target>> {
    let refuse = |name: &str, expected: &str, found: String| Err(Error::Argument { name: name.into(), expected: expected.into(), found });
    if args.roofline && args.format == Format::Csv {
        return refuse("--format", "md or json with --roofline, which has tables of its own", "csv".into());
    }
    if (args.roofline || args.trace.is_some()) && common.device == DeviceChoice::Shadow {
        return refuse("--device", "a device that is not checked at every kernel, to time them", "shadow".into());
    }
    let Some(trace) = &args.trace else { return Ok(None) };
    if trace.as_os_str() == "-" {
        return refuse("--trace", "the path of a file, such as /dev/stdout on Unix or ./- for one of this name", "-".into());
    }
    if let Weights::Files(source) = &found.weights {
        common::check_output("--trace", trace, source, &[])?;
    }
    Target::new(trace).map(Some)
}

/// What is known of the model before it is loaded.
struct Found {
    name: String,
    /// Positions that the model has.
    positions: usize,
    /// Its own number of loops.
    loops: usize,
    weights: Weights,
}

/// Where the weights come from.
enum Weights {
    Files(Source),
    /// Nowhere: they are made on the device.
    Untrained(Config),
}

impl Found {
    fn new(args: &Args, common: &Common) -> Result<Self> {
        if let Some(name) = &args.config {
            let config = common::published(name)?;
            let (positions, loops) = (config.max_seq_len, config.max_loop_iters);
            return Ok(Self { name: name.clone(), positions, loops, weights: Weights::Untrained(config) });
        }
        let source = common::source(&args.model, common)?;
        let (config, defaults) = read_config(&source)?;
        let loops = defaults.n_loops.unwrap_or(config.max_loop_iters);
        Ok(Self { name: args.model.clone(), positions: config.max_seq_len, loops, weights: Weights::Files(source) })
    }
}

/// The rows: at each number of loops and of cached tokens, a prompt and a generation.
fn tests(args: &Args, found: &Found) -> Result<Vec<Test>> {
    let fail = |name: &str, expected: &str| Err(Error::Argument { name: name.into(), expected: expected.into(), found: "0".into() });
    if args.repeat == 0 {
        return fail("--repeat", "at least 1 timed run");
    }
    // Half of what the tokens that are there already leave.
    let half = (found.positions.saturating_sub(args.cached.iter().copied().max().unwrap_or(0)) / 2).max(1);
    let counts =
        [(Kind::Prompt, args.prompt_tokens.unwrap_or(512.min(half))), (Kind::Generation, args.new_tokens.unwrap_or(128.min(half)))];
    if counts.iter().all(|(_, tokens)| *tokens == 0) {
        return fail("-p and -n", "at least 1 token in one of them");
    }
    let own = [found.loops];
    let depths = if args.loops.is_empty() { &own[..] } else { &args.loops };
    let mut tests = Vec::new();
    for &loops in depths {
        for &cached in &args.cached {
            let some = counts.iter().filter(|(_, tokens)| *tokens > 0);
            tests.extend(some.map(|&(kind, tokens)| Test { kind, tokens, cached, loops }));
        }
    }
    // Beyond what the model has is refused when it is loaded; here only what would not fit a number.
    match tests.iter().find(|test| test.cached.checked_add(test.tokens).is_none_or(|positions| positions > found.positions)) {
        Some(test) => Err(Error::Context { asked: test.cached.saturating_add(test.tokens), limit: found.positions, of: "max_seq_len" }),
        None => Ok(tests),
    }
}
