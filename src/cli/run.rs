//! `refrain run`: a prompt in, the answer out.
//!
//! A model answers by continuing the prompt, token by token, or in place, with its prediction at every token of the prompt.
//! Which of the two it was made for stands in its `generation_config.json`.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::common::{self, Common, Loading, Scheduling};
use super::interrupt;
use super::paint::Paint;
use super::show::{About, Format, Printer, Style};
use super::watch::{self, Show};
use crate::error::{Error, Result};
use crate::generate::{Model, Params, Prompt, Role};
use crate::model::defaults::{Defaults, Exit};
use crate::model::{Detail, Options, read_config};
use crate::sampler::Sampling;
use crate::shipped;
use crate::tokenizer::Tokenizer;

const HELP: &str = r#"The answer as text:
  continuing    the new text alone, as it comes
  in place      the predictions at all tokens of the prompt, in one line with a
                space between; the last is the one at the last token
  --show loops  each token with the times it looped, `word·7`, and a + where the
                cap ended it, `word·8+`; in place with its prediction below it
  --show lens   each token's prediction, and below it, loop by loop, what the
                state after that loop alone would predict, with its probability
  --show experts  the experts that each loop chose, with their gates
  --show debt   a line a token: its loops, the rows computed since the line before
                (a row is one token at one loop; a prompt is computed at once),
                those of older tokens that caught up, and how many a token that
                goes to the cap would have to take along

Examples:
  refrain run -p "a >b b >c c >c ?a"                  where does a end?
  refrain run -m cups -p "@3 13 12" --show loops      where is the ball?
  refrain run -m cups -i                              a problem a line
  echo "a >b b >b ?a" | refrain run --format jsonl    one JSON object a token"#;

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[arg(short, long, default_value = shipped::NAMES[0], value_name = "NAME|DIR",
        help = format!("A shipped model ({}), hf:owner/repo[@revision] or a model folder", shipped::NAMES.join(", ")))]
    model: String,
    /// The prompt; without -p, -f and -i it is read from a pipe
    #[arg(short, long, value_name = "TEXT", group = "from")]
    prompt: Option<String>,
    /// A file that holds the prompt, less the line end at its end; - is standard input
    #[arg(short, long, value_name = "FILE", group = "from")]
    file: Option<PathBuf>,
    /// The prompt as token ids: 3,14,15
    #[arg(long, value_name = "IDS", value_delimiter = ',', group = "from")]
    prompt_ids: Option<Vec<u32>>,
    /// Each line typed is a prompt of its own; Ctrl-C stops an answer, Ctrl-D ends
    #[arg(short, long, group = "from")]
    interactive: bool,
    /// Predict at the prompt's tokens instead of continuing it; a model's folder says what is the default
    #[arg(long, overrides_with = "no_in_place")]
    in_place: bool,
    /// Continue the prompt
    #[arg(long)]
    no_in_place: bool,
    /// Tokens to generate [default: what the model's folder says, at most to the end of the context]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Positions to make room for [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N")]
    ctx_size: Option<usize>,
    #[command(flatten)]
    loading: Loading,
    #[command(flatten)]
    sample: Sample,
    #[command(flatten)]
    depth: Depth,
    #[command(flatten)]
    scheduling: Scheduling,
    /// How to write the answer
    #[arg(long, value_enum, default_value_t = Format::Text, help_heading = "Output")]
    format: Format,
    /// Show this of each token
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Output")]
    show: Option<Show>,
    /// Write what happens in every loop of every token, and what every pass does, as JSON lines to a file; slow
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    trace: Option<PathBuf>,
    /// Write token ids instead of text
    #[arg(long, help_heading = "Output")]
    ids: bool,
    /// Write the answer to a file
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
struct Sample {
    /// 0 takes the likeliest token; 1 draws as the model says; more is wilder [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Draw from the best K tokens; 0 is all [default: 0]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the best tokens that have this probability together [default: 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Drop tokens less likely than this share of the best [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Equal seeds give equal text [default: 0]
    #[arg(short, long, value_name = "N")]
    seed: Option<u64>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Depth")]
struct Depth {
    /// The most loops of a token [default: what the model's folder says, else its max_loop_iters]
    #[arg(long, value_name = "N")]
    loops: Option<usize>,
    /// No token halts before this loop
    #[arg(long, value_name = "N")]
    min_loops: Option<usize>,
    /// Who decides when a token stops
    #[arg(long, value_enum, value_name = "WHO")]
    exit: Option<ExitBy>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExitBy {
    /// The model, within --loops
    Model,
    /// No one: every token runs exactly --loops loops
    Fixed,
}

pub(super) fn main(args: &Args, common: &Common) -> Result<()> {
    let prompt = if args.interactive { None } else { Some(read_prompt(args)?) };
    let source = common::source(&args.model, common)?;
    if let Some(output) = &args.output {
        common::check_output("--output", output, &source, args.file.as_deref().as_slice())?;
    }
    if let Some(trace) = &args.trace {
        common::check_output("--trace", trace, &source, args.file.as_deref().as_slice())?;
        if args.output.as_ref().is_some_and(|output| common::is_same(output, trace)) {
            let expected = "another file than --output".into();
            return Err(Error::Argument { name: "--trace".into(), expected, found: trace.display().to_string() });
        }
    }
    let mut out = Out::open(args.output.as_deref())?;
    let mut trace = args.trace.as_deref().map(|path| Out::open(Some(path))).transpose()?;
    let (config, defaults) = read_config(&source)?;
    let cap = args.depth.loops.or(defaults.n_loops).unwrap_or(config.max_loop_iters);
    let params = params(args, &defaults, common)?;
    let options = Options { context: args.ctx_size, loops: args.depth.loops, ..args.loading.options(common) };
    let mut model = common.load(&source, &args.scheduling.options(options))?;
    let colored = common.colored(args.output.is_none());
    let style = Style {
        format: args.format,
        show: args.show,
        ids: args.ids || model.tokenizer().is_err(),
        in_place: params.in_place,
        paint: Paint { colored, cap },
    };
    let tokenizer = model.tokenizer().ok().cloned();
    let task = Task { name: &args.model, cap, style, params, tokenizer, verbose: common.verbose };
    interrupt::watch()?;
    match prompt {
        Some(prompt) => task.answer(&mut model, prompt, &mut out, trace.as_mut()),
        None => task.converse(&mut model, &mut out, trace.as_mut(), common),
    }
}

/// How every prompt of this run is answered.
struct Task<'a> {
    name: &'a str,
    cap: usize,
    style: Style,
    params: Params,
    /// The model's own is lent out while it generates.
    tokenizer: Option<Tokenizer>,
    verbose: bool,
}

impl Task<'_> {
    /// Answers one prompt. [`Error::Cancelled`] if Ctrl-C ended it; what was there until then is printed.
    fn answer(&self, model: &mut Model, prompt: Prompt, out: &mut Out, mut trace: Option<&mut Out>) -> Result<()> {
        let mut printer = Printer::new(&self.style);
        let running = interrupt::Running::start();
        let mut failed = None;
        let tokenizer = self.tokenizer.as_ref();
        {
            let mut generation = model.generate(prompt.clone(), self.params.clone())?;
            while !running.stopped() {
                match pollster::block_on(generation.next()) {
                    None => break,
                    Some(Ok(step)) => {
                        if let Some(trace) = &mut trace {
                            trace.write(&watch::json_lines(&step, tokenizer))?;
                        }
                        // The prompt's tokens are there for the trace alone.
                        if self.params.in_place || step.role == Role::Output {
                            out.write(&printer.step(step, tokenizer))?;
                        }
                    }
                    // What came before it is still printed.
                    Some(Err(error)) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
        }
        let device = model.engine().device().name.as_str();
        out.write(&printer.finish(&About { model: self.name, device, prompt: &prompt, loops: self.cap, tokenizer }))?;
        if let Some(summary) = printer.summary().filter(|_| self.verbose) {
            common::say(&summary);
        }
        match failed {
            Some(error) => Err(error),
            None if running.stopped() => Err(Error::Cancelled),
            None => Ok(()),
        }
    }

    /// Answers line after line until the end of the input.
    fn converse(&self, model: &mut Model, out: &mut Out, mut trace: Option<&mut Out>, common: &Common) -> Result<()> {
        let typed = std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && !common.quiet;
        loop {
            if typed {
                let _ = write!(std::io::stderr(), "> "); // a prompt that cannot be shown is no error
            }
            let line = common::read_line(STDIN, &mut std::io::stdin().lock())?;
            if line.is_empty() {
                if typed {
                    common::say("");
                }
                return Ok(());
            }
            let answer = match text(STDIN, line) {
                Ok(line) if line.trim().is_empty() => Ok(()),
                Ok(line) => self.answer(model, Prompt::Text(line), out, trace.as_deref_mut()),
                Err(error) => Err(error),
            };
            match answer {
                Ok(()) => {}
                Err(Error::Cancelled) => common::say("stopped"),
                // There is nowhere to print to, or nothing to compute on: going on would be of no use.
                Err(error @ (Error::File { .. } | Error::DeviceLost { .. })) => return Err(error),
                Err(error) => common::report(&error),
            }
        }
    }
}

fn params(args: &Args, defaults: &Defaults, common: &Common) -> Result<Params> {
    let asked = &args.sample;
    let sampling = Sampling {
        temperature: asked.temp.or(defaults.temperature).unwrap_or(0.0),
        top_k: asked.top_k.or(defaults.top_k).unwrap_or(0),
        top_p: asked.top_p.or(defaults.top_p).unwrap_or(1.0),
        min_p: asked.min_p.or(defaults.min_p).unwrap_or(0.0),
        seed: asked.seed.unwrap_or(0),
    };
    sampling.check()?;
    let in_place = args.in_place || (!args.no_in_place && defaults.in_place.unwrap_or(false));
    let drawn = asked.seed.is_some() || asked.top_k.is_some() || asked.top_p.is_some() || asked.min_p.is_some();
    let note = match () {
        () if in_place && (args.max_tokens.is_some() || !args.stop.is_empty() || drawn || asked.temp.is_some()) => {
            Some("the model answers in place, so nothing is generated: -n, --stop and sampling have no effect (see --no-in-place)")
        }
        () if args.format != Format::Text && args.show.is_some() => Some("--show is for text; --trace FILE writes all of it as JSON lines"),
        () if drawn && sampling.temperature == 0.0 => Some("the temperature is 0, so nothing is drawn: give --temp"),
        () => None,
    };
    if let Some(note) = note.filter(|_| !common.quiet) {
        common::say(&format!("note: {note}"));
    }
    Ok(Params {
        max_tokens: args.max_tokens,
        sampling: Some(sampling),
        loops: args.depth.loops,
        min_loops: args.depth.min_loops,
        exit: args.depth.exit.map(|exit| match exit {
            ExitBy::Model => Exit::Model,
            ExitBy::Fixed => Exit::Fixed,
        }),
        stop: args.stop.clone(),
        echo: args.trace.is_some() && !in_place,
        in_place,
        trace: match (&args.trace, args.show) {
            (Some(_), _) => Some(Detail { experts: true, lens: 5, ..Detail::default() }),
            (None, show) => show.filter(|_| args.format == Format::Text).and_then(Show::detail),
        },
    })
}

const STDIN: &str = "standard input";

fn read_prompt(args: &Args) -> Result<Prompt> {
    if let Some(ids) = &args.prompt_ids {
        return Ok(Prompt::Tokens(ids.clone()));
    }
    if let Some(prompt) = &args.prompt {
        return Ok(Prompt::Text(prompt.clone()));
    }
    let (bytes, path) = match args.file.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|source| unreadable(&name, source))?;
            (common::read_text(&name, file)?, name)
        }
        None if args.file.is_none() && std::io::stdin().is_terminal() => {
            return Err(Error::Argument {
                name: "the prompt".into(),
                expected: "-p TEXT, -f FILE, -i to type, or text through a pipe".into(),
                found: "none of them".into(),
            });
        }
        None => (common::read_text(STDIN, std::io::stdin().lock())?, STDIN.to_string()),
    };
    text(&path, bytes).map(Prompt::Text)
}

/// Bytes as text, less one line end.
fn text(path: &str, bytes: Vec<u8>) -> Result<String> {
    let mut text = String::from_utf8(bytes).map_err(|error| Error::Format {
        path: path.into(),
        expected: "text in UTF-8".into(),
        found: format!("a byte that is none after {} bytes", error.utf8_error().valid_up_to()),
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn unreadable(path: &str, source: std::io::Error) -> Error {
    Error::File { path: path.into(), doing: "read", source }
}

/// Where the answer goes.
enum Out {
    Stdout,
    File { path: PathBuf, file: File, fresh: bool, created: bool },
}

impl Out {
    /// Opens the file, so that a path that cannot be written to is known before any work. What is in it stays until there is
    /// something to write.
    fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let created = !path.exists();
        match File::options().write(true).create(true).truncate(false).open(path) {
            Ok(file) => Ok(Self::File { path: path.into(), file, fresh: true, created }),
            Err(source) => Err(Error::File { path: path.display().to_string(), doing: "create", source }),
        }
    }

    fn write(&mut self, text: &str) -> Result<()> {
        match self {
            Self::Stdout if text.is_empty() => Ok(()),
            Self::Stdout => common::print(text),
            Self::File { path, file, fresh, .. } => {
                // A pipe or a device has no length to set.
                let cut = std::mem::take(fresh) && file.metadata().is_ok_and(|data| data.is_file());
                let done = if cut { file.set_len(0) } else { Ok(()) };
                let done = done.and_then(|()| file.write_all(text.as_bytes()));
                done.map_err(|source| Error::File { path: path.display().to_string(), doing: "write", source })
            }
        }
    }
}

impl Drop for Out {
    /// A run that fails before it writes leaves no empty file behind.
    fn drop(&mut self) {
        if let Self::File { path, fresh: true, created: true, .. } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}
