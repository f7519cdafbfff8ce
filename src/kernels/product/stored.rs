//! Sums of few rows of x with stored weights, decoded in registers: nothing is unpacked to memory.
//!
//! A few rows of weights are taken at a time, so that their sums do not wait for each other. Plain loops over arrays of one vector's length
//! become vector instructions below `pulp`'s dispatch; sums are f32, and a block's scale is applied once to its 32 products.

use std::borrow::Cow;

use super::Weights;
use crate::precision::{BLOCK, Precision, from_half};

/// Rows of x up to which this is faster than unpacking a row of weights for all of them.
pub(super) const FEW: usize = 3;

/// Sums that a row of weights is spread over: a vector of the widest processors.
const LANES: usize = 16;

/// A row of whole blocks of x as products with weights in this precision want it: for q4 in the order of its half bytes, of every block the
/// numbers of low halves, then those of high ones.
pub(super) fn ready(precision: Precision, x: &[f32]) -> Cow<'_, [f32]> {
    if precision != Precision::Q4 {
        return x.into();
    }
    let halves = |block: &'_ [f32], half: usize| block.chunks_exact(8).flat_map(|eight| eight[half..][..4].to_vec()).collect::<Vec<f32>>();
    x.chunks_exact(BLOCK).flat_map(|block| [halves(block, 0), halves(block, 4)].concat()).collect()
}

/// x · (row `first + i` of w), for every i below `O`; x is [`ready`].
#[inline(always)]
pub(super) fn dots<const O: usize>(w: Weights, first: usize, x: &[f32]) -> [f32; O] {
    let words = w.precision.words(w.stride);
    let bytes: &[u8] = bytemuck::cast_slice(w.data);
    let (mut data, mut scales): ([&[u8]; O], [&[u16]; O]) = ([&[]; O], [&[]; O]);
    for i in 0..O {
        let row = w.first + first + i;
        data[i] = &bytes[4 * words * row..][..4 * words];
        if w.precision.is_quantized() {
            scales[i] = &bytemuck::cast_slice(w.scales)[w.stride / BLOCK * row..][..x.len() / BLOCK];
        }
    }
    match w.precision {
        Precision::Q4 => q4(data, scales, x),
        Precision::Q8 => q8(data, scales, x),
        Precision::F16 => halves(data, x),
        Precision::F32 => plain(data, x),
    }
}

/// The blocks of rows.
#[inline(always)]
fn blocks<const O: usize, T: bytemuck::AnyBitPattern>(rows: [&[u8]; O], count: usize) -> [&[T]; O] {
    let mut blocks: [&[T]; O] = [&[]; O];
    for i in 0..O {
        blocks[i] = &bytemuck::cast_slice(rows[i])[..count];
    }
    blocks
}

#[inline(always)]
fn total<const O: usize>(sums: [[f32; LANES]; O]) -> [f32; O] {
    let mut totals = [0.0; O];
    for o in 0..O {
        for i in 0..LANES {
            totals[o] += sums[o][i];
        }
    }
    totals
}

#[inline(always)]
fn q8<const O: usize>(rows: [&[u8]; O], scales: [&[u16]; O], x: &[f32]) -> [f32; O] {
    let x: &[[f32; BLOCK]] = bytemuck::cast_slice(x);
    let rows: [&[[u8; BLOCK]]; O] = blocks(rows, x.len());
    let mut sums = [[0.0; LANES]; O];
    for (b, x) in x.iter().enumerate() {
        for o in 0..O {
            let (q, scale, mut products) = (&rows[o][b], from_half(scales[o][b]), [0.0; LANES]);
            for i in 0..LANES {
                products[i] = f32::from(q[i] as i8) * x[i];
            }
            for i in 0..LANES {
                products[i] += f32::from(q[LANES + i] as i8) * x[LANES + i];
            }
            for i in 0..LANES {
                sums[o][i] += scale * products[i];
            }
        }
    }
    total(sums)
}

#[inline(always)]
fn q4<const O: usize>(rows: [&[u8]; O], scales: [&[u16]; O], x: &[f32]) -> [f32; O] {
    let x: &[[f32; BLOCK]] = bytemuck::cast_slice(x);
    let rows: [&[[u8; BLOCK / 2]]; O] = blocks(rows, x.len());
    let mut sums = [[0.0; LANES]; O];
    for (b, x) in x.iter().enumerate() {
        for o in 0..O {
            let (n, scale, mut products) = (&rows[o][b], from_half(scales[o][b]), [0.0; LANES]);
            for i in 0..LANES {
                products[i] = f32::from((n[i] & 15) as i8 - 8) * x[i];
            }
            for i in 0..LANES {
                products[i] += f32::from((n[i] >> 4) as i8 - 8) * x[LANES + i];
            }
            for i in 0..LANES {
                sums[o][i] += scale * products[i];
            }
        }
    }
    total(sums)
}

#[inline(always)]
fn halves<const O: usize>(rows: [&[u8]; O], x: &[f32]) -> [f32; O] {
    let x: &[[f32; LANES]] = bytemuck::cast_slice(x);
    let rows: [&[[u16; LANES]]; O] = blocks(rows, x.len());
    let mut sums = [[0.0; LANES]; O];
    for (b, x) in x.iter().enumerate() {
        for o in 0..O {
            for i in 0..LANES {
                sums[o][i] += from_half(rows[o][b][i]) * x[i];
            }
        }
    }
    total(sums)
}

#[inline(always)]
fn plain<const O: usize>(rows: [&[u8]; O], x: &[f32]) -> [f32; O] {
    let x: &[[f32; LANES]] = bytemuck::cast_slice(x);
    let rows: [&[[f32; LANES]]; O] = blocks(rows, x.len());
    let mut sums = [[0.0; LANES]; O];
    for (b, x) in x.iter().enumerate() {
        for o in 0..O {
            for i in 0..LANES {
                sums[o][i] += rows[o][b][i] * x[i];
            }
        }
    }
    total(sums)
}
