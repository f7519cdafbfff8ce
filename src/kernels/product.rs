//! The matrix products under the twins: weights in any precision, by the `gemm` crate where they are f32 or many rows use them.

use crate::kernel::words;
use crate::precision::{BLOCK, Precision};
use half::f16;

/// Rows of a matrix in a slice: where they start and how far apart they are.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub start: usize,
    pub stride: usize,
}

impl Rows {
    fn end(&self, rows: usize, cols: usize) -> usize {
        self.start + rows.saturating_sub(1) * self.stride + cols
    }
}

/// Rows of weights as a device holds them.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub precision: Precision,
    pub data: &'a [f32],
    pub scales: &'a [f32],
    /// Numbers from one row to the next.
    pub stride: usize,
    /// The row that counts as the first.
    pub first: usize,
}

impl<'a> From<(&'a [f32], Rows)> for Weights<'a> {
    /// Numbers that are no weights, or weights that are always f32.
    fn from((data, rows): (&'a [f32], Rows)) -> Self {
        Self { precision: Precision::F32, data: &data[rows.start..], scales: &[], stride: rows.stride, first: 0 }
    }
}

impl<'a> Weights<'a> {
    /// The same without the first `row` rows.
    pub fn skip_rows(self, row: usize) -> Self {
        Self { first: self.first + row, ..self }
    }

    /// The numbers of f32 weights, from the first row on.
    fn plain(&self) -> Option<&'a [f32]> {
        (self.precision == Precision::F32).then(|| &self.data[self.first * self.stride..])
    }

    /// Writes the first numbers of row `row`.
    pub fn read(&self, row: usize, to: &mut [f32]) {
        let row = self.first + row;
        let bytes = 4 * self.precision.words(self.stride);
        let data = &bytemuck::cast_slice::<f32, u8>(self.data)[row * bytes..][..bytes];
        let first = row * self.stride / BLOCK;
        let scale = |block: usize| {
            let block = first + block;
            f16::from_bits((words(self.scales)[block / 2] >> (16 * (block % 2))) as u16).to_f32()
        };
        self.precision.unpack_row(data, scale, to);
    }

    /// The first `ins` numbers of `rows` rows, one row after the other.
    fn unpack(&self, rows: usize, ins: usize) -> Vec<f32> {
        let mut numbers = vec![0.0; rows * ins];
        numbers.chunks_exact_mut(ins.max(1)).enumerate().for_each(|(row, to)| self.read(row, to));
        numbers
    }
}

/// Multiplications from which a second thread pays.
#[cfg(not(target_arch = "wasm32"))]
const PARALLEL: usize = 1 << 20;

/// Rows up to which `gemm` would spend more time on packing the weights than on the product.
const FEW_ROWS: usize = 8;

/// Outputs whose weights stay in a core's cache while a few rows use them. Below 257 `gemm` takes a slower way.
const SLAB: usize = 320;

/// `y[r, o] = Σ_i x[r, i] · w[o, i]`, added to `y` if `add`. Shapes: x (rows, ins), w (outs, ins), y (rows, outs).
///
/// One row is a matter of reading the weights once. So it is for a few: slab by slab, each row takes its turn.
pub(super) fn product<'a>(
    (rows, ins, outs): (usize, usize, usize),
    (x, x_rows): (&[f32], Rows),
    w: impl Into<Weights<'a>>,
    (y, y_rows): (&mut [f32], Rows),
    add: bool,
) {
    let w = w.into();
    if rows == 0 || outs == 0 {
        return;
    }
    let x = &x[x_rows.start..x_rows.end(rows, ins)];
    let y = &mut y[y_rows.start..y_rows.end(rows, outs)];
    let w_rows = w.stride;
    if let Some(w) = w.plain().filter(|_| rows > FEW_ROWS || outs <= SLAB) {
        return multiply((rows, ins, outs), (x, x_rows.stride), (w, w_rows, 1), (y, y_rows.stride), add);
    }
    // The slabs, each with its part of every row of y.
    let mut slabs: Vec<Vec<&mut [f32]>> = (0..outs.div_ceil(SLAB)).map(|_| Vec::with_capacity(rows)).collect();
    for y in y.chunks_mut(y_rows.stride.max(outs)) {
        slabs.iter_mut().zip(y[..outs].chunks_mut(SLAB)).for_each(|(slab, y)| slab.push(y));
    }
    let run = |(slab, parts): (usize, Vec<&mut [f32]>)| {
        slab_product(ins, (x, x_rows.stride), w.skip_rows(slab * SLAB), parts, add);
    };
    #[cfg(not(target_arch = "wasm32"))]
    if rows * ins * outs >= PARALLEL {
        use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
        return slabs.into_par_iter().enumerate().for_each(run);
    }
    slabs.into_iter().enumerate().for_each(run);
}

/// The product with the rows of one slab; `parts` has one slice of results for every row of x.
fn slab_product(ins: usize, (x, x_stride): (&[f32], usize), w: Weights, mut parts: Vec<&mut [f32]>, add: bool) {
    let outs = parts.first().map_or(0, |part| part.len());
    let x_row = |row: usize| &x[row * x_stride..][..ins];
    if let Some(plain) = w.plain() {
        for (row, y) in parts.into_iter().enumerate() {
            multiply((1, ins, outs), (x_row(row), 0), (plain, w.stride, 1), (y, 0), add);
        }
    } else if parts.len() <= FEW_ROWS {
        // Each row of weights is unpacked into the nearest cache and used there.
        let mut numbers = vec![0.0; ins];
        for o in 0..outs {
            w.read(o, &mut numbers);
            for (row, y) in parts.iter_mut().enumerate() {
                y[o] = dot(x_row(row), &numbers) + if add { y[o] } else { 0.0 };
            }
        }
    } else {
        let mut results = vec![0.0; parts.len() * outs];
        multiply((parts.len(), ins, outs), (x, x_stride), (&w.unpack(outs, ins), ins, 1), (&mut results, outs), false);
        for (y, results) in parts.into_iter().zip(results.chunks_exact(outs)) {
            y.iter_mut().zip(results).for_each(|(y, result)| *y = result + if add { *y } else { 0.0 });
        }
    }
}

/// `y[r, j] = Σ_i x[r, i] · w[i, j]`: weights that lie the other way. Shapes: x (rows, ins), w (ins, outs), y (rows, outs).
pub(super) fn transposed_product(shape: (usize, usize, usize), x: (&[f32], Rows), w: Weights, y: (&mut [f32], Rows)) {
    let (_, ins, outs) = shape;
    match w.plain() {
        Some(plain) => mix(shape, x, (plain, Rows { start: 0, stride: w.stride }), y),
        None => mix(shape, x, (&w.unpack(ins, outs), Rows { start: 0, stride: outs }), y),
    }
}

/// `y[r, o] = Σ_i x[r, i] · w[i, o]`: as [`product`], with the other matrix lying the other way. Shapes: x (rows, ins), w (ins, outs).
pub(super) fn mix(
    (rows, ins, outs): (usize, usize, usize),
    (x, x_rows): (&[f32], Rows),
    (w, w_rows): (&[f32], Rows),
    (y, y_rows): (&mut [f32], Rows),
) {
    if rows == 0 || outs == 0 {
        return;
    }
    let x = &x[x_rows.start..x_rows.end(rows, ins)];
    let w = &w[w_rows.start..w_rows.end(ins, outs)];
    let y = &mut y[y_rows.start..y_rows.end(rows, outs)];
    multiply((rows, ins, outs), (x, x_rows.stride), (w, 1, w_rows.stride), (y, y_rows.stride), false);
}

/// `y[r, o] (+)= Σ_i x[r, i] · w[o, i]` with w\[o, i\] at `o · out_step + i · in_step`; x and y have rows of the given strides.
fn multiply(
    (rows, ins, outs): (usize, usize, usize),
    (x, x_stride): (&[f32], usize),
    (w, out_step, in_step): (&[f32], usize, usize),
    (y, y_stride): (&mut [f32], usize),
    add: bool,
) {
    let last = |n: usize, step: usize| n.saturating_sub(1) * step;
    assert!(last(rows, x_stride) + ins <= x.len() && last(rows, y_stride) + outs <= y.len());
    assert!(ins == 0 || last(outs, out_step) + last(ins, in_step) < w.len());
    #[cfg(not(target_arch = "wasm32"))]
    let parallelism = if rows * ins * outs >= PARALLEL { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    #[cfg(target_arch = "wasm32")]
    let parallelism = gemm::Parallelism::None;
    // SAFETY: the asserts say that the strides reach no element outside the slices, `y` is borrowed mutably and therefore overlaps
    // neither `x` nor `w`.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            rows,
            outs,
            ins,
            y.as_mut_ptr(),
            1,
            y_stride as isize,
            add,
            x.as_ptr(),
            1,
            x_stride as isize,
            w.as_ptr(),
            out_step as isize,
            in_step as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// x · y in lanes, which compilers turn into vector instructions, as they may not do with one sum from left to right.
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    let (xs, ys) = (x.chunks_exact(16), y[..x.len()].chunks_exact(16));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        sums.iter_mut().zip(x).zip(y).for_each(|((sum, x), y)| *sum += x * y);
    }
    sums.iter().sum::<f32>() + rest
}
