//! Handles to memory on a device. A handle is plain data (an id and a shape); the backend that made it owns the memory.
//!
//! Memory is counted in 32-bit words. A [`Tensor`] is one buffer of rows; rows start at multiples of 4 words, so that kernels can
//! read them as `vec4`, and the words between `cols` and `stride` are 0 for ever. A [`Segmented`] is an array cut by rows into
//! tensors, because a device limits how much one binding may hold; a [`Matrix`] is weights so cut, stored in some precision.

use crate::precision::Precision;

/// What a word of a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// Unsigned 32-bit integer: ids, positions, tables.
    U32,
    /// Part of a row of weights, stored in a precision.
    Weights(Precision),
}

impl Dtype {
    /// Whether a tensor of this dtype can be an argument that is declared as `declared`: weights in one precision as well as another.
    pub(crate) fn serves_as(self, declared: Dtype) -> bool {
        self == declared || matches!((self, declared), (Dtype::Weights(_), Dtype::Weights(_)))
    }
}

/// The buffer behind a tensor, as its backend numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub(crate) u32);

/// A `(rows, cols)` array in one buffer, row-major, each row padded with zeros to `stride` words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensor {
    pub(crate) buffer: BufferId,
    /// Rows.
    pub rows: usize,
    /// Used words of a row.
    pub cols: usize,
    /// Words from one row to the next: `cols` rounded up to a multiple of 4.
    pub stride: usize,
    /// What each word is.
    pub dtype: Dtype,
}

impl Tensor {
    /// Words of the whole buffer, padding included.
    pub fn words(&self) -> usize {
        self.rows * self.stride
    }
}

/// A `(rows, cols)` matrix cut into parts of `part_rows` rows each (the last may have fewer).
#[derive(Clone, Debug)]
pub struct Segmented {
    /// The parts in order of rows.
    pub parts: Vec<Tensor>,
    /// Rows of each part but the last.
    pub part_rows: usize,
    /// Rows of all parts.
    pub rows: usize,
    /// Used words of a row.
    pub cols: usize,
}

impl Segmented {
    /// Each part with the index of its first row.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        self.parts.iter().enumerate().map(|(i, part)| (i * self.part_rows, part))
    }
}

impl From<Tensor> for Segmented {
    /// An array of one part.
    fn from(tensor: Tensor) -> Self {
        Self { part_rows: tensor.rows, rows: tensor.rows, cols: tensor.cols, parts: vec![tensor] }
    }
}

/// A part of a [`Matrix`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// (rows, words of a row): the numbers, in the matrix' precision.
    pub data: Tensor,
    /// (1, rows · words of a row's scales): two f16 a word. The data again where the precision has no scales.
    pub scales: Tensor,
}

/// Weights: a `(rows, cols)` matrix in some precision, cut into parts of `part_rows` rows each (the last may have fewer).
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The parts in order of rows.
    pub parts: Vec<Part>,
    /// Rows of each part but the last.
    pub part_rows: usize,
    /// Rows of all parts.
    pub rows: usize,
    /// Numbers of a row.
    pub cols: usize,
    /// How they are stored.
    pub precision: Precision,
}

impl Matrix {
    /// Each part with the index of its first row.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &Part)> {
        self.parts.iter().enumerate().map(|(i, part)| (i * self.part_rows, part))
    }

    /// Numbers from one row to the next.
    pub fn stride(&self) -> usize {
        self.precision.stride(self.cols)
    }

    /// Bytes that a product with `rows` of the rows reads.
    pub fn bytes(&self, rows: usize) -> usize {
        4 * rows * (self.precision.words(self.cols) + self.precision.scale_words(self.cols))
    }
}

impl From<Tensor> for Matrix {
    /// A tensor of f32, to be read as if it were weights.
    fn from(tensor: Tensor) -> Self {
        let part =
            Part { data: Tensor { dtype: Dtype::Weights(Precision::F32), ..tensor }, scales: Tensor { dtype: Dtype::U32, ..tensor } };
        Self { part_rows: tensor.rows, rows: tensor.rows, cols: tensor.cols, parts: vec![part], precision: Precision::F32 }
    }
}

/// The row stride for `cols` words: the next multiple of 4.
pub fn stride(cols: usize) -> usize {
    cols.next_multiple_of(4)
}
