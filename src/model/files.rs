//! Where a model's bytes come from: a folder or memory ([`Source`]), and the weights in it ([`Weights`]).
//!
//! Weights are safetensors: 8 bytes with the length of a JSON header, the header, then every tensor's numbers without a gap,
//! little-endian. They lie in `model.safetensors`, or in shards that `model.safetensors.index.json` lists. Tensors are
//! read one by one with positioned reads, so that no more than one is in memory besides what the caller keeps.
//!
//! [`Checkpoint`] opens what PyTorch saved, [`FolderWriter`] writes a folder whole or not at all, and [`export()`] makes the one of the
//! other.

mod checkpoint;
mod export;
mod fields;
mod header;
mod rows;
mod weights;
mod writer;

pub use checkpoint::Checkpoint;
pub use export::{Exported, export};
pub(super) use fields::{Fields, shorten};
pub use header::{Dtype, TensorInfo};
pub(crate) use rows::rows_of_a_piece;
pub use rows::{FORMAT, FORMAT_KEY, Stored};
pub use weights::Weights;
#[cfg(all(feature = "hub", not(target_arch = "wasm32")))]
pub(crate) use weights::parse_index;
pub use writer::{Entry, FolderWriter, TensorWriter, header as safetensors_header};

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest file that is read whole; the tokenizer.json of a vocabulary of 256,000 has about 35 MB.
const LARGEST_SMALL_FILE: u64 = 128 << 20;

/// Where the files of one model are.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder on disk; [`Source::folder`] checks that it is one.
    Folder(PathBuf),
    /// Files in memory: a model inside the binary, or bytes that a browser handed over.
    Memory {
        /// What messages call the model.
        name: String,
        /// Names and contents of the files.
        files: Vec<(String, Cow<'static, [u8]>)>,
    },
    /// Files that the program reads in its own way: a browser's, say.
    Reader {
        /// What messages call the model.
        name: String,
        /// The files.
        files: Arc<dyn Reader>,
    },
}

/// Files that are read piece by piece in a program's own way. Nothing is kept of them but the piece.
pub trait Reader: std::fmt::Debug + Send + Sync {
    /// Names of all files, in any order.
    fn names(&self) -> Vec<String>;
    /// Bytes of a file; `None` where there is no such file.
    fn length(&self, file: &str) -> Option<u64>;
    /// Fills `into` with the bytes of a file from `offset` on. Error: they cannot be had, or there are not so many.
    fn read(&self, file: &str, offset: u64, into: &mut [u8]) -> std::io::Result<()>;
}

impl Source {
    /// The model folder at `path`.
    ///
    /// # Errors
    /// [`Error::File`] where there is no such folder, or no `config.json` in it.
    pub fn folder(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let data = std::fs::metadata(path).map_err(|source| unreadable(path.display().to_string(), source))?;
        if !data.is_dir() {
            let why = std::io::Error::new(ErrorKind::NotADirectory, "not a folder; give the folder that holds config.json");
            return Err(unreadable(path.display().to_string(), why));
        }
        let config = path.join("config.json");
        if let Err(source) = std::fs::metadata(&config) {
            return Err(unreadable(config.display().to_string(), source));
        }
        Ok(Self::Folder(path.to_path_buf()))
    }

    /// What messages call `file` of this model.
    pub fn path(&self, file: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(file).display().to_string(),
            Self::Memory { name, .. } | Self::Reader { name, .. } => format!("{name}/{file}"),
        }
    }

    /// All of a file that is not weights; `None` where there is no such file.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read, [`Error::Format`] where it has more than 128 MiB.
    pub fn read_small(&self, file: &str) -> Result<Option<Vec<u8>>> {
        let (length, bytes) = match self {
            Self::Folder(folder) => {
                let path = folder.join(file);
                let Some((file, length)) = open(&path)? else { return Ok(None) };
                let mut bytes = Vec::new();
                // A file may grow while it is read: the limit holds for what is read, not for what the system said.
                let read = if length > LARGEST_SMALL_FILE { Ok(0) } else { file.take(LARGEST_SMALL_FILE + 1).read_to_end(&mut bytes) };
                read.map_err(|source| unreadable(path.display().to_string(), source))?;
                (length.max(bytes.len() as u64), bytes)
            }
            Self::Memory { .. } => match self.memory(file) {
                Some(bytes) if bytes.len() as u64 > LARGEST_SMALL_FILE => (bytes.len() as u64, Vec::new()),
                Some(bytes) => (bytes.len() as u64, bytes.to_vec()),
                None => return Ok(None),
            },
            Self::Reader { files, .. } => {
                let Some(length) = files.length(file) else { return Ok(None) };
                let mut bytes = vec![0; if length > LARGEST_SMALL_FILE { 0 } else { length as usize }];
                files.read(file, 0, &mut bytes).map_err(|source| unreadable(self.path(file), source))?;
                (length, bytes)
            }
        };
        if length > LARGEST_SMALL_FILE {
            let expected = format!("at most {LARGEST_SMALL_FILE} bytes");
            return Err(Error::Format { path: self.path(file), expected, found: format!("{length} bytes") });
        }
        Ok(Some(bytes))
    }

    /// The files beside the weights that go wherever they go: settings, tokenizer, texts, pictures; then those that would, but are too
    /// large for a description. Names in order; `config.json`, hidden files, and what holds or lists weights are in neither.
    ///
    /// # Errors
    /// [`Error::File`] where the folder cannot be read.
    pub fn companions(&self) -> Result<(Vec<String>, Vec<String>)> {
        let mut files: Vec<(String, u64)> = match self {
            Self::Folder(folder) => {
                let entries = std::fs::read_dir(folder).map_err(|source| unreadable(folder.display().to_string(), source))?;
                // Through a link, what it leads to.
                let files = entries.flatten().filter_map(|entry| {
                    let data = std::fs::metadata(entry.path()).ok().filter(std::fs::Metadata::is_file)?;
                    Some((entry.file_name().into_string().ok()?, data.len()))
                });
                files.collect()
            }
            Self::Memory { files, .. } => files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect(),
            Self::Reader { files, .. } => {
                files.names().into_iter().filter_map(|name| files.length(&name).map(|length| (name, length))).collect()
            }
        };
        files.retain(|(name, _)| is_companion(name));
        files.sort();
        let small = |(name, length): &(String, u64)| *length <= LARGEST_COMPANION || name == "tokenizer.json";
        let (small, large): (Vec<_>, Vec<_>) = files.into_iter().partition(small);
        let names = |files: Vec<(String, u64)>| files.into_iter().map(|(name, _)| name).collect();
        Ok((names(small), names(large)))
    }

    /// A file in memory, if this source is in memory and has it.
    fn memory(&self, file: &str) -> Option<&[u8]> {
        match self {
            Self::Folder(_) | Self::Reader { .. } => None,
            Self::Memory { files, .. } => files.iter().find(|(name, _)| name == file).map(|(_, bytes)| bytes.as_ref()),
        }
    }
}

/// Largest file beside the weights that goes with them, but for the tokenizer: what is larger is data, not a description.
const LARGEST_COMPANION: u64 = 16 << 20;

/// Whether a file of a model's folder goes with its weights wherever they go.
fn is_companion(name: &str) -> bool {
    let weights = [".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack"];
    !name.starts_with('.') && name != "config.json" && !weights.iter().any(|end| name.ends_with(end))
}

/// Opens a regular file and gives its length in bytes; `None` where there is none. A pipe or device is refused before it
/// is opened, since opening it can wait for ever.
fn open(path: &Path) -> Result<Option<(std::fs::File, u64)>> {
    let fail = |source| unreadable(path.display().to_string(), source);
    let data = match std::fs::metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    if !data.is_file() {
        return Err(fail(std::io::Error::new(ErrorKind::InvalidInput, "not a regular file")));
    }
    Ok(Some((std::fs::File::open(path).map_err(fail)?, data.len())))
}

fn unreadable(path: String, source: std::io::Error) -> Error {
    Error::File { path, doing: "read", source }
}

/// What the first bytes of a file show it to be, where that is one of the usual wrong things.
pub(crate) fn stranger(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes.trim_ascii_start();
    let starts_with = |text: &str| start.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text.as_bytes()));
    if start.is_empty() {
        Some("an empty file")
    } else if starts_with("<!do") || starts_with("<html") {
        Some("an HTML page: the address led to a web page, not to the file")
    } else if starts_with("version https://git-lfs") {
        Some("a Git LFS pointer: the file itself was not fetched")
    } else if start.starts_with(b"PK\x03\x04") {
        Some("a zip archive, such as a PyTorch checkpoint: `refrain convert` makes a model folder of one")
    } else {
        None
    }
}
