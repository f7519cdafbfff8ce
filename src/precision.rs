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
        let (row_bytes, blocks) = (self.row_bytes(cols), self.blocks(cols));
        let rows = packed.data.len() / row_bytes.max(1);
        let mut numbers = vec![0.0; rows * cols];
        if cols == 0 {
            return numbers;
        }
        let scales: Vec<u16> = packed.scales.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        pulp::Arch::new().dispatch(|| {
            for (i, row) in numbers.chunks_exact_mut(cols).enumerate() {
                self.unpack_row(&packed.data[i * row_bytes..][..row_bytes], &scales[i * blocks..][..blocks], row);
            }
        });
        numbers
    }

    /// The first numbers of one row, from its bytes and its scales, the bits of f16.
    ///
    /// To be called below `pulp`'s dispatch, where the compiler may use all vectors of the processor. It does so for code that is inlined
    /// there: loops are written with `for`, since the insides of `for_each` and `map` are functions that may stay outside.
    #[inline(always)]
    pub(crate) fn unpack_row(self, data: &[u8], scales: &[u16], row: &mut [f32]) {
        match self {
            Self::F32 => {
                for (x, b) in row.iter_mut().zip(data.chunks_exact(4)) {
                    *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Self::F16 => {
                for (x, b) in row.iter_mut().zip(data.chunks_exact(2)) {
                    *x = from_half(u16::from_le_bytes([b[0], b[1]]));
                }
            }
            Self::Q8 => {
                for ((row, data), scales) in row.chunks_mut(CHUNK).zip(data.chunks(CHUNK)).zip(scales.chunks(CHUNK / BLOCK)) {
                    unpack_q8(data, scales, row);
                }
            }
            Self::Q4 => {
                for ((row, data), scales) in row.chunks_mut(CHUNK).zip(data.chunks(CHUNK / 2)).zip(scales.chunks(CHUNK / BLOCK)) {
                    let mut eights = [0; CHUNK / 8];
                    for (to, b) in eights.iter_mut().zip(data.chunks_exact(4)) {
                        *to = eight(u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                    }
                    unpack_q8(bytemuck::cast_slice(&eights), scales, row);
                }
            }
        }
    }
}

/// Numbers of a row that are unpacked at a time: their scales, and the bytes of 4-bit numbers, lie in small arrays meanwhile.
const CHUNK: usize = 32 * BLOCK;

/// f16 to f32. Bits and a subtraction are all that it takes, so that loops over it become vector instructions on any processor.
#[inline(always)]
fn from_half(bits: u16) -> f32 {
    // What an exponent of f16 lacks to one of f32, and one of infinity to that of f32.
    const BIAS: u32 = 112 << 23;
    const INFINITE: u32 = 224 << 23;
    const STEP: u32 = 1 << 23;
    let (sign, size) = ((u32::from(bits) & 0x8000) << 16, (u32::from(bits) & 0x7fff) << 13);
    // Below 2^-14 there is no leading 1: one is put there and subtracted.
    let small = size < STEP;
    let moved = size
        + BIAS
        + if small {
            STEP
        } else if size >= 31 * STEP {
            INFINITE - BIAS
        } else {
            0
        };
    let number = f32::from_bits(moved) - f32::from_bits(if small { BIAS + STEP } else { 0 });
    f32::from_bits(sign | number.to_bits())
}

/// The 8 numbers of a word of a q4 block, each as a byte of an i8, in order.
#[inline(always)]
fn eight(word: u32) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // The high halves of its bytes are the numbers 4 to 7.
    let n = (u64::from(word) | (u64::from(word) << 28)) & (15 * EACH);
    // n − 8 in each byte: with bit 7 set nothing is borrowed from the next.
    (((n | (128 * EACH)) - 8 * EACH) ^ (128 * EACH)).to_le()
}

/// Numbers of at most a chunk from i8 and the scales of their blocks.
#[inline(always)]
fn unpack_q8(data: &[u8], scales: &[u16], row: &mut [f32]) {
    let mut numbers = [0.0; CHUNK / BLOCK];
    for (x, bits) in numbers.iter_mut().zip(scales) {
        *x = from_half(*bits);
    }
    let (blocks, rest) = (row.len() / BLOCK, row.len() % BLOCK);
    for ((row, data), scale) in row.chunks_exact_mut(BLOCK).zip(data.chunks_exact(BLOCK)).zip(numbers) {
        unpack_block(data, scale, row);
    }
    if rest > 0 {
        let mut last = [0.0; BLOCK];
        unpack_block(&data[blocks * BLOCK..][..BLOCK], numbers[blocks], &mut last);
        row[blocks * BLOCK..].copy_from_slice(&last[..rest]);
    }
}

/// A whole block. All its bytes are read before a number is written: the compiler need not ask whether they overlap.
#[inline(always)]
fn unpack_block(data: &[u8], scale: f32, row: &mut [f32]) {
    let mut bytes = [0; BLOCK];
    bytes.copy_from_slice(data);
    for (x, q) in row.iter_mut().zip(bytes) {
        *x = scale * f32::from(q as i8);
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
