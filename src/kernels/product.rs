//! The matrix products under the twins, with weights in any precision: what is shared out among threads. The sums are in [`tile`].

mod tile;

use crate::precision::{BLOCK, Precision};

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
        pulp::Arch::new().dispatch(|| self.unpack_row(row, to));
    }

    /// As [`read`](Self::read), below a dispatch.
    #[inline(always)]
    fn unpack_row(&self, row: usize, to: &mut [f32]) {
        let row = self.first + row;
        let bytes = 4 * self.precision.words(self.stride);
        let data = &bytemuck::cast_slice(self.data)[row * bytes..][..bytes];
        let scales: &[u16] = bytemuck::cast_slice(self.scales);
        let blocks = if self.precision.is_quantized() { self.stride / BLOCK } else { 0 };
        self.precision.unpack_row(data, &scales[row * blocks..][..blocks], to);
    }

    /// Asks for the bytes that lie a little ahead of `rows` rows: unpacking comes in bursts, which the processor does not foresee.
    #[inline(always)]
    fn prefetch(&self, row: usize, rows: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let words = self.precision.words(self.stride);
            let ahead = self.data.get((self.first + row) * words + AHEAD..).unwrap_or_default();
            for line in ahead[..ahead.len().min(rows * words)].chunks(16) {
                // SAFETY: a prefetch reads nothing that the program sees, and every x86-64 has it.
                #[allow(unsafe_code)]
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (row, rows);
    }

    /// The first `ins` numbers of `rows` rows, one row after the other.
    fn unpack(&self, rows: usize, ins: usize) -> Vec<f32> {
        let mut numbers = vec![0.0; rows * ins];
        pulp::Arch::new().dispatch(|| {
            for (row, to) in numbers.chunks_exact_mut(ins.max(1)).enumerate() {
                self.unpack_row(row, to);
            }
        });
        numbers
    }
}

/// How far ahead of unpacking bytes are asked for, in words: nearer or further was slower.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 512;

/// A product that is to be made: `y[r, o] = Σ_i x[r, i] · w[o, i]`, added to `y` if `add`. Shapes: x (rows, ins), w (outs, ins), y (rows, outs).
pub(super) struct Product<'a, 'b> {
    /// (rows, ins, outs).
    pub shape: (usize, usize, usize),
    pub x: (&'a [f32], Rows),
    pub w: Weights<'a>,
    pub y: (&'b mut [f32], Rows),
    pub add: bool,
}

/// Makes products. Threads share the outputs of all of them, so that each weight is read by one thread.
pub(super) fn products<'a, 'b>(products: impl IntoIterator<Item = Product<'a, 'b>>) {
    let mut shares = Vec::new();
    for Product { shape: (rows, ins, outs), x: (x, x_rows), w, y: (y, y_rows), add } in products {
        if rows == 0 || outs == 0 {
            continue;
        }
        let x = &x[x_rows.start..x_rows.end(rows, ins)];
        let y = &mut y[y_rows.start..y_rows.end(rows, outs)];
        let (share, first) = (share(outs, rows * ins), shares.len());
        // The shares, each with its part of every row of y.
        for i in 0..outs.div_ceil(share) {
            shares.push(((x, x_rows.stride, ins), w.skip_rows(i * share), Vec::with_capacity(rows), add));
        }
        for y in y.chunks_mut(y_rows.stride.max(outs)) {
            shares[first..].iter_mut().zip(y[..outs].chunks_mut(share)).for_each(|((.., parts, _), y)| parts.push(y));
        }
    }
    each(shares, |_, (x, w, mut parts, add)| tile::dots(x, w, &mut parts, add));
}

/// One [`Product`].
pub(super) fn product<'a>(shape: (usize, usize, usize), x: (&'a [f32], Rows), w: impl Into<Weights<'a>>, y: (&mut [f32], Rows), add: bool) {
    products([Product { shape, x, w: w.into(), y, add }]);
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
///
/// Threads share the rows.
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
    let share = share(rows, ins * outs);
    let y_stride = y_rows.stride.max(outs);
    each(y.chunks_mut(share * y_stride).collect(), |i, y| {
        tile::mixes((&x[i * share * x_rows.stride..], x_rows.stride, ins), (w, w_rows.stride), (y, y_stride, outs));
    });
}

/// x · y.
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let (y, mut sum) = (Weights::from((y, Rows { start: 0, stride: x.len() })), [0.0]);
    tile::dots((x, 0, x.len()), y, &mut [&mut sum], false);
    sum[0]
}

/// Multiplications that are worth a thread's while.
#[cfg(not(target_arch = "wasm32"))]
const PARALLEL: usize = 1 << 18;

/// How many of `count` pieces of work, of so many multiplications each, a thread takes at once: a few shares for every thread, since one that
/// is held up leaves the rest to others.
#[cfg(not(target_arch = "wasm32"))]
fn share(count: usize, each: usize) -> usize {
    let few = count.div_ceil(4 * rayon::current_num_threads());
    few.max(PARALLEL / each.max(1)).next_multiple_of(tile::SIDE)
}

#[cfg(target_arch = "wasm32")]
fn share(count: usize, _: usize) -> usize {
    count
}

/// Runs each share, with its number.
fn each<T: Send>(shares: Vec<T>, run: impl Fn(usize, T) + Sync) {
    #[cfg(not(target_arch = "wasm32"))]
    if shares.len() > 1 {
        use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
        return shares.into_par_iter().enumerate().for_each(|(i, share)| run(i, share));
    }
    shares.into_iter().enumerate().for_each(|(i, share)| run(i, share));
}
