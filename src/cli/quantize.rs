//! `refrain quantize`: a model folder in fewer bits, and what that does to its answers.

mod quality;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::common::{self, Common};
use super::export::write_folder;
use crate::error::{Error, Result};
use crate::model::files::{FolderWriter, Source, Weights};
use crate::precision::Precision;

const HELP: &str = "\
q8 and q4 store blocks of 32 weights with one scale: 8.5 and 4.5 bits a weight.
Router, halting head, norms, injection and LoRA stay f32: a choice that flips
costs more than they weigh. The output is a new folder, complete or not there
at all; docs/formats.md describes it.

--quality runs the same prompts with all weights in f32 and in each dtype, and
prints of the tokens
  KL       divergence of the next token's distribution from that of f32, in nats
  top-1    share after which both find the same token most likely
  loops    share that took another number of loops
  experts  share for which other experts were chosen in some loop
  right    answers that are right, where the prompts are problems with answers

Examples:
  refrain quantize MODEL OUT --dtype q4
  refrain quantize follow --dtype f16,q8,q4 --quality    writes nothing
  refrain quantize MODEL OUT --dtype q8 --quality --prompts text.txt";

/// Options of `quantize`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// A shipped model, hf:owner/repo[@revision] or the path of a model folder
    #[arg(value_name = "MODEL")]
    model: String,
    /// The model folder to make; without it nothing is written
    #[arg(value_name = "OUT", required_unless_present = "quality")]
    out: Option<PathBuf>,
    /// How to store the large matrices: f32, f16, q8 or q4; several with --quality and without OUT
    #[arg(long, value_name = "DTYPE,…", value_delimiter = ',', required = true)]
    dtype: Vec<Precision>,
    /// Print what it does to the model's answers
    #[arg(long)]
    quality: bool,
    /// Prompts of --quality: problems (.jsonl, see `refrain sweep --help`), input_ids (.safetensors) or text, a prompt a line
    /// [default: the model's own problems, else random tokens]
    #[arg(long, value_name = "FILE", requires = "quality")]
    prompts: Option<PathBuf>,
    /// Only the first N prompts
    #[arg(long, value_name = "N", requires = "quality")]
    limit: Option<usize>,
    /// The most loops of a token [default: the model's own]
    #[arg(long, value_name = "N", requires = "quality")]
    loops: Option<usize>,
    /// How to write the table
    #[arg(long, value_enum, default_value_t = Format::Text, requires = "quality")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Text,
    /// A table in Markdown
    Md,
    /// One JSON object for each dtype
    Jsonl,
}

/// Writes the folder, then measures.
pub(super) fn main(args: &Args, common: &Common) -> Result<()> {
    let source = common::source(&args.model, common)?;
    // Prompts that cannot be read are refused before anything is written.
    let prompts = args.quality.then(|| quality::Prompts::read(args, &source)).transpose()?;
    if let Some(out) = &args.out {
        let [dtype] = args.dtype.as_slice() else {
            let found = args.dtype.len().to_string();
            return Err(Error::Argument { name: "--dtype".into(), expected: "one dtype for the one OUT".into(), found });
        };
        write(&source, *dtype, out, common)?;
    }
    prompts.map_or(Ok(()), |prompts| prompts.measure(args, &source, common))
}

fn write(source: &Source, dtype: Precision, out: &Path, common: &Common) -> Result<()> {
    let path = source.path("config.json");
    let config = source.read_small("config.json")?;
    let missing = || Error::File { path: path.clone(), doing: "read", source: std::io::ErrorKind::NotFound.into() };
    let config = config.ok_or_else(missing)?;
    let weights = Weights::open(source)?;
    let (companions, too_large) = source.companions()?;
    for name in too_large.iter().filter(|_| !common.quiet) {
        common::note(&format!("left out {name}: of what lies beside the weights only files of up to 16 MiB are copied"));
    }
    let mut extras = |folder: &mut FolderWriter| {
        companions.iter().try_for_each(|name| match source.read_small(name)? {
            Some(bytes) => folder.write_small(name, &bytes),
            None => Ok(()),
        })
    };
    write_folder("quantizing", &weights, (&path, &config), Some(dtype), out, &mut extras, common)
}
