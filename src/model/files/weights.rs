//! The tensors of a model: which there are, whether they are the right ones, and their numbers as f32.

use super::header::{self, Dtype, Metadata, Pairs, TensorInfo};
use super::rows::{SCALES, block_precision};
use super::{Reader, Source, open, shorten, stranger, unreadable};
use crate::error::{Error, Result};
use crate::model::config::TensorSpec;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Bytes that are read at a time; a multiple of every element size.
const CHUNK: u64 = 1 << 20;

/// The weights of one model, opened but not read. Files in memory are borrowed from the [`Source`].
#[derive(Debug)]
pub struct Weights<'a> {
    /// What messages call the whole: the one file, or the index.
    path: String,
    pub(super) files: Vec<File<'a>>,
    /// Sorted by name.
    pub(super) tensors: Vec<TensorInfo>,
    /// Whether F64 is read too, rounded to f32: PyTorch has it, safetensors of a model do not.
    doubles: bool,
}

/// One open file.
#[derive(Debug)]
pub(super) struct File<'a> {
    pub(super) path: String,
    length: u64,
    bytes: Bytes<'a>,
    /// The metadata of its header.
    pub(super) metadata: Metadata,
}

#[derive(Debug)]
enum Bytes<'a> {
    /// On disk. A seek moves a cursor that all readers share, hence the lock.
    Disk(Mutex<std::fs::File>),
    Memory(&'a [u8]),
    /// Of the reader's file of this name.
    Reader(&'a dyn Reader, String),
}

impl<'a> File<'a> {
    fn new(path: String, length: u64, bytes: Bytes<'a>) -> Self {
        Self { path, length, bytes, metadata: Metadata::new() }
    }

    /// Reads the header; the file is number `number`.
    fn header(&mut self, number: usize) -> Result<Vec<TensorInfo>> {
        let (tensors, metadata) = header::parse(&self.path, number, self.length, |offset, count| self.read(offset, count))?;
        self.metadata = metadata;
        Ok(tensors)
    }

    fn open(source: &'a Source, name: &str) -> Result<Option<Self>> {
        let path = source.path(name);
        Ok(match source {
            Source::Folder(folder) => {
                open(&folder.join(name))?.map(|(file, length)| Self::new(path, length, Bytes::Disk(Mutex::new(file))))
            }
            Source::Memory { .. } => source.memory(name).map(|bytes| Self::new(path, bytes.len() as u64, Bytes::Memory(bytes))),
            Source::Reader { files, .. } => {
                files.length(name).map(|length| Self::new(path, length, Bytes::Reader(&**files, name.to_string())))
            }
        })
    }

    /// `count` bytes from `offset` on: a slice of the memory, or read from disk.
    pub(super) fn read(&self, offset: u64, count: usize) -> Result<Cow<'a, [u8]>> {
        let fail = |source| unreadable(self.path.clone(), source);
        match &self.bytes {
            Bytes::Memory(bytes) => {
                let start = usize::try_from(offset).ok();
                let part = start.and_then(|start| bytes.get(start..start.checked_add(count)?));
                part.map(Cow::Borrowed).ok_or_else(|| fail(ErrorKind::UnexpectedEof.into()))
            }
            Bytes::Disk(file) => {
                let mut buffer = vec![0; count];
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(offset)).map_err(fail)?;
                file.read_exact(&mut buffer).map_err(|source| match source.kind() {
                    // Its length was checked when it was opened.
                    kind @ ErrorKind::UnexpectedEof => fail(std::io::Error::new(kind, "the file became shorter while it was read")),
                    _ => fail(source),
                })?;
                Ok(Cow::Owned(buffer))
            }
            Bytes::Reader(files, name) => {
                let mut buffer = vec![0; count];
                files.read(name, offset, &mut buffer).map_err(fail)?;
                Ok(Cow::Owned(buffer))
            }
        }
    }
}

impl<'a> Weights<'a> {
    /// Opens `model.safetensors`, or else the shards that `model.safetensors.index.json` lists, and checks their headers.
    ///
    /// # Errors
    /// [`Error::File`] where a file is missing or cannot be read, [`Error::Format`] where one is cut short or its header
    /// is wrong, [`Error::Tensor`] where index and shards disagree.
    pub fn open(source: &'a Source) -> Result<Self> {
        let (single, index) = ("model.safetensors", "model.safetensors.index.json");
        if let Some(mut file) = File::open(source, single)? {
            let tensors = file.header(0)?;
            return Ok(Self { path: source.path(single), files: vec![file], tensors, doubles: false });
        }
        match source.read_small(index)? {
            Some(json) => Self::open_shards(source, source.path(index), &json),
            None => {
                let why = std::io::Error::new(ErrorKind::NotFound, format!("no such file, and no {index} either"));
                Err(unreadable(source.path(single), why))
            }
        }
    }

    /// Opens one safetensors file by its path, whatever it holds: inputs of a run, say.
    ///
    /// # Errors
    /// [`Error::File`] where it is missing or cannot be read, [`Error::Format`] where it is cut short or its header is wrong.
    pub fn open_file(path: &Path) -> Result<Weights<'static>> {
        let name = path.display().to_string();
        let (file, length) = open(path)?.ok_or_else(|| unreadable(name.clone(), ErrorKind::NotFound.into()))?;
        let mut file = File::new(name.clone(), length, Bytes::Disk(Mutex::new(file)));
        let tensors = file.header(0)?;
        Ok(Weights { path: name, files: vec![file], tensors, doubles: false })
    }

    /// The tensors, in any order, of a file that is no safetensors file; F64 is read too.
    pub(super) fn from_parts(path: String, file: std::fs::File, length: u64, mut tensors: Vec<TensorInfo>) -> Weights<'static> {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let file = File::new(path.clone(), length, Bytes::Disk(Mutex::new(file)));
        Weights { path, files: vec![file], tensors, doubles: true }
    }

    fn open_shards(source: &'a Source, path: String, json: &[u8]) -> Result<Self> {
        let map = parse_index(&path, json)?;
        let names: BTreeSet<&String> = map.values().collect();
        let (mut files, mut tensors) = (Vec::new(), Vec::new());
        for (number, &name) in names.iter().enumerate() {
            let Some(mut file) = File::open(source, name)? else {
                let why = std::io::Error::new(ErrorKind::NotFound, format!("no such file, though {path} names it"));
                return Err(unreadable(source.path(name), why));
            };
            for tensor in file.header(number)? {
                let listed = map.get(&tensor.name);
                if listed != Some(name) {
                    let found = listed.map_or("no entry".into(), |other| shorten(other));
                    return Err(Error::Tensor { path, tensor: tensor.name, expected: format!("the shard that holds it, {name}"), found });
                }
                tensors.push(tensor);
            }
            files.push(file);
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let weights = Self { path, files, tensors, doubles: false };
        for (tensor, file) in &map {
            if weights.find(tensor).is_none() {
                let expected = format!("the shard to hold it, as {} says", weights.path);
                return Err(Error::Tensor { path: source.path(file), tensor: tensor.clone(), expected, found: "no such tensor".into() });
            }
        }
        Ok(weights)
    }

    /// Every tensor there is, in the order of the names.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// Checks that the file holds every tensor of `specs` in its shape and a dtype that can be read, and no unknown one. Tables
    /// of RoPE frequencies, which some checkpoints carry, are skipped: the answer has a note for each. A `head.weight`
    /// must equal `embed.weight` bit for bit, because the engine has only the one.
    ///
    /// # Errors
    /// [`Error::Tensor`] for the first tensor at fault, with the number of others that share the fault.
    pub fn check(&self, specs: &[TensorSpec]) -> Result<Vec<String>> {
        let missing: Vec<_> = specs.iter().filter(|s| !s.optional && self.find(&s.name).is_none()).collect();
        if let Some(first) = missing.first() {
            let found = format!("no such tensor{}", and_others(missing.len(), "missing"));
            return Err(self.error(&first.name, show_shape(&first.shape), found));
        }
        let known: BTreeSet<&str> = specs.iter().map(|s| s.name.as_str()).collect();
        // Scales only beside blocks: what is stored plainly has none.
        let has_scales = |name: &str| known.contains(name) && self.find(name).is_some_and(|info| block_precision(info).is_some());
        let is_known = |name: &str| known.contains(name) || name.strip_suffix(SCALES).is_some_and(has_scales);
        let (tables, unknown): (Vec<_>, Vec<_>) = self.tensors().filter(|t| !is_known(&t.name)).partition(|t| is_rope_table(&t.name));
        if let Some(first) = unknown.first() {
            let found = format!("{} {}{}", first.dtype, show_shape(&first.shape), and_others(unknown.len(), "unknown"));
            return Err(self.error(&first.name, "no such tensor in this model".into(), found));
        }
        for spec in specs {
            if self.find(&spec.name).is_some() {
                self.stored(&spec.name, &spec.shape, spec.matrix)?;
            }
        }
        self.check_head()?;
        Ok(tables.iter().map(|t| format!("skipped {} ({}): RoPE tables are computed", t.name, t.dtype)).collect())
    }

    /// A tensor of integers: its shape and its numbers.
    ///
    /// # Errors
    /// [`Error::Tensor`] where there is no such tensor or its dtype is none of I64, I32, U32, U16 and U8; [`Error::File`]
    /// where it cannot be read; [`Error::TooSmall`] where the memory is.
    pub fn read_integers(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>)> {
        const DTYPES: &str = "integers (I64, I32, U32, U16 or U8)";
        let info = self.find(name).ok_or_else(|| self.error(name, DTYPES.into(), "no such tensor".into()))?;
        let widen: (usize, fn(&[u8]) -> i64) = match info.dtype.to_string().as_str() {
            "I64" => (8, |b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])),
            "I32" => (4, |b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()),
            "U32" => (4, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()),
            "U16" => (2, |b| u16::from_le_bytes([b[0], b[1]]).into()),
            "U8" => (1, |b| b[0].into()),
            other => return Err(self.error(name, DTYPES.into(), other.into())),
        };
        let mut numbers: Vec<i64> = Vec::new();
        if numbers.try_reserve_exact((info.bytes / widen.0 as u64) as usize).is_err() {
            let (what, needed) = (format!("tensor {name}"), format!("{} bytes", info.bytes));
            return Err(Error::TooSmall { what, needed, available: "less memory".into() });
        }
        for (offset, count) in chunks(info) {
            let bytes = self.files[info.file].read(offset, count)?;
            numbers.extend(bytes.chunks_exact(widen.0).map(widen.1));
        }
        Ok((info.shape.clone(), numbers))
    }

    pub(super) fn find(&self, name: &str) -> Option<&TensorInfo> {
        let index = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok()?;
        self.tensors.get(index)
    }

    /// The tensor, if it has this shape and a dtype that can be read.
    pub(super) fn expect(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo> {
        let info = self.find(name).ok_or_else(|| self.error(name, show_shape(shape), "no such tensor".into()))?;
        if info.shape != shape {
            return Err(self.error(name, show_shape(shape), show_shape(&info.shape)));
        }
        match &info.dtype {
            Dtype::Other(dtype) if !(self.doubles && dtype == "F64") => Err(self.error(name, "F32, F16 or BF16".into(), dtype.clone())),
            _ => Ok(info),
        }
    }

    fn check_head(&self) -> Result<()> {
        self.check_same("head.weight", "embed.weight")?;
        self.check_same("head.weight.scales", "embed.weight.scales")
    }

    fn check_same(&self, head_name: &str, embed_name: &str) -> Result<()> {
        let expected = || format!("the same numbers as {embed_name}: the head is tied");
        let (Some(head), Some(embed)) = (self.find(head_name), self.find(embed_name)) else { return Ok(()) };
        if head.dtype != embed.dtype || head.bytes != embed.bytes {
            let found = format!("{}, where {embed_name} is {}", head.dtype, embed.dtype);
            return Err(self.error(head_name, expected(), found));
        }
        let mut before = 0;
        for ((head_offset, count), (embed_offset, _)) in chunks(head).zip(chunks(embed)) {
            let head = self.files[head.file].read(head_offset, count)?;
            let embed = self.files[embed.file].read(embed_offset, count)?;
            if let Some(i) = head.iter().zip(embed.iter()).position(|(a, b)| a != b) {
                return Err(self.error(head_name, expected(), format!("a difference at byte {}", before + i)));
            }
            before += count;
        }
        Ok(())
    }

    /// The error of one tensor, with the file that holds it, or the whole where none does.
    pub(super) fn error(&self, name: &str, expected: String, found: String) -> Error {
        let path = self.find(name).map_or(&self.path, |info| &self.files[info.file].path);
        Error::Tensor { path: path.clone(), tensor: shorten(name), expected, found }
    }
}

/// The pieces, each (offset in the file, bytes), in which a tensor is read.
fn chunks(info: &TensorInfo) -> impl Iterator<Item = (u64, usize)> {
    (0..info.bytes.div_ceil(CHUNK)).map(|i| (info.offset + i * CHUNK, CHUNK.min(info.bytes - i * CHUNK) as usize))
}

/// Numbers in F64, rounded to f32.
pub(super) fn singles(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(8).map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
}

/// `model.safetensors.index.json`: from the name of a tensor to the name of its shard.
pub(crate) fn parse_index(path: &str, json: &[u8]) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: Pairs<String>,
    }
    let format = |expected: &str, found: String| Error::Format { path: path.into(), expected: expected.into(), found };
    let index: Index = serde_json::from_slice(json).map_err(|error| {
        format("an index of shards in JSON", stranger(json).map_or_else(|| format!("a fault: {error}"), str::to_string))
    })?;
    let mut map = BTreeMap::new();
    for (tensor, file) in index.weight_map.0 {
        // A plain name: an index must not lead out of the model's folder.
        if !file.ends_with(".safetensors") || file.starts_with('.') || file.contains(['/', '\\', ':', '\0']) {
            return Err(format("plain file names that end in .safetensors", format!("{:?}", shorten(&file))));
        }
        if map.insert(tensor.clone(), file).is_some() {
            return Err(format("each tensor once", format!("{} twice", shorten(&tensor))));
        }
    }
    if map.is_empty() {
        return Err(format("an index of shards", "an empty weight_map".into()));
    }
    Ok(map)
}

/// The package registers its RoPE tables as the buffers `freqs_cis` and `freqs_cis_mla`, and they end up in checkpoints.
fn is_rope_table(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "freqs_cis" | "freqs_cis_mla" | "inv_freq")
}

/// "(80, 60)".
pub(super) fn show_shape(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("({})", sizes.join(", "))
}

/// ", and 3 others are missing" where `count`, the one named included, is more than one.
fn and_others(count: usize, what: &str) -> String {
    match count {
        0 | 1 => String::new(),
        2 => format!(", and 1 other is {what}"),
        _ => format!(", and {} others are {what}", count - 1),
    }
}
