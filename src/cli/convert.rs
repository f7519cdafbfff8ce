//! `refrain convert`: a PyTorch checkpoint in, a model folder out.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use super::common::{self, Common};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::defaults::Defaults;
use crate::model::files::{Checkpoint, Source, convert};
use crate::tokenizer::Tokenizer;

/// Options of `convert`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The checkpoint is read without executing anything in it: tensors and plain values pass, any other class or function \
                        is refused by name. The output is a new folder, complete or not there at all."
)]
pub(super) struct Args {
    /// What torch.save wrote: a state dict, or a dict that holds one as `model`, `state_dict` or `model_state_dict`
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// The model folder to make
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// The model's config.json [default: what the checkpoint has as `cfg`, `config` or the like]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A tokenizer.json to go with it
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// A generation_config.json to go with it
    #[arg(long, value_name = "FILE")]
    generation_config: Option<PathBuf>,
}

/// Converts, and says what was written.
pub(super) fn main(args: &Args, common: &Common) -> Result<()> {
    let cancelled = watch()?;
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let (config_path, config) = match &args.config {
        Some(path) => (path.display().to_string(), read(path)?),
        None => checkpoint.config_json()?,
    };
    // What would be refused when the folder is opened is refused now.
    let sizes = Config::parse(&config_path, &config)?;
    let mut extras = Vec::new();
    if let Some(path) = &args.tokenizer {
        let bytes = read(path)?;
        Tokenizer::parse(&path.display().to_string(), &bytes, sizes.vocab_size)?;
        extras.push(("tokenizer.json", bytes));
    }
    if let Some(path) = &args.generation_config {
        let bytes = read(path)?;
        Defaults::parse(&path.display().to_string(), Some(&bytes))?;
        extras.push(("generation_config.json", bytes));
    }
    let extras: Vec<(&str, &[u8])> = extras.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let bar = if common.quiet || !std::io::stderr().is_terminal() { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let style = ProgressStyle::with_template("converting {bar:30} {bytes}/{total_bytes} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut progress = |done, total| {
        if cancelled.load(Ordering::SeqCst) {
            return Err(Error::Cancelled);
        }
        if total >= common::WORTH_A_BAR {
            bar.set_length(total);
            bar.set_position(done);
        }
        Ok(())
    };
    let converted = convert(&checkpoint, (&config_path, &config), &args.out, &extras, &mut progress);
    bar.finish_and_clear();
    let converted = converted?;
    if !common.quiet {
        converted.notes.iter().for_each(|note| common::say(&format!("note: {note}")));
    }
    let out = args.out.display();
    common::print(&format!(
        "wrote {out}: {} parameters in {} tensors, {}, {} bytes\n",
        common::thousands(converted.parameters.total),
        converted.tensors,
        converted.dtypes.join(" and "),
        common::thousands(converted.bytes),
    ))?;
    if !common.quiet {
        common::say(&format!("next: refrain inspect {out}"));
    }
    Ok(())
}

/// All of a small file.
fn read(path: &Path) -> Result<Vec<u8>> {
    let missing = || Error::File { path: path.display().to_string(), doing: "read", source: std::io::ErrorKind::NotFound.into() };
    let folder = Source::Folder(path.parent().unwrap_or(Path::new("")).to_path_buf());
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?;
    folder.read_small(name)?.ok_or_else(missing)
}

/// Ctrl-C sets the flag, which is looked at between two pieces: what was written until then is removed.
fn watch() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let pressed = flag.clone();
    ctrlc::set_handler(move || pressed.store(true, Ordering::SeqCst))
        .map_err(|error| Error::Usage { reason: format!("cannot listen for Ctrl-C: {error}") })?;
    Ok(flag)
}
