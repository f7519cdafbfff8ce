//! From the files to the device: rows are read piece by piece, put into the precision asked for, laid side by side where the kernels want
//! them so, and uploaded. No more than a piece is in memory.

use std::collections::BTreeMap;

use crate::backend::Backend;
use crate::error::Result;
use crate::kernels::noise::{hash, noise};
use crate::model::config::Config;
use crate::model::files::{Weights, rows_of_a_piece};
use crate::precision::{Packed, Precision};
use crate::tensor::{Dtype, Matrix, Tensor};

/// How far a load has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the files that have been read.
    pub loaded: u64,
    /// Bytes of all that will be read.
    pub total: u64,
}

/// Where the numbers come from.
pub(crate) enum Filling<'a> {
    /// A model's files.
    Files(&'a Weights<'a>),
    /// Noise made on the device, in the size of trained weights: to time a model that nobody has trained.
    Noise,
    /// Nowhere: what a model takes is counted on an imagined device. The files tell the precision of each matrix.
    Nothing(Option<&'a Weights<'a>>),
}

impl<'a> Filling<'a> {
    /// The files, if there are any.
    pub fn weights(&self) -> Option<&'a Weights<'a>> {
        match self {
            Self::Files(weights) => Some(weights),
            Self::Noise => None,
            Self::Nothing(weights) => *weights,
        }
    }

    /// Bytes of the files that a load of a model of this config reads.
    pub fn bytes(&self, config: &Config) -> Result<u64> {
        let Self::Files(weights) = self else { return Ok(0) };
        let specs = config.tensors();
        let wanted = specs.iter().filter(|spec| !spec.optional);
        wanted.map(|spec| Ok(weights.stored(&spec.name, &spec.shape, spec.matrix)?.bytes())).sum()
    }
}

/// Reads tensors by name and puts them on a device.
pub(crate) struct Loader<'a> {
    pub backend: &'a mut Backend,
    pub filling: Filling<'a>,
    /// The precision of all matrices, where not each keeps its own.
    pub dtype: Option<Precision>,
    pub progress: &'a mut dyn FnMut(Progress),
    pub state: Progress,
    /// Bytes of matrices on the device by precision.
    pub matrices: BTreeMap<Precision, u64>,
}

impl Loader<'_> {
    /// The numbers of a small tensor.
    pub fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let numbers: usize = shape.iter().product();
        let weights = match self.filling {
            Filling::Files(weights) => weights,
            Filling::Noise => return Ok(invented(name, numbers)),
            Filling::Nothing(_) => return Ok(vec![0.0; numbers]),
        };
        let data = weights.read(name, shape)?;
        self.advance(weights.stored(name, shape, false)?.bytes());
        Ok(data)
    }

    fn advance(&mut self, bytes: u64) {
        self.state.loaded += bytes;
        (self.progress)(self.state);
    }

    /// A small matrix or vector in f32, `(rows, cols)`.
    pub fn small(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let data = self.read(name, shape)?;
        let cols = shape.last().copied().unwrap_or(1);
        self.upload(name, (data.len() / cols, cols), || data)
    }

    /// `(rows, cols)` numbers that are computed here.
    pub fn upload(&mut self, what: &str, (rows, cols): (usize, usize), data: impl FnOnce() -> Vec<f32>) -> Result<Tensor> {
        let tensor = self.backend.tensor(what, Dtype::F32, rows, cols)?;
        if !matches!(self.filling, Filling::Nothing(_)) {
            self.backend.write_rows(&tensor, 0, cols, &data())?;
        }
        Ok(tensor)
    }

    /// An empty matrix on the device, to be filled by [`fill`](Self::fill) with the tensors `of`, each (name, rows) and of `of_cols` columns. It
    /// is in the precision asked for, or else in the largest that the files have one of them in. Parts are cut at multiples of `unit` rows.
    pub fn matrix(&mut self, of: &[(String, usize)], of_cols: usize, (rows, cols): (usize, usize), unit: usize) -> Result<Matrix> {
        let precision = match (self.dtype, self.filling.weights()) {
            (Some(precision), _) => precision,
            (None, Some(weights)) => {
                let stored = of.iter().map(|(name, rows)| Ok(weights.stored(name, &[*rows, of_cols], true)?.precision()));
                stored.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(Precision::F32)
            }
            (None, None) => Precision::F32,
        };
        let what = of.first().map_or("", |(name, _)| name);
        let matrix = self.backend.matrix(what, precision, rows, cols, unit)?;
        *self.matrices.entry(precision).or_default() += matrix.bytes(rows) as u64;
        if matches!(self.filling, Filling::Noise) {
            noise(self.backend, &matrix)?;
        }
        Ok(matrix)
    }

    /// Fills rows from `first` on with tensors of `(rows, cols)` side by side. Each but a lone one takes an equal share of the columns.
    pub fn fill(&mut self, matrix: &Matrix, first: usize, beside: &[String], (rows, cols): (usize, usize)) -> Result<()> {
        let Filling::Files(weights) = self.filling else { return Ok(()) };
        let precision = matrix.precision;
        let stored = beside.iter().map(|name| weights.stored(name, &[rows, cols], true)).collect::<Result<Vec<_>>>()?;
        let piece = rows_of_a_piece(matrix.cols);
        for from in (0..rows).step_by(piece) {
            let count = piece.min(rows - from);
            let packed = stored.iter().map(|stored| weights.read_rows(*stored, from, count, precision)).collect::<Result<Vec<_>>>()?;
            let (data, scales) = device_rows(matrix, &packed, count, cols);
            self.backend.write_matrix(matrix, first + from, &data, &scales)?;
            stored.iter().for_each(|stored| self.advance(stored.bytes_of(from, count)));
        }
        Ok(())
    }

    /// Several matrices of `cols` columns, one above the other.
    pub fn stacked(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Matrix> {
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let matrix = self.matrix(parts, cols, (rows, cols), 1)?;
        let mut at = 0;
        for (name, rows) in parts {
            self.fill(&matrix, at, std::slice::from_ref(name), (*rows, cols))?;
            at += rows;
        }
        Ok(matrix)
    }
}

/// `count` rows as the device wants them: what lies side by side, each padded with zeros to its share of the row.
fn device_rows(matrix: &Matrix, beside: &[Packed], count: usize, cols: usize) -> (Vec<f32>, Vec<f32>) {
    let precision = matrix.precision;
    let share = if beside.len() == 1 { matrix.stride() } else { matrix.cols / beside.len() };
    // Rows of `own` bytes each, in shares of `padded` words of a row of `all` words.
    let rows_of = |bytes: &dyn Fn(&Packed) -> &[u8], own: usize, padded: usize, all: usize| {
        let mut rows = vec![0.0f32; count * all];
        for (i, packed) in beside.iter().enumerate() {
            for (to, from) in rows.chunks_exact_mut(all.max(1)).zip(bytes(packed).chunks_exact(own.max(1))) {
                bytemuck::cast_slice_mut::<f32, u8>(&mut to[i * padded..])[..own].copy_from_slice(from);
            }
        }
        rows
    };
    let data = rows_of(&|packed| &packed.data, precision.row_bytes(cols), precision.words(share), precision.words(matrix.cols));
    let scale_words = (precision.scale_words(share), precision.scale_words(matrix.cols));
    (data, rows_of(&|packed| &packed.scales, 2 * precision.blocks(cols), scale_words.0, scale_words.1))
}

/// Numbers of a small tensor of a model that nobody has trained: norms leave their input as it is, the rest is small.
fn invented(name: &str, numbers: usize) -> Vec<f32> {
    match name.rsplit('.').nth(1).unwrap_or_default() {
        norm if norm.ends_with("norm") => vec![1.0; numbers],
        // Spread evenly in ±0.03, so that tokens choose different experts. Of 24 bits: exact in f32.
        "router" | "lora" | "down" | "scale" | "halt" => {
            let seed = name.bytes().fold(0, |seed, byte| hash(seed ^ u32::from(byte)));
            (0..numbers as u32).map(|i| (hash(i.wrapping_add(seed)) >> 8) as f32 / (1 << 24) as f32 * 0.06 - 0.03).collect()
        }
        _ => vec![0.0; numbers],
    }
}
