//! How the numbers of a weight matrix are stored: as f32, as f16, or in blocks of 32 small integers that share a scale.
//!
//! ```text
//! f32   w                                            32    bits a weight
//! f16   w rounded to the nearest f16                 16
//! q8    w = scale · q,  q in −127 … 127               8.5   32 bytes and one f16 scale a block
//! q4    w = scale · (n − 8),  n in 0 … 15             4.5   16 bytes and one f16 scale a block
//! ```
//!
//! Blocks run along the input, so a row of `cols` weights has ⌈cols / 32⌉ of them; the last is filled up with zeros. Bytes of a q8 block
//! are its numbers in order. Byte 4·g + b of a q4 block holds number 8·g + b in its low half and number 8·g + b + 4 in its high half, so that
//! a 32-bit word yields four neighbours with one mask. Scales lie apart, in an array of their own. The scale of a q4 block may be
//! negative: −8 takes the largest number, whatever its sign.
//!
//! [`Packed`] holds rows as files do, byte by byte; on a device each row starts anew at a multiple of 16 bytes ([`Precision::words`]).

use crate::error::{Error, Result};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// Numbers of a block.
pub const BLOCK: usize = 32;

/// How the numbers of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Precision {
    /// 4 bits and a scale.
    Q4,
    /// 8 bits and a scale.
    Q8,
    /// IEEE 754 binary16.
    F16,
    /// IEEE 754 binary32.
    F32,
}

/// Rows of a matrix as files hold them: every row's bytes, then every row's scales, without gaps. Little-endian.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packed {
    /// The numbers.
    pub data: Vec<u8>,
    /// An f16 a block; nothing for f32 and f16.
    pub scales: Vec<u8>,
}

impl Precision {
    /// All of them, the smallest first.
    pub const ALL: [Precision; 4] = [Self::Q4, Self::Q8, Self::F16, Self::F32];

    /// `f32`, `f16`, `q8` or `q4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// Whether numbers share scales.
    pub fn is_quantized(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4)
    }

    /// Blocks of a row, each with a scale; 0 for f32 and f16.
    pub fn blocks(self, cols: usize) -> usize {
        if self.is_quantized() { cols.div_ceil(BLOCK) } else { 0 }
    }

    /// Bytes of a row in a file, scales not included.
    pub fn row_bytes(self, cols: usize) -> usize {
        match self {
            Self::F32 => 4 * cols,
            Self::F16 => 2 * cols,
            Self::Q8 => BLOCK * self.blocks(cols),
            Self::Q4 => BLOCK / 2 * self.blocks(cols),
        }
    }

    /// Numbers from one row to the next on a device: rows start at multiples of 16 bytes, and at whole words of scales.
    pub fn stride(self, cols: usize) -> usize {
        cols.next_multiple_of(match self {
            Self::F32 => 4,
            Self::F16 => 8,
            Self::Q8 | Self::Q4 => 2 * BLOCK,
        })
    }

    /// 32-bit words of a row on a device, scales not included.
    pub fn words(self, cols: usize) -> usize {
        let stride = self.stride(cols);
        match self {
            Self::F32 => stride,
            Self::F16 => stride / 2,
            Self::Q8 => stride / 4,
            Self::Q4 => stride / 8,
        }
    }

    /// 32-bit words of a row's scales on a device, two scales a word.
    pub fn scale_words(self, cols: usize) -> usize {
        if self.is_quantized() { self.stride(cols) / (2 * BLOCK) } else { 0 }
    }

    /// The largest number that it holds beside numbers of any size.
    pub fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            Self::F16 => 65504.0,
            Self::Q8 => 127.0 * 65504.0,
            Self::Q4 => 8.0 * 65504.0,
        }
    }

    /// Stores rows of `cols` numbers. A number past [`largest`](Self::largest) becomes infinite: callers look for it first.
    pub fn pack(self, cols: usize, rows: &[f32]) -> Packed {
        if cols == 0 {
            return Packed::default();
        }
        let (row_bytes, blocks) = (self.row_bytes(cols), self.blocks(cols));
        let count = rows.len() / cols;
        let mut packed = Packed { data: vec![0; count * row_bytes], scales: vec![0; count * 2 * blocks] };
        let numbers = rows.chunks(cols);
        match self {
            Self::F32 => packed.data.copy_from_slice(bytemuck::cast_slice(rows)),
            Self::F16 => packed.data.chunks_exact_mut(2).zip(rows).for_each(|(b, x)| b.copy_from_slice(&f16::from_f32(*x).to_le_bytes())),
            Self::Q8 => each_row(numbers, &mut packed, (row_bytes, blocks), pack_q8),
            Self::Q4 => each_row(numbers, &mut packed, (row_bytes, blocks), pack_q4),
        }
        packed
    }

    /// The numbers of rows that were packed.
    pub fn unpack(self, cols: usize, packed: &Packed) -> Vec<f32> {
        let rows = packed.data.len() / self.row_bytes(cols).max(1);
        let mut numbers = vec![0.0; rows * cols];
        if cols == 0 {
            return numbers;
        }
        for (i, row) in numbers.chunks_exact_mut(cols).enumerate() {
            let data = &packed.data[i * self.row_bytes(cols)..][..self.row_bytes(cols)];
            let scales = &packed.scales[i * 2 * self.blocks(cols)..];
            self.unpack_row(data, |block| f16::from_le_bytes([scales[2 * block], scales[2 * block + 1]]).to_f32(), row);
        }
        numbers
    }

    /// The first numbers of one row, from its bytes and its scales.
    pub(crate) fn unpack_row(self, data: &[u8], scale: impl Fn(usize) -> f32, row: &mut [f32]) {
        match self {
            Self::F32 => row.iter_mut().zip(data.chunks_exact(4)).for_each(|(x, b)| *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F16 => match bytemuck::try_cast_slice::<u8, u16>(data) {
                // The crate converts slices with the processor's own instructions, where it has them.
                Ok(bits) if cfg!(target_endian = "little") => bits[..row.len()].reinterpret_cast::<f16>().convert_to_f32_slice(row),
                _ => row.iter_mut().zip(data.chunks_exact(2)).for_each(|(x, b)| *x = f16::from_le_bytes([b[0], b[1]]).to_f32()),
            },
            Self::Q8 => {
                for (i, (row, data)) in row.chunks_mut(BLOCK).zip(data.chunks_exact(BLOCK)).enumerate() {
                    let scale = scale(i);
                    row.iter_mut().zip(data).for_each(|(x, q)| *x = scale * f32::from(*q as i8));
                }
            }
            Self::Q4 => {
                for (i, (row, data)) in row.chunks_mut(BLOCK).zip(data.chunks_exact(BLOCK / 2)).enumerate() {
                    let (scale, mut block) = (scale(i), [0.0; BLOCK]);
                    for (eight, bytes) in block.chunks_exact_mut(8).zip(data.chunks_exact(4)) {
                        let (low, high) = eight.split_at_mut(4);
                        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
                            *low = scale * (f32::from(byte & 15) - 8.0);
                            *high = scale * (f32::from(byte >> 4) - 8.0);
                        }
                    }
                    row.copy_from_slice(&block[..row.len()]);
                }
            }
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Precision {
    type Err = Error;

    /// `f32`, `f16`, `q8` or `q4`.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|precision| precision.name().eq_ignore_ascii_case(text)).ok_or_else(|| Error::Argument {
            name: "dtype".into(),
            expected: "f32, f16, q8 or q4".into(),
            found: text.into(),
        })
    }
}

/// Stores the numbers of a block and gives its scale.
type PackBlock = fn(&[f32; BLOCK], &mut [u8]) -> f16;

/// Stores rows block by block, the rows shared out among threads: searching for good scales takes time.
fn each_row(rows: std::slice::Chunks<f32>, packed: &mut Packed, (row_bytes, blocks): (usize, usize), pack: PackBlock) {
    let row = |(row, (data, scales)): (&[f32], (&mut [u8], &mut [u8]))| {
        let blocks = row.chunks(BLOCK).zip(data.chunks_exact_mut(row_bytes / blocks)).zip(scales.chunks_exact_mut(2));
        for ((numbers, data), scale) in blocks {
            let mut block = [0.0; BLOCK];
            block[..numbers.len()].copy_from_slice(numbers);
            scale.copy_from_slice(&pack(&block, data).to_le_bytes());
        }
    };
    let places = packed.data.chunks_exact_mut(row_bytes).zip(packed.scales.chunks_exact_mut(2 * blocks));
    let rows = rows.zip(places);
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::iter::{ParallelBridge, ParallelIterator};
        rows.par_bridge().for_each(row);
    }
    #[cfg(target_arch = "wasm32")]
    rows.for_each(row);
}

/// 1 / x, or 0 where there is none: all numbers of a block become 0.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// To the nearest integer, half to even, for numbers well below 2²²: the sum has no room for a fraction. Vectors of any processor can do
/// that, where `round_ties_even` is a call.
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 1.5 * (1 << 23) as f32;
    (x + SHIFT) - SHIFT
}

/// scale = max |x| / 127, so that no number is cut off; q = round(x / scale), half to even.
fn pack_q8(block: &[f32; BLOCK], data: &mut [u8]) -> f16 {
    let largest = block.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let mut scale = f16::from_f32(largest / 127.0);
    // Below 2^-14 an f16 has few bits: rounded down, it may cut off what is largest. One step up does not.
    if 127.5 * scale.to_f32() < largest {
        scale = f16::from_bits(scale.to_bits() + 1);
    }
    // Rounded to the scale as stored, not as computed.
    let inverse = inverse(scale.to_f32());
    data.iter_mut().zip(block).for_each(|(q, x)| *q = round(x * inverse).clamp(-127.0, 127.0) as i8 as u8);
    scale
}

/// The scale with the least squared error among max |x| / 8 and a few around it, each improved by least squares.
fn pack_q4(block: &[f32; BLOCK], data: &mut [u8]) -> f16 {
    let mut numbers = [0.0; BLOCK];
    let largest = block.iter().copied().fold(0.0f32, |max, x| if x.abs() > max.abs() { x } else { max });
    let plain = f16::from_f32(-largest / 8.0);
    // Infinite where the scale is: the caller finds it so.
    let mut best = (quantize_q4(block, plain.to_f32(), &mut numbers).min(f32::INFINITY), plain);
    // 8 steps to the largest number leave nothing out; a few less or more trade its error for the others'.
    for steps in Q4_STEPS {
        let first = -largest / steps;
        quantize_q4(block, first, &mut numbers);
        // argmin over scale of Σ (x − scale · q)² for these q is Σ x q / Σ q².
        let (xq, qq) = block.iter().zip(&numbers).fold((0.0, 0.0), |(xq, qq), (x, q)| (xq + x * q, qq + q * q));
        let scale = f16::from_f32(if qq > 0.0 { xq / qq } else { first });
        let error = quantize_q4(block, scale.to_f32(), &mut numbers);
        if error < best.0 {
            best = (error, scale);
        }
    }
    let scale = best.1;
    quantize_q4(block, scale.to_f32(), &mut numbers);
    for (bytes, eight) in data.chunks_exact_mut(4).zip(numbers.chunks_exact(8)) {
        let (low, high) = eight.split_at(4);
        bytes.iter_mut().zip(low.iter().zip(high)).for_each(|(byte, (low, high))| *byte = (low + 8.0) as u8 | ((high + 8.0) as u8) << 4);
    }
    scale
}

const Q4_STEPS: [f32; 7] = [8.0, 7.7, 7.4, 7.0, 6.5, 8.3, 8.7];

/// q = round(x / scale) in −8 … 7; the squared error.
fn quantize_q4(block: &[f32; BLOCK], scale: f32, numbers: &mut [f32; BLOCK]) -> f32 {
    let inverse = inverse(scale);
    let mut error = 0.0;
    for (q, x) in numbers.iter_mut().zip(block) {
        *q = round(x * inverse).clamp(-8.0, 7.0);
        error += (x - scale * *q) * (x - scale * *q);
    }
    error
}
