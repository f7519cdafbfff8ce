//! `refrain convert`: a PyTorch checkpoint in, a model folder out.

use std::path::{Path, PathBuf};

use super::common::{self, Common};
use super::export::write_folder;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::defaults::Defaults;
use crate::model::files::{Checkpoint, FolderWriter, Source};
use crate::precision::Precision;
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
    /// How to store the large matrices: f32, f16, q8 or q4 [default: as they are]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<Precision>,
    /// A tokenizer.json to go with it
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// A generation_config.json to go with it
    #[arg(long, value_name = "FILE")]
    generation_config: Option<PathBuf>,
}

/// Converts, and says what was written.
pub(super) fn main(args: &Args, common: &Common) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let (config_path, config) = match &args.config {
        Some(path) => (path.display().to_string(), read(path)?),
        None => checkpoint.config_json()?,
    };
    // First: what was passed over may be why the rest is refused.
    let notes = checkpoint.notes().iter().filter(|_| !common.quiet);
    notes.for_each(|note| common::note(note));
    // What would be refused when the folder is opened is refused now.
    let sizes = Config::parse(&config_path, &config)?;
    let mut extras: Vec<(&str, Vec<u8>)> = Vec::new();
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
    let mut write_extras = |folder: &mut FolderWriter| extras.iter().try_for_each(|(name, bytes)| folder.write_small(name, bytes));
    write_folder("converting", checkpoint.weights(), (&config_path, &config), args.dtype, &args.out, &mut write_extras, common)
}

/// All of a small file.
fn read(path: &Path) -> Result<Vec<u8>> {
    let missing = || Error::File { path: path.display().to_string(), doing: "read", source: std::io::ErrorKind::NotFound.into() };
    let folder = Source::Folder(path.parent().unwrap_or(Path::new("")).to_path_buf());
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?;
    folder.read_small(name)?.ok_or_else(missing)
}
