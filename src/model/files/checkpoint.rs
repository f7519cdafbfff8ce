//! PyTorch checkpoints: what `torch.save` writes, opened without executing anything.
//!
//! A checkpoint is a zip archive of stored entries: `NAME/data.pkl`, a pickle of everything but the numbers, and `NAME/data/0`,
//! `NAME/data/1`, …, the numbers. The pickle is read as data ([`pickle`]); each tensor of the state dict becomes a place in the
//! file, so that its numbers are read piece by piece when they are wanted, as those of a safetensors file.

mod names;
mod objects;
mod pickle;

use self::pickle::{Fault, Id, Pickle, Storage, TensorRef, Value};
use super::header::Dtype;
use super::{TensorInfo, Weights, open, shorten, stranger, unreadable};
use crate::error::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// Largest pickle that is read; that of the largest published model, with its optimizer, has a few MB.
const LARGEST_PICKLE: u64 = 64 << 20;
/// Most values of a configuration.
const LARGEST_CONFIG: usize = 10_000;
/// Most bytes of a string in it: a pickle can name one long string many times.
const LARGEST_TEXT: usize = 4096;
/// Notes that are kept; a file may give reason for millions.
const MOST_NOTES: usize = 20;
/// Where training scripts keep the state dict, and where the configuration.
const MODEL_KEYS: [&str; 3] = ["model", "state_dict", "model_state_dict"];
const CONFIG_KEYS: [&str; 6] = ["cfg", "config", "model_config", "model_args", "args", "hyper_parameters"];

const SAVE_AGAIN: &str = "save only tensors and plain values: torch.save({\"model\": model.state_dict(), \"cfg\": asdict(cfg)}, FILE)";
const CUT_SHORT: &str = "fetch the file again, or save it again with torch.save; it may be cut short";
const NAMED_CODE: &str = "nothing was run; never open a checkpoint from someone you do not trust in Python. If it is your own, save only \
    tensors and plain values: torch.save({\"model\": model.state_dict(), \"cfg\": asdict(cfg)}, FILE)";
const WRONG_FILE: &str = "give the .pt file that torch.save wrote";

/// A PyTorch checkpoint, opened but for its numbers.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) path: String,
    weights: Weights<'static>,
    config: Option<(&'static str, serde_json::Map<String, serde_json::Value>)>,
    notes: Vec<String>,
}

impl Checkpoint {
    /// Opens what `torch.save` of PyTorch 1.6 or later wrote: a state dict, or a dict that holds one as `model`, `state_dict` or
    /// `model_state_dict`. The prefixes that wrappers give to the names (`module.`, `_orig_mod.`, …) are dropped. Optimizers and
    /// all else in the file are passed over.
    ///
    /// # Errors
    /// [`Error::File`] where it is missing or cannot be read; [`Error::Checkpoint`] where it is no such file, is damaged, names a
    /// class or function that is none of PyTorch's tensors and Python's plain values, or has no tensors that can be read.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let (file, length) = open(path)?.ok_or_else(|| unreadable(name.clone(), std::io::ErrorKind::NotFound.into()))?;
        let mut archive = Archive::open(name.clone(), file, length)?;
        let bytes = archive.pickle()?;
        let pickle = Pickle::read(&bytes).map_err(|fault| match fault {
            Fault::Name(found) => archive.error("a checkpoint of tensors and plain values", format!("a use of {found}"), NAMED_CODE),
            Fault::Damaged(expected, found) => archive.error(&format!("{expected} in data.pkl"), found, CUT_SHORT),
        })?;
        let mut notes = Vec::new();
        let tensors = archive.tensors(&pickle, archive.state(&pickle)?, &mut notes)?;
        let config = config(&pickle, &mut notes);
        let weights = Weights::from_parts(name.clone(), archive.zip.into_inner().into_inner(), length, tensors);
        Ok(Self { path: name, weights, config, notes })
    }

    /// The tensors of the state dict. F64 is read too, rounded to f32.
    pub fn weights(&self) -> &Weights<'static> {
        &self.weights
    }

    /// The fields of the model's configuration, where the checkpoint has one: a dict or record with a field `dim` under `cfg`,
    /// `config`, `model_config`, `model_args`, `args` or `hyper_parameters`.
    pub fn config(&self) -> Option<&serde_json::Map<String, serde_json::Value>> {
        self.config.as_ref().map(|(_, fields)| fields)
    }

    /// The configuration as a `config.json`, and what messages call it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the checkpoint has none.
    pub fn config_json(&self) -> Result<(String, Vec<u8>)> {
        let Some((key, fields)) = &self.config else {
            return Err(Error::Checkpoint {
                path: self.path.clone(),
                expected: format!("the model's configuration in it, under {}, or a config.json beside it", or(&CONFIG_KEYS)),
                found: "neither".into(),
                mend: "give the model's config.json with `--config FILE`",
            });
        };
        let mut json = serde_json::to_vec_pretty(fields).unwrap_or_default(); // Strings and numbers: this cannot fail.
        json.push(b'\n');
        Ok((format!("{}: {key}", self.path), json))
    }

    /// What was passed over, a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// "`a`, `b` or `c`".
fn or(names: &[&str]) -> String {
    let (last, first) = names.split_last().unwrap_or((&"", &[]));
    format!("{} or {last}", first.join(", "))
}

fn note(notes: &mut Vec<String>, line: String) {
    if notes.len() < MOST_NOTES {
        notes.push(line);
    }
}

/// The zip archive.
struct Archive {
    path: String,
    length: u64,
    zip: ZipArchive<BufReader<File>>,
    /// What the entries' names start with, "archive/".
    root: String,
    /// Where each storage lies that was looked up: offset and bytes.
    storages: HashMap<String, (u64, u64)>,
}

impl Archive {
    fn open(path: String, file: File, length: u64) -> Result<Self> {
        let fail = |found: &str, mend| {
            Err(Error::Checkpoint { path: path.clone(), expected: "a PyTorch checkpoint".into(), found: found.into(), mend })
        };
        let mut reader = BufReader::new(file);
        let mut start = Vec::new();
        let read = reader.by_ref().take(64).read_to_end(&mut start).and_then(|_| reader.rewind());
        read.map_err(|source| unreadable(path.clone(), source))?;
        if !start.starts_with(b"PK\x03\x04") {
            let (found, mend) = impostor(&start);
            return fail(found, mend);
        }
        let zip = match ZipArchive::new(reader) {
            Ok(zip) => zip,
            Err(zip::result::ZipError::Io(source)) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
                return Err(unreadable(path, source));
            }
            Err(error) => return fail(&format!("a zip archive that is damaged or cut short ({error})"), CUT_SHORT),
        };
        // NAME/data.pkl, and no deeper.
        let roots = zip.file_names().filter_map(|name| name.strip_suffix("data.pkl"));
        let root = roots.filter(|root| root.ends_with('/') && root.matches('/').count() == 1).map(str::to_string).next();
        let Some(root) = root else {
            return fail("a zip archive without data.pkl", WRONG_FILE);
        };
        if zip.index_for_name(&format!("{root}constants.pkl")).is_some() {
            let mend = "load it with torch.jit.load and save its state_dict() with torch.save";
            return fail("a TorchScript program", mend);
        }
        Ok(Self { path, length, zip, root, storages: HashMap::new() })
    }

    fn error(&self, expected: &str, found: impl Into<String>, mend: &'static str) -> Error {
        Error::Checkpoint { path: self.path.clone(), expected: expected.into(), found: found.into(), mend }
    }

    /// Where an entry's bytes are in the file: offset and count. `None` where there is no such entry.
    fn entry(&mut self, name: &str) -> Result<Option<(u64, u64)>> {
        let full = format!("{}{name}", self.root);
        let Some(index) = self.zip.index_for_name(&full) else { return Ok(None) };
        let found = self
            .zip
            .by_index_raw(index)
            .map(|entry| (entry.data_start(), entry.size(), entry.compressed_size(), entry.compression(), entry.encrypted()));
        let found = match found {
            Ok(found) => found,
            Err(error) => return Err(self.error(&format!("the entry {full}"), format!("a fault: {error}"), CUT_SHORT)),
        };
        let (Some(start), size, stored, method, encrypted) = found else {
            return Err(self.error(&format!("the entry {full}"), "no place in the file", CUT_SHORT));
        };
        if method != CompressionMethod::Stored || encrypted || stored != size {
            let how = if encrypted { "encrypted".into() } else { format!("compressed ({method:?})") };
            let mend = "unpack the archive and pack it again with `zip -0 -r`, or save it again with torch.save";
            return Err(self.error(&format!("the entry {full} stored as it is"), how, mend));
        }
        if start.checked_add(size).is_none_or(|end| end > self.length) {
            let found = format!("{size} bytes from byte {start} on in a file of {}", self.length);
            return Err(self.error(&format!("the entry {full} inside the file"), found, CUT_SHORT));
        }
        Ok(Some((start, size)))
    }

    /// All of a small entry.
    fn read(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some((_, size)) = self.entry(name)? else { return Ok(None) };
        if size > limit {
            return Err(self.error(&format!("at most {limit} bytes of {name}"), format!("{size}"), SAVE_AGAIN));
        }
        let index = self.zip.index_for_name(&format!("{}{name}", self.root)).unwrap_or_default();
        let mut bytes = Vec::new();
        // Raw: the archive's other reader insists on checksums, which PyTorch can be told not to write.
        let read = self.zip.by_index_raw(index).map_err(std::io::Error::other).and_then(|mut entry| entry.read_to_end(&mut bytes));
        read.map_err(|source| unreadable(self.path.clone(), source))?;
        Ok(Some(bytes))
    }

    /// The bytes of data.pkl, in an archive of little-endian numbers.
    fn pickle(&mut self) -> Result<Vec<u8>> {
        // Older files do not say; they were little-endian on every machine that PyTorch was released for.
        if let Some(order) = self.read("byteorder", 64)?.filter(|order| order.trim_ascii() != b"little") {
            let found = format!("{:?}", shorten(&String::from_utf8_lossy(&order)));
            return Err(self.error("numbers in the byte order \"little\"", found, "load it and save it again on a little-endian machine"));
        }
        match self.read("data.pkl", LARGEST_PICKLE)? {
            Some(bytes) => Ok(bytes),
            None => Err(self.error("the entry data.pkl", "no such entry", CUT_SHORT)),
        }
    }

    /// The entries of the state dict.
    fn state<'p>(&self, pickle: &'p Pickle<'_>) -> Result<&'p [(Id, Id)]> {
        let top = pickle.top();
        let has_tensors = |entries: &[(Id, Id)]| entries.iter().any(|(_, value)| matches!(pickle.get(*value), Value::Tensor(_)));
        for value in MODEL_KEYS.iter().filter_map(|key| pickle.entry(top, key)).chain([top]) {
            match value {
                Value::Dict(entries) if has_tensors(entries) => return Ok(entries),
                _ => {}
            }
        }
        let found = match top {
            Value::Dict(entries) => {
                let keys = entries.iter().filter_map(|(key, _)| match pickle.get(*key) {
                    Value::Text(key) => Some(shorten(&format!("{key:?}"))),
                    _ => None,
                });
                let keys: Vec<String> = keys.take(8).collect();
                format!("a dict with {}", if keys.is_empty() { "no names".into() } else { keys.join(", ") })
            }
            other => other.kind().into(),
        };
        let expected = format!("a state dict: tensors by name, at the top or under {}", or(&MODEL_KEYS));
        Err(self.error(&expected, found, SAVE_AGAIN))
    }

    /// The places of the state dict's tensors.
    fn tensors(&mut self, pickle: &Pickle<'_>, state: &[(Id, Id)], notes: &mut Vec<String>) -> Result<Vec<TensorInfo>> {
        let (mut tensors, mut names) = (Vec::new(), BTreeSet::new());
        for (key, value) in state {
            let (Value::Text(key), Value::Tensor(tensor)) = (pickle.get(*key), pickle.get(*value)) else {
                let name = match pickle.get(*key) {
                    Value::Text(name) => shorten(&format!("{name:?}")),
                    other => other.kind().into(),
                };
                note(notes, format!("passed over {name} of the state dict: {}, not a tensor", pickle.get(*value).kind()));
                continue;
            };
            let name = plain_name(key);
            let Value::Storage(storage) = pickle.get(tensor.storage) else { continue }; // The pickle's reader let no other pass.
            let (dtype, offset, bytes) = self.place(&name, tensor, storage)?;
            // Checked: not negative, and their product fits.
            let shape = tensor.shape.iter().map(|&size| size as usize).collect();
            if !names.insert(name.clone()) {
                return Err(self.error("each tensor once", format!("{} twice", shorten(&name)), SAVE_AGAIN));
            }
            tensors.push(TensorInfo { name, dtype, shape, file: 0, bytes, offset });
        }
        Ok(tensors)
    }

    /// A tensor's dtype, where it starts in the file, and its bytes.
    fn place(&mut self, name: &str, tensor: &TensorRef, storage: &Storage<'_>) -> Result<(Dtype, u64, u64)> {
        let shown = shorten(name);
        let shape = shorten(&format!("{:?}", tensor.shape));
        let Some(dtype) = storage.dtype.or(tensor.dtype) else {
            return Err(self.error(&format!("tensor {shown} to have a dtype"), "none", SAVE_AGAIN));
        };
        let width = width(dtype);
        let elements = tensor.shape.iter().try_fold(1u64, |n, &size| n.checked_mul(usize::try_from(size).ok()? as u64));
        let bytes = elements.and_then(|n| n.checked_mul(width)).filter(|&n| usize::try_from(n).is_ok());
        let first = u64::try_from(tensor.offset).ok().and_then(|offset| offset.checked_mul(width));
        let (Some(elements), Some(bytes), Some(first)) = (elements, bytes, first) else {
            let found = format!("the shape {shape} from number {} on", tensor.offset);
            return Err(self.error(&format!("tensor {shown} of a size that can be"), found, CUT_SHORT));
        };
        if tensor.lazy {
            let found = "a view that negates or conjugates what is stored";
            let mend = "resolve it before saving: tensor.resolve_neg().resolve_conj()";
            return Err(self.error(&format!("tensor {shown} to be stored as it is"), found, mend));
        }
        if elements > 0 && !contiguous(&tensor.shape, &tensor.strides) {
            let found = format!("the strides {} for the shape {shape}", shorten(&format!("{:?}", tensor.strides)));
            let mend = "make it contiguous before saving: {name: tensor.contiguous() for name, tensor in model.state_dict().items()}";
            return Err(self.error(&format!("tensor {shown} to be contiguous"), found, mend));
        }
        let key = shorten(&format!("{:?}", storage.key));
        let (start, length) = match self.storages.get(storage.key) {
            Some(&place) => place,
            None => {
                let Some(place) = self.entry(&format!("data/{}", storage.key))? else {
                    return Err(self.error(&format!("the numbers of tensor {shown} in storage {key}"), "no such entry", CUT_SHORT));
                };
                self.storages.insert(storage.key.into(), place);
                place
            }
        };
        let unit = if storage.dtype.is_some() { width } else { 1 };
        let stated = u64::try_from(storage.count).ok().and_then(|count| count.checked_mul(unit));
        if stated != Some(length) {
            let expected = format!("storage {key} of {} {dtype} numbers", storage.count);
            let expected = if storage.dtype.is_some() { expected } else { format!("storage {key} of {} bytes", storage.count) };
            return Err(self.error(&expected, format!("{length} bytes"), CUT_SHORT));
        }
        // Cannot overflow: the storage lies in the file.
        if first.checked_add(bytes).is_none_or(|end| end > length) {
            let found = format!("{bytes} bytes from byte {first} on, of {length}");
            return Err(self.error(&format!("tensor {shown} inside its storage {key}"), found, CUT_SHORT));
        }
        Ok((Dtype::new(dtype), start + first, bytes))
    }
}

/// Bytes of one number.
fn width(dtype: &str) -> u64 {
    match Dtype::new(dtype).bits() {
        Some(bits) => bits.div_ceil(8),
        // The one dtype of PyTorch that safetensors lacks: C128.
        None => 16,
    }
}

/// Whether the numbers stand one after the other in the order of the shape. The stride of a size of 1 does not matter.
fn contiguous(shape: &[i64], strides: &[i64]) -> bool {
    let mut next = 1i64;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == next;
        next = next.saturating_mul(size);
        fits
    })
}

/// The name without what wrappers add: `module.` (data parallel), `_orig_mod.` (torch.compile), `model.` (Lightning) in front,
/// and the marks of compiled, sharded and checkpointed blocks anywhere.
fn plain_name(name: &str) -> String {
    let mut name = name;
    while let Some(rest) = ["module.", "model.", "_orig_mod."].iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    let marks = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
    name.split('.').filter(|part| !marks.contains(part)).collect::<Vec<_>>().join(".")
}

/// What a file is that is no zip archive, and what to do instead.
fn impostor(start: &[u8]) -> (&'static str, &'static str) {
    // The first value that torch.save of PyTorch before 1.6 wrote is a number by which to know the file.
    const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    if let Some(found) = stranger(start) {
        return (found, WRONG_FILE);
    }
    if start.starts_with(LEGACY) {
        let mend = "load it in PyTorch 1.6 or later, if you trust it, and torch.save it again";
        return ("a checkpoint in the format of PyTorch before 1.6", mend);
    }
    if start.get(8) == Some(&b'{') && start.get(7) == Some(&0) {
        let mend = "it needs no conversion: put it into a folder as model.safetensors, beside its config.json";
        return ("a safetensors file", mend);
    }
    if start.starts_with(b"GGUF") {
        return ("a GGUF file", WRONG_FILE);
    }
    if start.first() == Some(&0x80) {
        return ("a bare pickle", SAVE_AGAIN);
    }
    if start.first() == Some(&b'{') {
        return ("a JSON file", WRONG_FILE);
    }
    ("bytes that no zip archive starts with", WRONG_FILE)
}

/// The first configuration that describes a model: the key it was found under, and its fields.
fn config(pickle: &Pickle<'_>, notes: &mut Vec<String>) -> Option<(&'static str, serde_json::Map<String, serde_json::Value>)> {
    let top = pickle.top();
    let (key, entries) = CONFIG_KEYS.iter().find_map(|key| match pickle.entry(top, key)? {
        value @ (Value::Dict(entries) | Value::Record(entries)) if pickle.entry(value, "dim").is_some() => Some((*key, entries)),
        _ => None,
    })?;
    let mut budget = LARGEST_CONFIG;
    let mut fields = serde_json::Map::new();
    for (name, value) in entries {
        let Value::Text(name) = pickle.get(*name) else { continue };
        if name.len() > LARGEST_TEXT {
            continue;
        }
        match plain(pickle, *value, 8, &mut budget) {
            Some(value) => _ = fields.insert((*name).into(), value),
            None => note(notes, format!("left out {key}.{}: {} is no plain value", shorten(name), pickle.get(*value).kind())),
        }
    }
    Some((key, fields))
}

/// A plain value as JSON; `None` for any other, and for what is too deep or too large.
fn plain(pickle: &Pickle<'_>, id: Id, depth: usize, budget: &mut usize) -> Option<serde_json::Value> {
    *budget = budget.checked_sub(1)?;
    let depth = depth.checked_sub(1)?;
    Some(match pickle.get(id) {
        Value::None => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Float(value) => serde_json::Number::from_f64(*value)?.into(),
        Value::Text(text) if text.len() <= LARGEST_TEXT => (*text).into(),
        Value::Name(names::Known::Dtype { torch, .. }) => (*torch).into(),
        Value::List(items) | Value::Tuple(items) => {
            items.iter().map(|item| plain(pickle, *item, depth, budget)).collect::<Option<Vec<_>>>()?.into()
        }
        Value::Dict(entries) | Value::Record(entries) => {
            let entry = |(name, value): &(Id, Id)| match pickle.get(*name) {
                Value::Text(name) if name.len() <= LARGEST_TEXT => Some(((*name).to_string(), plain(pickle, *value, depth, budget)?)),
                _ => None,
            };
            entries.iter().map(entry).collect::<Option<serde_json::Map<_, _>>>()?.into()
        }
        _ => return None,
    })
}
