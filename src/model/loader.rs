//! From the files to the device: tensors are read one at a time, stacked where the kernels want them side by side, uploaded.

use crate::backend::Backend;
use crate::error::Result;
use crate::model::files::Weights;
use crate::tensor::{Dtype, Segmented, Tensor};

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of weights on the device.
    pub loaded: u64,
    /// Bytes of all weights.
    pub total: u64,
}

/// Reads tensors by name and puts them on a device.
pub(crate) struct Loader<'a> {
    pub backend: &'a mut Backend,
    pub weights: &'a Weights<'a>,
    pub progress: &'a mut dyn FnMut(Progress),
    pub state: Progress,
}

impl Loader<'_> {
    /// A tensor as it is in the file, f32.
    pub fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let data = self.weights.read(name, shape)?;
        self.state.loaded += data.len() as u64 * 4;
        (self.progress)(self.state);
        Ok(data)
    }

    /// A small matrix or vector in one piece, `(rows, cols)`.
    pub fn small(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let data = self.read(name, shape)?;
        let cols = shape.last().copied().unwrap_or(1);
        self.upload(name, cols, &data)
    }

    /// Rows of `cols` numbers that were computed here.
    pub fn upload(&mut self, what: &str, cols: usize, data: &[f32]) -> Result<Tensor> {
        let tensor = self.backend.tensor(what, Dtype::F32, data.len() / cols, cols)?;
        self.backend.write_rows(&tensor, 0, cols, data)?;
        Ok(tensor)
    }

    /// An empty matrix on the device, to be filled by [`put`](Self::put). Parts are cut at multiples of `unit` rows.
    pub fn matrix(&mut self, what: &str, rows: usize, cols: usize, unit: usize) -> Result<Segmented> {
        self.backend.segmented(what, rows, cols, unit)
    }

    /// Writes rows into a matrix from row `first` on.
    pub fn put(&mut self, matrix: &Segmented, first: usize, data: &[f32]) -> Result<()> {
        let rows = data.len() / matrix.cols;
        for (start, part) in matrix.parts() {
            let (from, to) = (first.max(start), (first + rows).min(start + part.rows));
            if from < to {
                let data = &data[(from - first) * matrix.cols..(to - first) * matrix.cols];
                self.backend.write_rows(part, from - start, matrix.cols, data)?;
            }
        }
        Ok(())
    }

    /// Several matrices of `cols` columns, one above the other.
    pub fn stacked(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Segmented> {
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let what = parts.first().map_or("", |(name, _)| name.as_str());
        let matrix = self.matrix(what, rows, cols, 1)?;
        let mut first = 0;
        for (name, rows) in parts {
            let data = self.read(name, &[*rows, cols])?;
            self.put(&matrix, first, &data)?;
            first += rows;
        }
        Ok(matrix)
    }
}
