//! The one error type: what went wrong, where, what was expected and found, and how to mend it.
//!
//! Every variant has a stable [`code`](Error::code), the same in Rust, on the command line and in JavaScript, and most have a
//! [`hint`](Error::hint). [`Display`](fmt::Display) prints one sentence without the hint; a front end prints both.

use std::fmt;

use crate::precision::Precision;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong. Match on the variant or on [`Error::code`]; the wording of a message may change.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written (`file`).
    File {
        /// The path as the user gave it.
        path: String,
        /// What was tried: "read", "write", "create".
        doing: &'static str,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A file is there but is not what it should be: bad JSON, a header that lies, a truncated body (`format`).
    Format {
        /// The file.
        path: String,
        /// What a correct file would hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A PyTorch checkpoint cannot be converted: damaged, of another kind, or it names code that is not run here (`checkpoint`).
    Checkpoint {
        /// The file.
        path: String,
        /// What would be converted.
        expected: String,
        /// What it holds.
        found: String,
        /// How to mend it.
        mend: &'static str,
    },
    /// A field of `config.json` is missing or has an impossible value (`config`).
    Config {
        /// The file.
        path: String,
        /// The field, or fields, at fault.
        field: String,
        /// The values that would work.
        expected: String,
        /// The value found.
        found: String,
    },
    /// A weight is missing, unknown, of the wrong shape or dtype, or holds NaN or infinity (`tensor`).
    Tensor {
        /// The file that holds, or should hold, the tensor.
        path: String,
        /// The tensor's name.
        tensor: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// `tokenizer.json` cannot be used, or a text cannot be encoded (`tokenizer`).
    Tokenizer {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A text holds a word that the vocabulary lacks (`unknown_word`).
    UnknownWord {
        /// The first such word.
        word: String,
        /// A few words that the model does know.
        known: String,
    },
    /// A token id is not in the vocabulary (`token`).
    Token {
        /// The id.
        token: u32,
        /// How many ids there are: the valid ones are `0..vocab_size`.
        vocab_size: usize,
    },
    /// There is nothing to compute: no token at all (`empty_prompt`).
    EmptyPrompt,
    /// More positions than the model or its cache has (`context`).
    Context {
        /// Positions that were asked for.
        asked: usize,
        /// Positions that there are.
        limit: usize,
        /// What sets the limit: "max_seq_len" or "the cache (--ctx-size)".
        of: &'static str,
    },
    /// A number of loops that cannot be run: 0, or more than the cache has slots for (`loops`).
    Loops {
        /// Loops that were asked for.
        asked: usize,
        /// The largest number possible here.
        limit: usize,
        /// What sets the limit: "a model", of any size, or "the cache".
        of: &'static str,
    },
    /// An option or argument has an unusable value (`argument`).
    Argument {
        /// The option, as the caller spells it.
        name: String,
        /// What would work.
        expected: String,
        /// What was given.
        found: String,
    },
    /// There is no GPU adapter to be had, or none of the asked name (`no_adapter`).
    NoAdapter {
        /// What was looked for and what there is.
        reason: String,
    },
    /// The adapter, or the memory, is too small for this model (`too_small`).
    TooSmall {
        /// What does not fit.
        what: String,
        /// How much it needs, with its unit.
        needed: String,
        /// How much there is, with its unit.
        available: String,
    },
    /// The device has less memory than the model takes (`memory`).
    Memory {
        /// The device.
        device: String,
        /// Bytes that the model takes.
        needed: u64,
        /// Bytes that there are; `None` where only the device knows, and it refused.
        available: Option<u64>,
        /// What takes them.
        parts: String,
        /// What would make it fit, each alone; empty where nothing is known to.
        advice: Vec<Remedy>,
    },
    /// The GPU refused or failed a command (`gpu`).
    Gpu {
        /// What was being done.
        doing: String,
        /// What the driver or the validation said.
        reason: String,
    },
    /// The GPU device was lost: unplugged, reset or destroyed (`device_lost`).
    DeviceLost {
        /// What the driver said.
        reason: String,
    },
    /// NaN or infinity came out of the model (`non_finite`).
    NonFinite {
        /// Where it was first seen: "prelude.0 at position 3", "loop 2 at position 3" (loops are counted from 1), "coda.0 …", "the head …". Of
        /// positions that ran together it is the first.
        place: String,
    },
    /// The shadow backend found a kernel whose GPU result differs from its CPU twin (`mismatch`).
    Mismatch {
        /// The kernel.
        kernel: String,
        /// The argument, the element and both values.
        detail: String,
    },
    /// A shipped model gave a wrong answer, so the engine or the device computes wrongly (`wrong_answer`).
    WrongAnswer {
        /// The problem: file and line.
        problem: String,
        /// The right answers.
        expected: String,
        /// What the model said.
        found: String,
    },
    /// Two calls contradict each other: a sequence of another model, a sequence that was freed (`usage`).
    Usage {
        /// What was done and what should have been.
        reason: String,
    },
    /// A model could not be had from the Hub by its name (`hub`).
    Hub {
        /// The name: "hf:owner/repo@revision".
        name: String,
        /// What was tried: "fetch model.safetensors".
        doing: String,
        /// What the server or the network answered, or what the cache lacks.
        reason: String,
        /// What the user may do about it.
        mend: String,
    },
    /// The caller stopped it (`cancelled`).
    Cancelled,
}

impl Error {
    /// The stable code: lower case with underscores, the same in Rust, on the command line and in JavaScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Format { .. } => "format",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Config { .. } => "config",
            Self::Tensor { .. } => "tensor",
            Self::Tokenizer { .. } => "tokenizer",
            Self::UnknownWord { .. } => "unknown_word",
            Self::Token { .. } => "token",
            Self::EmptyPrompt => "empty_prompt",
            Self::Context { .. } => "context",
            Self::Loops { .. } => "loops",
            Self::Argument { .. } => "argument",
            Self::NoAdapter { .. } => "no_adapter",
            Self::TooSmall { .. } => "too_small",
            Self::Memory { .. } => "memory",
            Self::Gpu { .. } => "gpu",
            Self::DeviceLost { .. } => "device_lost",
            Self::NonFinite { .. } => "non_finite",
            Self::Mismatch { .. } => "mismatch",
            Self::WrongAnswer { .. } => "wrong_answer",
            Self::Usage { .. } => "usage",
            Self::Hub { .. } => "hub",
            Self::Cancelled => "cancelled",
        }
    }

    /// How to mend it, in one sentence, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File { doing: "read", .. } => "check the path, and that you may read it".into(),
            Self::File { .. } => "check that the folder exists, that you may write to it and that the disk is not full".into(),
            Self::Format { expected, .. } if expected.contains("refrain.format") => {
                "quantize the original again with this version of refrain, or use the version that wrote it".into()
            }
            Self::Format { .. } => "fetch or export the file again; it may be cut short".into(),
            Self::Checkpoint { mend, .. } => (*mend).into(),
            Self::Config { path, .. } => format!("correct {path}, or export the model again"),
            Self::Tensor { tensor, .. } if tensor == "input_ids" => {
                "input_ids holds token ids: integers below the model's vocab_size, of shape (sequences, tokens)".into()
            }
            Self::Tensor { expected, .. } if expected == "finite numbers" => "the weights are damaged: fetch or export them again".into(),
            Self::Tensor { expected, .. } if expected.starts_with("numbers of at most ") => {
                "take another dtype: f32 holds every number, q8 up to 8319008, q4 up to 524032".into()
            }
            Self::Tensor { .. } => "config.json and the weights must come from the same export".into(),
            Self::Tokenizer { .. } => "use the tokenizer.json that the model was trained with".into(),
            Self::UnknownWord { known, .. } => format!("the model knows words such as {known}"),
            Self::Token { .. } => "use the tokenizer of this model".into(),
            Self::EmptyPrompt => "give a prompt of at least one token".into(),
            Self::Context { of: "max_seq_len", .. } => "shorten the prompt or generate fewer tokens".into(),
            Self::Context { .. } => "ask for a larger context when loading, or shorten the prompt".into(),
            Self::Loops { asked: 0, .. } => "ask for at least 1 loop".into(),
            Self::Loops { of: "a model", .. } => "ask for fewer loops".into(),
            Self::Loops { .. } => "ask for fewer loops, or set the largest number that you need when loading".into(),
            Self::NoAdapter { .. } => {
                "`refrain devices` lists what there is; `--device cpu` works everywhere; `--allow-software` admits software GPUs".into()
            }
            Self::TooSmall { available, .. } if available.starts_with("a kernel for ") => {
                "no device helps: the model needs another version of refrain".into()
            }
            Self::TooSmall { .. } => "ask for a smaller context, fewer loops or fewer sequences, or take a device with more memory".into(),
            Self::Memory { advice, .. } if advice.is_empty() => {
                "even in q4, with one loop and a short context it does not fit: take a device with more memory".into()
            }
            Self::Memory { advice, .. } => {
                let ways: Vec<String> = advice.iter().map(|remedy| format!("with {remedy}")).collect();
                format!("it would fit {}", ways.join(", or "))
            }
            Self::Gpu { .. } => "update the graphics driver, or use `--device cpu`".into(),
            Self::DeviceLost { .. } => "load the model again".into(),
            Self::NonFinite { .. } => "the weights are damaged, or too large for the precision".into(),
            Self::Mismatch { .. } => "please report it with the output of `refrain devices`; `--device cpu` computes the reference".into(),
            Self::WrongAnswer { .. } => {
                "`--device cpu` computes the reference; please report it with the output of `refrain devices`".into()
            }
            Self::Hub { mend, .. } => mend.clone(),
            Self::Argument { .. } | Self::Usage { .. } | Self::Cancelled => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, doing, source } => write!(f, "cannot {doing} {path}: {source}"),
            Self::Format { path, expected, found } | Self::Checkpoint { path, expected, found, .. } => {
                write!(f, "{path}: expected {expected}, found {found}")
            }
            Self::Config { path, field, expected, found } => write!(f, "{path}: {field}: expected {expected}, found {found}"),
            Self::Tensor { path, tensor, expected, found } => write!(f, "{path}: tensor {tensor}: expected {expected}, found {found}"),
            Self::Tokenizer { path, reason } => write!(f, "{path}: {reason}"),
            Self::UnknownWord { word, .. } => write!(f, "the word {word:?} is not in the model's vocabulary"),
            Self::Token { token, vocab_size } => {
                write!(f, "token id {token} is past the vocabulary: expected 0 to {}", vocab_size.saturating_sub(1))
            }
            Self::EmptyPrompt => write!(f, "the prompt is empty: expected at least one token"),
            Self::Context { asked, limit, of } => write!(f, "{asked} positions asked for, but {of} has {limit}"),
            Self::Loops { asked, limit, .. } => write!(f, "{asked} loops asked for: expected 1 to {limit}"),
            Self::Argument { name, expected, found } => write!(f, "{name}: expected {expected}, found {found}"),
            Self::NoAdapter { reason } => write!(f, "no GPU adapter: {reason}"),
            Self::TooSmall { what, needed, available } => write!(f, "{what} needs {needed}, and there is {available}"),
            Self::Memory { device, needed, available: Some(available), parts, .. } => {
                let (needs, has) = (size(*needed), size(*available));
                let missing = size(needed.saturating_sub(*available));
                write!(f, "the model needs {needs} and {device} has {has} to spare, {missing} too little: {parts}")
            }
            Self::Memory { device, needed, available: None, parts, .. } => {
                write!(f, "the model needs {}, more than {device} has: {parts}", size(*needed))
            }
            Self::Gpu { doing, reason } => write!(f, "the GPU failed while {doing}: {reason}"),
            Self::DeviceLost { reason } => write!(f, "the GPU device was lost: {reason}"),
            Self::NonFinite { place } => write!(f, "NaN or infinity in {place}"),
            Self::Mismatch { kernel, detail } => write!(f, "kernel {kernel}: GPU and CPU disagree: {detail}"),
            Self::WrongAnswer { problem, expected, found } => {
                write!(f, "{problem}: wrong answer at full depth: expected {expected}, found {found}")
            }
            Self::Usage { reason } => write!(f, "{reason}"),
            Self::Hub { name, doing, reason, .. } => write!(f, "{name}: cannot {doing}: {reason}"),
            Self::Cancelled => write!(f, "cancelled"),
        }
    }
}

/// Sizes with which a model would fit a device, together; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remedy {
    /// How weight matrices are stored.
    pub dtype: Option<Precision>,
    /// Positions of each sequence.
    pub context: Option<usize>,
    /// Loops that the cache has slots for.
    pub loops: Option<usize>,
    /// Sequences.
    pub sequences: Option<usize>,
}

impl fmt::Display for Remedy {
    /// "dtype q4 and a context of 2048".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let parts = [
            self.dtype.map(|dtype| format!("dtype {dtype}")),
            self.context.map(|context| format!("a context of {context}")),
            self.loops.map(|loops| counted(loops, "loop")),
            self.sequences.map(|sequences| counted(sequences, "sequence")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(" and "))
    }
}

/// Bytes in the unit that keeps three digits or so: "4.1 GiB".
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if bytes < 1024 {
        format!("{bytes} byte{}", if bytes == 1 { "" } else { "s" })
    } else {
        format!("{value:.*} {}", if value < 100.0 { 1 } else { 0 }, UNITS[unit])
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            _ => None,
        }
    }
}
