//! Handles to memory on a device. A handle is plain data (an id and a shape); the backend that made it owns the memory.
//!
//! Memory is counted in 32-bit words. A [`Tensor`] is one buffer of rows; rows start at multiples of 4 words, so that kernels can
//! read them as `vec4`, and the words between `cols` and `stride` are 0 for ever. A [`Segmented`] is a matrix cut by rows into
//! tensors, because a device limits how much one binding may hold.

/// What a word of a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// Unsigned 32-bit integer: ids, positions, tables.
    U32,
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

/// The row stride for `cols` words: the next multiple of 4.
pub fn stride(cols: usize) -> usize {
    cols.next_multiple_of(4)
}
