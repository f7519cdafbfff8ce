//! A model's weights into a new folder: `config.json`, `model.safetensors` in the precision asked for, and what the caller adds.

use super::rows::{Encoding, SCALES};
use super::writer::{Entry, FolderWriter, TensorWriter};
use super::{FORMAT, FORMAT_KEY, Stored, Weights, rows_of_a_piece};
use crate::error::Result;
use crate::model::config::{Config, Parameters, TensorSpec};
use crate::precision::{BLOCK, Packed, Precision};
use std::path::Path;

/// What [`export`] wrote.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The sizes of the model.
    pub parameters: Parameters,
    /// Tensors in `model.safetensors`, the scales of blocks not counted.
    pub tensors: usize,
    /// Bytes of their numbers.
    pub bytes: u64,
    /// What the numbers are stored as, each once.
    pub dtypes: Vec<String>,
    /// What was left out and why, a line each.
    pub notes: Vec<String>,
}

/// Makes the model folder `out`, which must not exist or be empty. `config` is what messages call a `config.json`, and its text; `extras`
/// writes what else belongs into the folder.
///
/// `model.safetensors` gets the tensors of [`Config::tensors`] in that order: the large matrices in `precision`, all else in f32; or,
/// without a precision, all as they are (F64, which only checkpoints have, as F32). RoPE tables and the tied head are left out. No more
/// than a few MiB are in memory at a time, and the scales of one tensor. `progress` is told the bytes read and those of all tensors, after
/// every piece; an error that it gives ends the work. Nothing is left behind unless all went well.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) and [`Error::Format`](crate::Error::Format) for a `config.json` that is wrong;
/// [`Error::Tensor`](crate::Error::Tensor) for the first tensor that is missing, unknown, of the wrong shape, not finite, or too large for
/// the precision; [`Error::Argument`](crate::Error::Argument) where `out` exists; [`Error::File`](crate::Error::File) where a file cannot
/// be read or written; what `extras` and `progress` give.
pub fn export(
    weights: &Weights,
    (config_path, config): (&str, &[u8]),
    precision: Option<Precision>,
    out: &Path,
    extras: &mut dyn FnMut(&mut FolderWriter) -> Result<()>,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Exported> {
    let model = Config::parse(config_path, config)?;
    let specs = model.tensors();
    // First, since it is quick where comparing the tied head with the embeddings is not.
    let mut folder = FolderWriter::create(out)?;
    let mut notes = weights.check(&specs)?;
    let mut items = Vec::with_capacity(specs.len());
    for spec in &specs {
        if !spec.optional {
            items.push(Item::new(weights, spec, precision)?);
        } else if weights.find(&spec.name).is_some() {
            notes.push(format!("left out {}: it is tied to embed.weight", spec.name));
        }
    }
    let mut entries = Vec::new();
    for item in &items {
        entries.push(Entry { name: &item.spec.name, dtype: item.dtype(), shape: &item.shape });
        if let Some((name, shape)) = &item.scales {
            entries.push(Entry { name, dtype: "F16", shape });
        }
    }
    folder.write_small("config.json", config)?;
    extras(&mut folder)?;
    let (mut done, mut bytes, total) = (0, 0, items.iter().map(|item| item.stored.bytes()).sum());
    progress(done, total)?;
    let mut file = folder.tensors("model.safetensors", &metadata(&items), &entries)?;
    for item in &items {
        bytes += item.write(weights, &mut file, &mut |count| {
            done += count;
            progress(done, total)
        })?;
    }
    file.finish()?;
    folder.finish()?;
    let mut dtypes: Vec<String> = items.iter().map(Item::kind).collect();
    dtypes.sort();
    dtypes.dedup();
    Ok(Exported { parameters: model.parameters(), tensors: items.len(), bytes, dtypes, notes })
}

/// One tensor to be written.
struct Item<'w> {
    spec: &'w TensorSpec,
    stored: Stored<'w>,
    /// The precision; `None` leaves bf16, which is none, as it is.
    precision: Option<Precision>,
    /// The shape in the file.
    shape: Vec<usize>,
    /// Name and shape of its scales.
    scales: Option<(String, [usize; 2])>,
}

impl<'w> Item<'w> {
    fn new(weights: &'w Weights, spec: &'w TensorSpec, precision: Option<Precision>) -> Result<Self> {
        let stored = weights.stored(&spec.name, &spec.shape, spec.matrix)?;
        let precision = match (precision, stored.encoding) {
            (Some(precision), _) if spec.matrix => Some(precision),
            (Some(_), _) | (None, Encoding::F64) => Some(Precision::F32),
            (None, Encoding::Bf16) => None,
            (None, Encoding::F32 | Encoding::F16 | Encoding::Blocks(..)) => Some(stored.precision()),
        };
        let (rows, cols) = (stored.rows(), stored.cols());
        let blocks = precision.filter(|precision| precision.is_quantized());
        Ok(Self {
            spec,
            stored,
            precision,
            shape: blocks.map_or_else(|| spec.shape.clone(), |precision| vec![rows, precision.row_bytes(cols)]),
            scales: blocks.map(|precision| (format!("{}{SCALES}", spec.name), [rows, precision.blocks(cols)])),
        })
    }

    /// The name of its dtype in the file.
    fn dtype(&self) -> &'static str {
        match self.precision {
            Some(Precision::Q4) => "U8",
            Some(Precision::Q8) => "I8",
            Some(Precision::F16) => "F16",
            Some(Precision::F32) => "F32",
            None => "BF16",
        }
    }

    /// What people call it.
    fn kind(&self) -> String {
        match self.precision {
            Some(precision) if precision.is_quantized() => precision.name().to_uppercase(),
            _ => self.dtype().into(),
        }
    }

    /// Writes the numbers piece by piece, then the scales; how many bytes that were. `progress` is told the bytes read.
    fn write(&self, weights: &Weights, file: &mut TensorWriter<'_>, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<u64> {
        let rows = self.stored.rows();
        let piece = rows_of_a_piece(self.stored.cols());
        let (mut scales, mut written) = (Vec::new(), 0);
        for first in (0..rows).step_by(piece) {
            let count = piece.min(rows - first);
            let packed = match self.precision {
                Some(precision) => weights.read_rows(self.stored, first, count, precision)?,
                None => Packed { data: weights.read_bf16(self.stored, first, count)?, scales: Vec::new() },
            };
            file.write(&packed.data)?;
            written += packed.data.len() as u64;
            scales.extend(packed.scales);
            progress(self.stored.bytes_of(first, count))?;
        }
        file.write(&scales)?;
        Ok(written + scales.len() as u64)
    }
}

/// What a reader of blocks must know; nothing where there are none.
fn metadata(items: &[Item]) -> Vec<(&'static str, String)> {
    if items.iter().all(|item| item.scales.is_none()) {
        return vec![("format", "pt".into())];
    }
    const Q4: &str =
        "U8, w = scale * (n - 8); byte 4g+b of a block holds n of weight 8g+b in its low half and of weight 8g+b+4 in its high half";
    vec![
        (FORMAT_KEY, FORMAT.into()),
        ("refrain.blocks", format!("{BLOCK} weights along the input share a scale; the last block of a row is filled up with zeros")),
        ("refrain.scales", format!("NAME{SCALES}: F16, (rows, blocks of a row)")),
        ("refrain.q8", "I8, w = scale * q".into()),
        ("refrain.q4", Q4.into()),
    ]
}
