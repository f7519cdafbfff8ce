//! The header of a safetensors file: which tensors it holds, and where.
//!
//! Nothing in a header is believed: its length is checked against the file before it is read, and shapes, offsets and the
//! length of the file must agree to the byte, in arithmetic that cannot overflow. The `safetensors` crate refuses a whole
//! file for one dtype that it does not know; here such a tensor is only refused when it is read, so that files which also
//! carry other tables can be opened.

use super::{shorten, stranger};
use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// Largest header that is read, the same limit as in the `safetensors` crate.
const LARGEST_HEADER: u64 = 100_000_000;

/// What the numbers of a tensor are stored as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// Anything else, by its name in the file; such a tensor cannot be read as weights.
    Other(String),
}

impl Dtype {
    pub(super) fn new(name: &str) -> Self {
        match name {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            other => Self::Other(shorten(other)),
        }
    }

    /// Bits of one element; `None` where the name is not known.
    pub(super) fn bits(&self) -> Option<u64> {
        Some(match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::Other(name) => match name.as_str() {
                "F4" => 4,
                "F6_E2M3" | "F6_E3M2" => 6,
                "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
                "I16" | "U16" => 16,
                "I32" | "U32" => 32,
                "I64" | "U64" | "F64" | "C64" => 64,
                _ => return None,
            },
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Other(name) => name,
        })
    }
}

/// One tensor of a file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// What its numbers are stored as.
    pub dtype: Dtype,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// Which file holds it: 0, or the number of the shard in the order of the shards' names.
    pub file: usize,
    /// Bytes that it takes in the file.
    pub bytes: u64,
    /// Where it starts in the file, counted from the file's first byte.
    pub(super) offset: u64,
}

/// The entries of `__metadata__`, texts by the format's definition.
pub(super) type Metadata = BTreeMap<String, String>;

/// Reads the header of file number `file`, which has `length` bytes; `read(offset, n)` gives n of them.
pub(super) fn parse<'b>(
    path: &str,
    file: usize,
    length: u64,
    mut read: impl FnMut(u64, usize) -> Result<std::borrow::Cow<'b, [u8]>>,
) -> Result<(Vec<TensorInfo>, Metadata)> {
    let format = |expected: &str, found: String| Error::Format { path: path.into(), expected: expected.into(), found };
    let start = read(0, length.min(64) as usize)?;
    if let Some(what) = stranger(&start) {
        return Err(format("safetensors weights", what.into()));
    }
    let Some(size) = start.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return Err(format("safetensors weights, which start with 8 bytes", format!("{length} bytes")));
    };
    if size > LARGEST_HEADER {
        return Err(format(&format!("a header of at most {LARGEST_HEADER} bytes"), format!("a header said to have {size} bytes")));
    }
    // Cannot underflow: 8 bytes were read.
    if size > length - 8 {
        return Err(format(&format!("a header of {size} bytes"), format!("{} bytes: the file is cut short", length - 8)));
    }
    let text = read(8, size as usize)?;
    if text.first() != Some(&b'{') {
        return Err(format("a header that starts with {", text.first().map_or("an empty header".into(), |b| format!("byte {b}"))));
    }
    let raw: Header = serde_json::from_slice(&text).map_err(|error| format("a safetensors header in JSON", format!("a fault: {error}")))?;
    let data = length - 8 - size;
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, raw) in raw.tensors {
        tensors.push(raw.check(name, file, 8 + size).map_err(|(name, expected, found)| {
            // The name is of the file's own choosing: cut it as any other found thing.
            format(&format!("{expected} in tensor {}", shorten(&name)), found)
        })?);
    }
    check_layout(&mut tensors, 8 + size, data).map_err(|(expected, found)| format(&expected, found))?;
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(format("each tensor once", format!("{} twice", shorten(&pair[0].name))));
    }
    Ok((tensors, raw.metadata))
}

/// Tensors, in the order of their offsets, must fill the `data` bytes from `first` on without gap or overlap.
fn check_layout(tensors: &mut [TensorInfo], first: u64, data: u64) -> std::result::Result<(), (String, String)> {
    tensors.sort_by_key(|t| (t.offset, t.bytes));
    // Offsets were checked to fit when they were made absolute, so that these sums do too.
    let end = tensors.iter().map(|t| t.offset + t.bytes - first).max().unwrap_or(0);
    if end > data {
        return Err((
            format!("{end} bytes of weights after the header"),
            format!("{data} bytes: the file is cut short or the header lies"),
        ));
    }
    let mut next = first;
    for tensor in tensors.iter() {
        if tensor.offset != next {
            let (name, start) = (shorten(&tensor.name), tensor.offset - first);
            let fault = if tensor.offset < next { "an overlap" } else { "a gap" };
            return Err((format!("tensor {name} to start at byte {}", next - first), format!("{start}: {fault}")));
        }
        next += tensor.bytes;
    }
    if end != data {
        return Err((format!("{end} bytes of weights after the header"), format!("{data} bytes")));
    }
    Ok(())
}

/// One tensor as the header has it.
#[derive(serde::Deserialize)]
struct Raw {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Raw {
    /// Checks what can be checked of one tensor alone; `first` is where the weights start. The error is (name, expected,
    /// found).
    fn check(self, name: String, file: usize, first: u64) -> std::result::Result<TensorInfo, (String, String, String)> {
        let dtype = Dtype::new(&self.dtype);
        let [begin, end] = self.data_offsets;
        let (Some(bytes), Some(_)) = (end.checked_sub(begin), first.checked_add(end)) else {
            return Err((name, "offsets in order".into(), format!("[{begin}, {end}]")));
        };
        let elements = self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let bits = match (elements, dtype.bits()) {
            (Some(n), Some(bits)) => n.checked_mul(bits),
            // A dtype that is not known: nothing to compare.
            (Some(_), None) => bytes.checked_mul(8),
            (None, _) => None,
        };
        let shape: Option<Vec<usize>> = self.shape.iter().map(|&d| usize::try_from(d).ok()).collect();
        let (Some(bits), Some(shape)) = (bits, shape) else {
            return Err((name, "a shape that fits the memory".into(), shorten(&format!("{:?}", self.shape))));
        };
        if bits.div_ceil(8) != bytes || !bits.is_multiple_of(8) {
            let expected = format!("{} bytes for {dtype} {}", bits.div_ceil(8), shorten(&format!("{shape:?}")));
            return Err((name, expected, format!("{bytes} bytes")));
        }
        Ok(TensorInfo { name, dtype, shape, file, bytes, offset: first + begin })
    }
}

/// A whole header.
struct Header {
    tensors: Vec<(String, Raw)>,
    metadata: Metadata,
}

const METADATA: &str = "__metadata__";

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header { tensors: Vec::new(), metadata: Metadata::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        // Texts by definition; what is none is nothing of ours.
                        let entries: BTreeMap<String, serde_json::Value> = map.next_value()?;
                        header.metadata.extend(entries.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_string()))));
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The entries of a JSON object in their order, duplicates included: a map would hide them.
pub(super) struct Pairs<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Collect<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Collect<T> {
            type Value = Pairs<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect(PhantomData))
    }
}
