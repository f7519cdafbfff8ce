//! What several commands share: where the model and the device come from, how to print.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::hub;
use crate::backend::{DeviceChoice, DeviceOptions};
use crate::error::{Error, Result, size};
use crate::generate::Model;
use crate::model::config::Config;
use crate::model::files::Source;
use crate::model::{DEFAULT_CATCH_UP, Engine, Options, Progress, Schedule, published};
use crate::precision::Precision;
use crate::shipped;

/// Bytes of weights below which loading takes no time that a progress bar could fill.
pub(super) const WORTH_A_BAR: u64 = 16 << 20;

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(super) struct Common {
    /// Where to run: auto (best hardware GPU, else the CPU), cpu, gpu, shadow (GPU checked against the CPU), a name or an index
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE", value_parser = DeviceChoice::from_str)]
    pub device: DeviceChoice,
    /// Let auto and gpu take a GPU that is simulated on the CPU
    #[arg(long, global = true)]
    pub allow_software: bool,
    /// Treat the device as having this much memory for a model: bytes, or with a unit as in 8GiB, 500MB
    #[arg(long, global = true, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Colour the output
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// Say nothing but the answer
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more: the device, the model, times
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Take models of the Hub (hf:owner/repo) from the cache only, as with HF_HUB_OFFLINE=1
    #[cfg(feature = "hub")]
    #[arg(long, global = true)]
    pub offline: bool,
}

/// How a model is loaded.
#[derive(Debug, Args)]
pub(super) struct Loading {
    /// How weight matrices are stored on the device: f32, f16, q8 or q4 [default: as in the files, f32 where there are none]
    #[arg(long, value_name = "TYPE", value_parser = Precision::from_str)]
    dtype: Option<Precision>,
}

impl Loading {
    /// Options with this and the device.
    pub fn options(&self, common: &Common) -> Options {
        Options { device: common.device(), dtype: self.dtype, ..Options::default() }
    }
}

/// When the loops are run that a token has no need of any more. The answer does not depend on it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Scheduling: the answer does not depend on it")]
pub(super) struct Scheduling {
    /// When a halted token runs the loops that it has no need of any more
    #[arg(long, value_enum, default_value_t = ScheduleBy::Lazy, value_name = "WHEN")]
    schedule: ScheduleBy,
    /// Rows of older tokens that may catch up in one pass when a deeper token needs them
    #[arg(long, value_name = "ROWS", default_value_t = DEFAULT_CATCH_UP)]
    catch_up: usize,
    /// Rows of older tokens that join each pass before a deeper token needs them
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    eager: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScheduleBy {
    /// When a deeper token needs their keys and values, if one comes
    Lazy,
    /// At once, every token every loop
    Full,
}

impl Scheduling {
    /// Options with this scheduling.
    pub fn options(&self, options: Options) -> Options {
        let schedule = match self.schedule {
            ScheduleBy::Lazy => Schedule::Lazy,
            ScheduleBy::Full => Schedule::Full,
        };
        Options { schedule, catch_up: Some(self.catch_up), eager: self.eager, ..options }
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also into files and pipes
    Always,
    /// Not at all
    Never,
}

impl Common {
    /// The device as the library takes it.
    pub fn device(&self) -> DeviceOptions {
        DeviceOptions {
            device: self.device.clone(),
            allow_software: self.allow_software,
            memory: self.memory,
            pipeline_cache: pipeline_cache(),
            ..DeviceOptions::default()
        }
    }

    /// Whether the answer is to be coloured, which goes to stdout or not.
    pub fn colored(&self, to_stdout: bool) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                to_stdout && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        }
    }

    /// A progress bar on a terminal, unless the user wants silence.
    pub fn bar(&self, template: &str) -> ProgressBar {
        let bar = if self.quiet || !std::io::stderr().is_terminal() { ProgressBar::hidden() } else { ProgressBar::new(0) };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }

    /// Loads a model, with a progress bar in bytes on a terminal if there is much to load.
    pub fn load(&self, source: &Source, options: &Options) -> Result<Model> {
        let bar = self.bar("loading {bar:30} {bytes}/{total_bytes} {eta}");
        let mut progress = |progress: Progress| {
            if progress.total < WORTH_A_BAR {
                return;
            }
            bar.set_length(progress.total);
            bar.set_position(progress.loaded.min(progress.total));
        };
        let model = pollster::block_on(Model::open(source, options, &mut progress));
        bar.finish_and_clear();
        let model = model?;
        if !self.quiet {
            model.engine().notes().iter().for_each(|line| note(line));
        }
        self.loaded(model.engine());
        Ok(model)
    }

    /// Says where a model was loaded, with -v.
    pub fn loaded(&self, engine: &Engine) {
        if self.verbose {
            say(&format!("device: {}", engine.device().name));
            say(&format!("memory: {} on the device", size(engine.allocated_bytes())));
        }
    }
}

/// The user's folder for what GPU drivers compile: that of `REFRAIN_PIPELINE_CACHE`, which may be `off`, or where the system keeps caches.
fn pipeline_cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match set("REFRAIN_PIPELINE_CACHE") {
        Some(folder) => (folder.as_os_str() != "off").then_some(folder),
        None if cfg!(windows) => set("LOCALAPPDATA").map(|caches| caches.join("refrain")),
        None if cfg!(target_os = "macos") => set("HOME").map(|home| home.join("Library/Caches/refrain")),
        // A relative path there is to be ignored, says the XDG Base Directory Specification.
        None => set("XDG_CACHE_HOME")
            .filter(|caches| caches.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .map(|caches| caches.join("refrain")),
    }
}

/// A model by the name of a shipped one, by its name on the Hub, or the path of its folder.
pub(super) fn source(model: &str, common: &Common) -> Result<Source> {
    if let Some(source) = shipped::source(model) {
        return Ok(source);
    }
    if model.starts_with("hf:") {
        return hub::source(model, common);
    }
    if !Path::new(model).exists() {
        return Err(Error::Argument {
            name: "--model".into(),
            expected: format!("a shipped model ({}), hf:owner/repo or the path of a model folder", shipped::NAMES.join(", ")),
            found: format!("{model:?}, which does not exist"),
        });
    }
    Source::folder(model)
}

/// A published size by its name.
pub(super) fn published(name: &str) -> Result<Config> {
    published::config(name).ok_or_else(|| Error::Argument {
        name: "--config".into(),
        expected: published::NAMES.join(", "),
        found: name.into(),
    })
}

/// Bytes: a whole number, or any number with a unit, 1024 to the next (KiB) or 1000 (KB).
fn bytes(text: &str) -> Result<u64> {
    let fail = || Error::Argument {
        name: "size".into(),
        expected: "bytes from 1 on, or a number with KiB, MiB, GiB, TiB (times 1024), KB, MB, GB or TB (times 1000)".into(),
        found: format!("{text:?}"),
    };
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" => None,
        "kib" => Some(1u64 << 10),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        "tib" => Some(1 << 40),
        "kb" => Some(1_000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        "tb" => Some(1_000_000_000_000),
        _ => return Err(fail()),
    };
    let bytes = match (number.parse::<u64>(), factor) {
        (Ok(number), factor) => number.checked_mul(factor.unwrap_or(1)),
        // A part of a unit; half a byte is none.
        (Err(_), Some(factor)) => number.parse::<f64>().ok().map(|x| x * factor as f64).filter(|x| *x < u64::MAX as f64).map(|x| x as u64),
        (Err(_), None) => None,
    };
    bytes.filter(|bytes| *bytes > 0).ok_or_else(fail)
}

/// Writes to stdout and flushes, so that a stream is seen as it comes.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(stdout_error)
}

fn stdout_error(source: std::io::Error) -> Error {
    Error::File { path: "standard output".into(), doing: "write", source }
}

/// A line on stderr. One that cannot be written is nobody's loss: `eprintln!` would end the program over it.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The most bytes of a prompt or a line that are read: more than any context holds.
const LONGEST_PROMPT: u64 = 16 << 20;

/// Reads text to its end. [`Error::Format`] past 16 MiB: an endless file must not fill the memory.
pub(super) fn read_text(name: &str, from: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = from.take(LONGEST_PROMPT + 1).read_to_end(&mut bytes);
    read.map_err(|source| Error::File { path: name.into(), doing: "read", source })?;
    check_length(name, bytes.len())?;
    Ok(bytes)
}

/// Reads a line with its end; empty at the end of the text.
pub(super) fn read_line(name: &str, from: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = from.take(LONGEST_PROMPT + 1).read_until(b'\n', &mut bytes);
    read.map_err(|source| Error::File { path: name.into(), doing: "read", source })?;
    check_length(name, bytes.len())?;
    Ok(bytes)
}

fn check_length(name: &str, bytes: usize) -> Result<()> {
    if bytes as u64 <= LONGEST_PROMPT {
        return Ok(());
    }
    Err(Error::Format { path: name.into(), expected: "a prompt of at most 16 MiB".into(), found: "more".into() })
}

/// Refuses to write over what the same run reads: the model's files, or one of `inputs`.
pub(super) fn check_output(option: &str, output: &Path, model: &Source, inputs: &[&Path]) -> Result<()> {
    if !output.exists() {
        return Ok(());
    }
    // Whatever a model may be made of: config, tokenizer, index, weights in any number of files.
    let is_data = |path: &Path| path.extension().is_some_and(|extension| extension == "json" || extension == "safetensors");
    let files = match model {
        Source::Folder(folder) => std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect(),
        _ => Vec::new(),
    };
    let of_model = files.iter().any(|file| is_data(file) && is_same(file, output));
    if !of_model && !inputs.iter().any(|input| is_same(input, output)) {
        return Ok(());
    }
    let found = format!("{}, which this run reads", output.display());
    Err(Error::Argument { name: option.into(), expected: "a file of its own".into(), found })
}

/// Whether two paths lead to one file, which need not be there yet: through links, hard ones too where the system tells.
pub(super) fn is_same(a: &Path, b: &Path) -> bool {
    a == b || end_of(a, 8).is_some_and(|end| end_of(b, 8) == Some(end)) || is_one_file(a, b)
}

/// Where a path leads in the end, through at most so many links; its last part need not be there.
fn end_of(path: &Path, links: usize) -> Option<PathBuf> {
    if let Ok(end) = path.canonicalize() {
        return Some(end);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match path.read_link() {
        // A link to what is not there.
        Ok(target) if links > 0 => end_of(&folder.join(target), links - 1),
        Ok(_) => None,
        Err(_) => Some(folder.canonicalize().ok()?.join(path.file_name()?)),
    }
}

#[cfg(unix)]
fn is_one_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| std::fs::metadata(path).ok().filter(|data| data.is_file()).map(|data| (data.dev(), data.ino()));
    identity(a).is_some_and(|a| identity(b) == Some(a))
}

#[cfg(not(unix))]
fn is_one_file(_: &Path, _: &Path) -> bool {
    false
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Report {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// "1,234,567".
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.char_indices() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A note on stderr.
pub(super) fn note(note: &str) {
    say(&format!("note: {}", visible(note)));
}

/// A text with its control characters spelled out: names come from files, and a terminal obeys them.
fn visible(text: &str) -> String {
    let show = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// An error on stderr: what, then how to mend it.
pub(super) fn report(error: &Error) {
    say(&format!("error[{}]: {}", error.code(), visible(&error.to_string())));
    if let Some(hint) = error.hint() {
        say(&format!("  hint: {}", visible(&hint)));
    }
}
