//! From a PyTorch checkpoint to a model folder: `config.json`, `model.safetensors` and what the caller adds.

use super::header::Dtype;
use super::weights::singles;
use super::writer::{Entry, FolderWriter, TensorWriter};
use super::{Checkpoint, TensorInfo, shorten};
use crate::error::{Error, Result};
use crate::model::config::{Config, Parameters};
use std::path::Path;

/// What [`convert`] wrote.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The sizes of the model.
    pub parameters: Parameters,
    /// Tensors in `model.safetensors`.
    pub tensors: usize,
    /// Bytes of their numbers.
    pub bytes: u64,
    /// What the numbers are stored as, each dtype once.
    pub dtypes: Vec<String>,
    /// What was left out of the checkpoint and why, a line each.
    pub notes: Vec<String>,
}

/// Makes the model folder `out`, which must not exist or be empty, of `checkpoint`. `config` is what messages call a `config.json`,
/// and its text ([`Checkpoint::config_json`] where the checkpoint has one); `extras` are names and contents of more files of the folder.
///
/// `model.safetensors` gets the tensors of [`Config::tensors`] in that order and in the checkpoint's own dtypes, but F64 as F32.
/// RoPE tables and the tied head are left out. `progress` is told the bytes done and those of all tensors, after every piece;
/// an error that it gives ends the conversion. Nothing is left behind unless all went well.
///
/// # Errors
/// [`Error::Config`] and [`Error::Format`] for a `config.json` that is wrong; [`Error::Tensor`] for the first tensor that is missing,
/// unknown, of the wrong shape or not finite; [`Error::Argument`] where `out` exists; [`Error::File`] where a file cannot be read or
/// written; what `progress` gives.
pub fn convert(
    checkpoint: &Checkpoint,
    (config_path, config): (&str, &[u8]),
    out: &Path,
    extras: &[(&str, &[u8])],
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Converted> {
    let model = Config::parse(config_path, config)?;
    let specs = model.tensors();
    let weights = checkpoint.weights();
    // First, since it is quick where comparing the tied head with the embeddings is not.
    let mut folder = FolderWriter::create(out)?;
    let mut notes = checkpoint.notes().to_vec();
    notes.extend(weights.check(&specs)?);
    let mut infos = Vec::with_capacity(specs.len());
    for spec in &specs {
        match weights.tensors().find(|info| info.name == spec.name) {
            Some(_) if spec.optional => notes.push(format!("left out {}: it is tied to embed.weight", spec.name)),
            Some(info) => infos.push(info),
            None => {}
        }
    }
    let dtypes: Vec<String> = infos.iter().map(|info| written_dtype(info).to_string()).collect();
    let entries: Vec<Entry<'_>> =
        infos.iter().zip(&dtypes).map(|(info, dtype)| Entry { name: &info.name, dtype, shape: &info.shape }).collect();
    folder.write_small("config.json", config)?;
    for (name, bytes) in extras {
        folder.write_small(name, bytes)?;
    }
    let (mut done, total) = (0, infos.iter().map(|info| info.bytes).sum());
    progress(done, total)?;
    let mut file = folder.tensors("model.safetensors", &[("format", "pt".into())], &entries)?;
    let mut bytes = 0;
    for info in &infos {
        bytes += copy(checkpoint, info, &mut file, &mut |count| {
            done += count;
            progress(done, total)
        })?;
    }
    file.finish()?;
    folder.finish()?;
    let tensors = dtypes.len();
    let mut dtypes = dtypes;
    dtypes.sort();
    dtypes.dedup();
    Ok(Converted { parameters: model.parameters(), tensors, bytes, dtypes, notes })
}

/// The checkpoint's own dtype, but F32 for F64, which no reader of models takes.
fn written_dtype(info: &TensorInfo) -> &Dtype {
    match &info.dtype {
        Dtype::Other(_) => &Dtype::F32,
        dtype => dtype,
    }
}

/// Copies one tensor piece by piece; how many bytes were written. `progress` is told the bytes that each piece had.
fn copy(
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    file: &mut TensorWriter<'_>,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<u64> {
    let (mut first, mut written) = (0, 0);
    for piece in checkpoint.weights().pieces(info) {
        let piece = piece?;
        let read = piece.len() as u64;
        let piece = match info.dtype {
            Dtype::Other(_) => singles(&piece).flat_map(f32::to_le_bytes).collect(),
            _ => piece,
        };
        if let Some((at, number)) = not_finite(written_dtype(info), &piece) {
            let elements: usize = info.shape.iter().product();
            return Err(Error::Tensor {
                path: checkpoint.path.clone(),
                tensor: shorten(&info.name),
                expected: "finite numbers".into(),
                found: format!("{number} at index {} of {elements}", first + at),
            });
        }
        file.write(&piece)?;
        first += piece.len() / if *written_dtype(info) == Dtype::F32 { 4 } else { 2 };
        written += piece.len() as u64;
        progress(read)?;
    }
    Ok(written)
}

/// The first number that is NaN or infinite, and where.
fn not_finite(dtype: &Dtype, bytes: &[u8]) -> Option<(usize, f32)> {
    fn find(numbers: impl Iterator<Item = f32>) -> Option<(usize, f32)> {
        numbers.enumerate().find(|(_, number)| !number.is_finite())
    }
    let pairs = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        Dtype::F16 => find(pairs.map(|b| half::f16::from_le_bytes(b).to_f32())),
        Dtype::Bf16 => find(pairs.map(|b| half::bf16::from_le_bytes(b).to_f32())),
        _ => find(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
    }
}
