//! Rows of a weight matrix as files store them, read piece by piece; and whole tensors as f32.
//!
//! A matrix `NAME` (rows, cols) is stored plainly, as F32, F16 or BF16, or in blocks (see [`precision`](crate::precision)): `NAME` of U8
//! (q4) or I8 (q8) and shape (rows, bytes of a row), with `NAME.scales` of F16 and shape (rows, blocks of a row). Files with blocks say in
//! their metadata `refrain.format: 1`.

use super::header::{Dtype, TensorInfo};
use super::weights::{Weights, show_shape, singles};
use crate::error::{Error, Result};
use crate::precision::{Packed, Precision};
use half::{bf16, f16};

/// What is added to the name of a matrix for its scales.
pub(super) const SCALES: &str = ".scales";

/// The key of the metadata that holds [`FORMAT`].
pub const FORMAT_KEY: &str = "refrain.format";

/// The version of the block format that is read and written.
pub const FORMAT: &str = "1";

/// How a tensor lies in its file.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'w> {
    info: &'w TensorInfo,
    pub(super) encoding: Encoding<'w>,
    rows: usize,
    cols: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Encoding<'w> {
    F32,
    F16,
    Bf16,
    /// Only checkpoints have it.
    F64,
    Blocks(Precision, &'w TensorInfo),
}

impl Stored<'_> {
    /// The precision that loses nothing, or next to nothing: bf16 is f16 below 65,504, but for less than 3e-8.
    pub fn precision(&self) -> Precision {
        match self.encoding {
            Encoding::F32 | Encoding::F64 => Precision::F32,
            Encoding::F16 | Encoding::Bf16 => Precision::F16,
            Encoding::Blocks(precision, _) => precision,
        }
    }

    /// Rows: all sizes but the last, multiplied.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Of these, the bytes of rows `first..first + count`, to the byte in the sum over all rows.
    pub fn bytes_of(&self, first: usize, count: usize) -> u64 {
        let until = |row: usize| (u128::from(self.bytes()) * row as u128 / self.rows.max(1) as u128) as u64;
        until(first + count) - until(first)
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.info.bytes + if let Encoding::Blocks(_, scales) = self.encoding { scales.bytes } else { 0 }
    }
}

impl Weights<'_> {
    /// How a tensor of this shape is stored; blocks only where it is a `matrix`.
    ///
    /// # Errors
    /// [`Error::Tensor`] where there is no such tensor, or its shape or dtype is another; [`Error::Format`] where the file has blocks of a
    /// version that is not known.
    pub fn stored(&self, name: &str, shape: &[usize], matrix: bool) -> Result<Stored<'_>> {
        let cols = shape.last().copied().unwrap_or(1);
        let rows = shape[..shape.len().saturating_sub(1)].iter().product();
        if let Some((info, precision)) = self.find(name).and_then(|info| Some((info, block_precision(info)?))) {
            return match matrix {
                true => self.blocks(info, precision, rows, cols),
                false => {
                    Err(self.error(name, "F32, F16 or BF16, as of every tensor but the large matrices".into(), info.dtype.to_string()))
                }
            };
        }
        let info = self.expect(name, shape)?;
        let encoding = match info.dtype {
            Dtype::F16 => Encoding::F16,
            Dtype::Bf16 => Encoding::Bf16,
            Dtype::F32 => Encoding::F32,
            Dtype::Other(_) => Encoding::F64,
        };
        Ok(Stored { info, encoding, rows, cols })
    }

    fn blocks<'w>(&'w self, info: &'w TensorInfo, precision: Precision, rows: usize, cols: usize) -> Result<Stored<'w>> {
        let file = &self.files[info.file];
        let expected = || format!("weights in blocks with {FORMAT_KEY}: {FORMAT} in the metadata");
        match file.metadata.get(FORMAT_KEY).map(String::as_str) {
            Some(FORMAT) => {}
            Some(other) => {
                let found = format!("{FORMAT_KEY}: {other}, of another version of this program");
                return Err(Error::Format { path: file.path.clone(), expected: expected(), found });
            }
            None => return Err(self.error(&info.name, format!("F32, F16 or BF16, or {}", expected()), info.dtype.to_string())),
        }
        let shape = [rows, precision.row_bytes(cols)];
        if info.shape != shape {
            return Err(self.error(&info.name, format!("{precision} {}", show_shape(&shape)), show_shape(&info.shape)));
        }
        let name = format!("{}{SCALES}", info.name);
        let scales = self.expect(&name, &[rows, precision.blocks(cols)])?;
        if scales.dtype != Dtype::F16 {
            return Err(self.error(&name, "F16".into(), scales.dtype.to_string()));
        }
        Ok(Stored { info, encoding: Encoding::Blocks(precision, scales), rows, cols })
    }

    /// Rows `first..first + count` in a precision: as they lie in the file where that is the same, else through f32.
    ///
    /// # Errors
    /// [`Error::Tensor`] for NaN, infinity, or a number that the precision cannot hold; [`Error::File`] where the file cannot be read.
    pub fn read_rows(&self, stored: Stored<'_>, first: usize, count: usize, precision: Precision) -> Result<Packed> {
        let as_stored = match stored.encoding {
            Encoding::F32 => precision == Precision::F32,
            Encoding::F16 => precision == Precision::F16,
            Encoding::Bf16 | Encoding::F64 => false,
            Encoding::Blocks(own, _) => own == precision,
        };
        let (info, cols) = (stored.info, stored.cols);
        if as_stored {
            let packed = Packed {
                data: self.bytes(info, first, count, precision.row_bytes(cols))?,
                scales: match stored.encoding {
                    Encoding::Blocks(_, scales) => self.bytes(scales, first, count, 2 * precision.blocks(cols))?,
                    _ => Vec::new(),
                },
            };
            self.check_finite(info, first * cols, precision, &packed)?;
            return Ok(packed);
        }
        let numbers = self.numbers(stored, first, count)?;
        let largest = precision.largest();
        if let Some(i) = numbers.iter().position(|x| x.abs() > largest) {
            let found = format!("{} at index {}", numbers[i], first * cols + i);
            return Err(self.error(&info.name, format!("numbers of at most {largest} for {precision}"), found));
        }
        Ok(precision.pack(cols, &numbers))
    }

    /// Rows of a bf16 tensor, as they lie in the file; all numbers are finite.
    pub(super) fn read_bf16(&self, stored: Stored<'_>, first: usize, count: usize) -> Result<Vec<u8>> {
        let bytes = self.bytes(stored.info, first, count, 2 * stored.cols)?;
        let found = bf16s(&bytes).enumerate().find(|(_, x)| !x.is_finite());
        match found {
            None => Ok(bytes),
            Some((i, x)) => Err(self.not_finite(stored.info, x, first * stored.cols + i)),
        }
    }

    /// The numbers of one tensor, widened to f32.
    ///
    /// # Errors
    /// [`Error::Tensor`] where there is no such tensor, its shape is another, its dtype cannot be read, or it holds NaN or infinity;
    /// [`Error::File`] where it cannot be read; [`Error::TooSmall`] where the memory is.
    pub fn read(&self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>> {
        let stored = self.stored(name, expected_shape, true)?;
        let (rows, cols) = (stored.rows, stored.cols);
        let mut numbers: Vec<f32> = Vec::new();
        if numbers.try_reserve_exact(rows.saturating_mul(cols)).is_err() {
            let needed = format!("{} bytes", 4 * rows as u128 * cols as u128);
            return Err(Error::TooSmall { what: format!("tensor {name}"), needed, available: "less memory".into() });
        }
        // Of no numbers there may be any number of rows.
        let rows = if cols == 0 { 0 } else { rows };
        let piece = rows_of_a_piece(cols);
        for first in (0..rows).step_by(piece) {
            numbers.extend(self.numbers(stored, first, piece.min(rows - first))?);
        }
        Ok(numbers)
    }

    /// Rows as f32, all finite.
    fn numbers(&self, stored: Stored<'_>, first: usize, count: usize) -> Result<Vec<f32>> {
        let (info, cols) = (stored.info, stored.cols);
        let numbers = match stored.encoding {
            Encoding::Blocks(precision, _) => precision.unpack(cols, &self.read_rows(stored, first, count, precision)?),
            Encoding::F32 => Precision::F32.unpack(cols, &self.plain(info, first, count, 4 * cols)?),
            Encoding::F64 => singles(&self.bytes(info, first, count, 8 * cols)?).collect(),
            Encoding::F16 => Precision::F16.unpack(cols, &self.plain(info, first, count, 2 * cols)?),
            Encoding::Bf16 => bf16s(&self.bytes(info, first, count, 2 * cols)?).collect(),
        };
        match numbers.iter().position(|x| !x.is_finite()) {
            None => Ok(numbers),
            Some(i) => Err(self.not_finite(info, numbers[i], first * cols + i)),
        }
    }

    fn plain(&self, info: &TensorInfo, first: usize, count: usize, row_bytes: usize) -> Result<Packed> {
        Ok(Packed { data: self.bytes(info, first, count, row_bytes)?, scales: Vec::new() })
    }

    fn bytes(&self, info: &TensorInfo, first: usize, count: usize, row_bytes: usize) -> Result<Vec<u8>> {
        let offset = info.offset + first as u64 * row_bytes as u64;
        Ok(self.files[info.file].read(offset, count * row_bytes)?.into_owned())
    }

    /// An error where packed numbers, the first of them at index `first` of the tensor, are not all finite.
    fn check_finite(&self, info: &TensorInfo, first: usize, precision: Precision, packed: &Packed) -> Result<()> {
        let found = match precision {
            Precision::F32 => {
                let mut numbers = packed.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                numbers.clone().position(|x| !x.is_finite()).and_then(|i| Some((i, numbers.nth(i)?)))
            }
            Precision::F16 => {
                let mut numbers = packed.data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
                numbers.clone().position(|x| !x.is_finite()).and_then(|i| Some((i, numbers.nth(i)?)))
            }
            Precision::Q8 | Precision::Q4 => {
                let mut scales = packed.scales.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]));
                if let Some(scale) = scales.find(|scale| !scale.is_finite()) {
                    let found = format!("{scale} as the scale of a block");
                    return Err(self.error(&info.name, "finite numbers".into(), found));
                }
                None
            }
        };
        found.map_or(Ok(()), |(i, x)| Err(self.not_finite(info, x, first + i)))
    }

    fn not_finite(&self, info: &TensorInfo, number: f32, index: usize) -> Error {
        let elements: usize = info.shape.iter().product();
        self.error(&info.name, "finite numbers".into(), format!("{number} at index {index} of {elements}"))
    }
}

fn bf16s(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
}

/// The precision of a matrix in blocks, by its dtype in the file.
pub(super) fn block_precision(info: &TensorInfo) -> Option<Precision> {
    match info.dtype.to_string().as_str() {
        "U8" => Some(Precision::Q4),
        "I8" => Some(Precision::Q8),
        _ => None,
    }
}

/// Rows of `cols` numbers that are read at a time: 1 MiB of f32, at least one row.
pub(crate) fn rows_of_a_piece(cols: usize) -> usize {
    ((1 << 18) / cols.max(1)).max(1)
}
