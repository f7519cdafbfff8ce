//! From the files to the device: rows are read piece by piece, put into the precision asked for, laid side by side where the kernels want
//! them so, and uploaded. No more than a piece is in memory.

use std::collections::BTreeMap;
use std::ops::Range;

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
        let (numbers, cols): (usize, _) = (shape.iter().product(), shape.last().copied().unwrap_or(1));
        // Nothing is uploaded where the model is only counted, and what is counted may be larger than the memory.
        let data = if matches!(self.filling, Filling::Nothing(_)) { Vec::new() } else { self.read(name, shape)? };
        self.upload(name, (numbers / cols, cols), || data)
    }

    /// `(rows, cols)` numbers that are computed here.
    pub fn upload(&mut self, what: &str, (rows, cols): (usize, usize), data: impl FnOnce() -> Vec<f32>) -> Result<Tensor> {
        let tensor = self.backend.tensor(what, Dtype::F32, rows, cols)?;
        if !matches!(self.filling, Filling::Nothing(_)) {
            self.backend.write_rows(&tensor, 0, cols, &data())?;
        }
        Ok(tensor)
    }

    /// `(rows, cols)` numbers, row by row: some that are known, small tensors by name and shape, then some that are computed.
    pub fn table(
        &mut self,
        what: &str,
        shape: (usize, usize),
        mut data: Vec<f32>,
        of: &[(&str, &[usize])],
        last: impl FnOnce() -> Vec<f32>,
    ) -> Result<Tensor> {
        // Plans count many models one after the other.
        if !matches!(self.filling, Filling::Nothing(_)) {
            for (name, shape) in of {
                data.extend(self.read(name, shape)?);
            }
        }
        self.upload(what, shape, || {
            data.extend(last());
            data
        })
    }

    /// An empty matrix on the device, to be filled by [`fill`](Self::fill) with pieces of the tensors `of`, each with its shape. It is in the
    /// precision asked for, or else in the largest that the files have one of them in; in f32 where pieces cut through blocks of weights.
    /// Parts are cut at multiples of `unit` rows.
    pub fn matrix(&mut self, of: &[(String, [usize; 2])], (rows, cols): (usize, usize), unit: usize, cut: bool) -> Result<Matrix> {
        let precision = match (self.dtype, self.filling.weights()) {
            (Some(precision), _) => precision,
            (None, Some(weights)) => {
                let stored = of.iter().map(|(name, shape)| Ok(weights.stored(name, shape, true)?.precision()));
                stored.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(Precision::F32)
            }
            (None, None) => Precision::F32,
        };
        let precision = if cut && precision.is_quantized() { Precision::F32 } else { precision };
        let what = of.first().map_or("", |(name, _)| name);
        let matrix = self.backend.matrix(what, precision, rows, cols, unit)?;
        *self.matrices.entry(precision).or_default() += matrix.bytes(rows) as u64;
        if matches!(self.filling, Filling::Noise) {
            noise(self.backend, &matrix)?;
        }
        Ok(matrix)
    }

    /// Fills a matrix with the tensor `name` of this shape, piece by piece. It is read once, and every row of it belongs to a piece.
    pub fn fill(&mut self, matrix: &Matrix, name: &str, shape: [usize; 2], pieces: &[Piece]) -> Result<()> {
        let Filling::Files(weights) = self.filling else { return Ok(()) };
        let stored = weights.stored(name, &shape, true)?;
        let at_once = rows_of_a_piece(shape[1]);
        for from in (0..shape[0]).step_by(at_once) {
            let read = from..(from + at_once).min(shape[0]);
            // What is asked for decides about the numbers, even where they lie in f32.
            let precision = self.dtype.unwrap_or(matrix.precision);
            let mut packed = weights.read_rows(stored, from, read.len(), precision)?;
            if precision != matrix.precision {
                packed = matrix.precision.pack(shape[1], &precision.unpack(shape[1], &packed));
            }
            for Piece { first, rows, cols } in pieces {
                let rows_here = rows.start.max(from)..rows.end.min(read.end);
                if rows_here.is_empty() {
                    continue;
                }
                let (data, scales) = device_rows(matrix, &packed, rows_here.start - from..rows_here.end - from, shape[1], cols);
                self.backend.write_matrix(matrix, first + rows_here.start - rows.start, &data, &scales)?;
            }
            self.advance(stored.bytes_of(from, read.len()));
        }
        Ok(())
    }

    /// Several matrices of `cols` columns, one above the other.
    pub fn stacked(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Matrix> {
        self.stacked_heads(parts, cols, 1)
    }

    /// As [`stacked`](Self::stacked); `unit` rows stay together.
    pub fn stacked_heads(&mut self, parts: &[(String, usize)], cols: usize, unit: usize) -> Result<Matrix> {
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let of: Vec<_> = parts.iter().map(|(name, rows)| (name.clone(), [*rows, cols])).collect();
        let matrix = self.matrix(&of, (rows, cols), unit, false)?;
        let mut at = 0;
        for (name, rows) in parts {
            self.fill(&matrix, name, [*rows, cols], &[Piece { first: at, rows: 0..*rows, cols: 0..cols }])?;
            at += rows;
        }
        Ok(matrix)
    }
}

/// A rectangle of a tensor, and the row of the matrix that it goes to. Its columns start where a block of weights starts.
pub(crate) struct Piece {
    pub first: usize,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
}

/// Some columns of some rows of `all` numbers as the device wants them, each row padded with zeros.
fn device_rows(matrix: &Matrix, packed: &Packed, rows: Range<usize>, all: usize, cols: &Range<usize>) -> (Vec<f32>, Vec<f32>) {
    let precision = matrix.precision;
    let part = |bytes: &[u8], words: usize, bytes_of: &dyn Fn(usize) -> usize| {
        let (mut part, of) = (vec![0.0f32; rows.len() * words], bytes_of(cols.start)..bytes_of(cols.end));
        let from = bytes.chunks_exact(bytes_of(all).max(1)).skip(rows.start);
        for (to, from) in part.chunks_exact_mut(words.max(1)).zip(from) {
            bytemuck::cast_slice_mut::<f32, u8>(to)[..of.len()].copy_from_slice(&from[of.clone()]);
        }
        part
    };
    let data = part(&packed.data, precision.words(matrix.cols), &|cols| precision.row_bytes(cols));
    (data, part(&packed.scales, precision.scale_words(matrix.cols), &|cols| 2 * precision.blocks(cols)))
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
