//! Sums of products in vectors of the processor at hand, found at run time by the `pulp` crate: AVX-512, AVX2 with FMA, NEON, wasm's simd128.
//!
//! A tile is a few rows of weights with a few rows of x. Its sums stay in registers, and every vector that is read is used several times.
//! Arrays of vectors are walked by plain loops: the closures of `map` and `from_fn` are not always inlined, and then run without vectors.

use super::Weights;
use pulp::{Arch, Simd, WithSimd};

/// Rows of x of a tile, and rows of weights where there are registers for so many sums.
pub(super) const SIDE: usize = 4;

/// Numbers of x that stay in a core's cache while all weights pass by.
const CACHED: usize = 1 << 17;

/// `y[r][o] (+)= Σ_i x[r, i] · w[o, i]` for all rows and outputs in `y`. x is a slice, its stride and `ins`.
pub(super) fn dots<'a>(x: (&'a [f32], usize, usize), w: Weights<'a>, y: &mut [&mut [f32]], add: bool) {
    Arch::new().dispatch(Dots { x, w, y, add });
}

struct Dots<'a, 'b, 'c> {
    x: (&'a [f32], usize, usize),
    w: Weights<'a>,
    y: &'b mut [&'c mut [f32]],
    add: bool,
}

impl WithSimd for Dots<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Browsers run on processors of either kind.
        if S::REGISTER_COUNT >= 32 && cfg!(not(target_arch = "wasm32")) { self.run::<S, SIDE>(simd) } else { self.run::<S, 3>(simd) }
    }
}

impl Dots<'_, '_, '_> {
    /// Block by block of x; then by so many rows of weights, which are unpacked where all rows of the block find them in the nearest cache.
    #[inline(always)]
    fn run<S: Simd, const OUTS: usize>(self, simd: S) {
        let Dots { x: (x, x_stride, ins), w, y, add } = self;
        let block = (CACHED / ins.max(1)).max(1).next_multiple_of(SIDE);
        let mut numbers = vec![0.0; if w.plain().is_some() { 0 } else { OUTS * ins }];
        for (i, y) in y.chunks_mut(block).enumerate() {
            let (x, outs) = ((&x[i * block * x_stride..], x_stride, ins), y[0].len());
            let whole = outs - outs % OUTS;
            for o in (0..whole).step_by(OUTS) {
                rows_of::<S, OUTS>(simd, x, (w, o), &mut numbers, y, add);
            }
            for o in whole..outs {
                rows_of::<S, 1>(simd, x, (w, o), &mut numbers, y, add);
            }
        }
    }
}

/// `O` rows of weights from row `o` on, with all rows of x.
#[inline(always)]
fn rows_of<S: Simd, const O: usize>(
    simd: S,
    (x, x_stride, ins): (&[f32], usize, usize),
    (w, o): (Weights, usize),
    numbers: &mut [f32],
    y: &mut [&mut [f32]],
    add: bool,
) {
    let mut rows: [&[f32]; O] = [&[]; O];
    if let Some(plain) = w.plain() {
        for (i, row) in rows.iter_mut().enumerate() {
            *row = &plain[(o + i) * w.stride..][..ins];
        }
    } else {
        w.prefetch(o, O);
        for i in 0..O {
            w.unpack_row(o + i, &mut numbers[i * ins..][..ins]);
        }
        for (i, row) in rows.iter_mut().enumerate() {
            *row = &numbers[i * ins..][..ins];
        }
    }
    for (r, y) in y.chunks_mut(SIDE).enumerate() {
        let x = &x[r * SIDE * x_stride..];
        match y.len() {
            1 => tile::<S, O, 1>(simd, rows, (x, x_stride), (y, o), add),
            2 => tile::<S, O, 2>(simd, rows, (x, x_stride), (y, o), add),
            3 => tile::<S, O, 3>(simd, rows, (x, x_stride), (y, o), add),
            _ => tile::<S, O, SIDE>(simd, rows, (x, x_stride), (y, o), add),
        }
    }
}

/// `y[r][o + i] (+)= w[i] · x[r]` for `O` rows of weights, all of the same length, and `R` rows of x.
#[inline(always)]
fn tile<S: Simd, const O: usize, const R: usize>(
    simd: S,
    w: [&[f32]; O],
    (x, x_stride): (&[f32], usize),
    (y, o): (&mut [&mut [f32]], usize),
    add: bool,
) {
    let ins = w[0].len();
    let (n, whole) = (ins / S::F32_LANES, ins - ins % S::F32_LANES);
    let mut ws: [&[S::f32s]; O] = [&[]; O];
    let mut xs: [&[S::f32s]; R] = [&[]; R];
    for (ws, w) in ws.iter_mut().zip(&w) {
        *ws = &S::as_simd_f32s(w).0[..n];
    }
    for (r, xs) in xs.iter_mut().enumerate() {
        *xs = &S::as_simd_f32s(&x[r * x_stride..][..ins]).0[..n];
    }
    let mut sums = [[simd.splat_f32s(0.0); O]; R];
    for i in 0..n {
        for r in 0..R {
            let x = xs[r][i];
            for o in 0..O {
                sums[r][o] = simd.mul_add_e_f32s(ws[o][i], x, sums[r][o]);
            }
        }
    }
    if whole < ins {
        // What a load leaves out is 0.
        for r in 0..R {
            let x = simd.partial_load_f32s(&x[r * x_stride..][whole..ins]);
            for o in 0..O {
                sums[r][o] = simd.mul_add_e_f32s(simd.partial_load_f32s(&w[o][whole..]), x, sums[r][o]);
            }
        }
    }
    for (y, sums) in y.iter_mut().zip(sums) {
        for (y, sum) in y[o..][..O].iter_mut().zip(sums) {
            *y = simd.reduce_sum_f32s(sum) + if add { *y } else { 0.0 };
        }
    }
}

/// `y[r, o] = Σ_i x[r, i] · w[i, o]` for all rows in y. x is a slice, its stride and `ins`, y a slice, its stride and `outs`.
pub(super) fn mixes(x: (&[f32], usize, usize), w: (&[f32], usize), y: (&mut [f32], usize, usize)) {
    Arch::new().dispatch(Mixes { x, w, y });
}

struct Mixes<'a> {
    x: (&'a [f32], usize, usize),
    w: (&'a [f32], usize),
    y: (&'a mut [f32], usize, usize),
}

impl WithSimd for Mixes<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Mixes { x: (x, x_stride, ins), w, y: (y, y_stride, outs) } = self;
        for (i, y) in y.chunks_mut(SIDE * y_stride).enumerate() {
            let x = (&x[i * SIDE * x_stride..], x_stride, ins);
            match y.len().div_ceil(y_stride) {
                1 => columns::<S, 1>(simd, x, w, (y, y_stride, outs)),
                2 => columns::<S, 2>(simd, x, w, (y, y_stride, outs)),
                3 => columns::<S, 3>(simd, x, w, (y, y_stride, outs)),
                _ => columns::<S, SIDE>(simd, x, w, (y, y_stride, outs)),
            }
        }
    }
}

/// `R` rows of y, two vectors of columns at a time.
#[inline(always)]
fn columns<S: Simd, const R: usize>(
    simd: S,
    (x, x_stride, ins): (&[f32], usize, usize),
    (w, w_stride): (&[f32], usize),
    (y, y_stride, outs): (&mut [f32], usize, usize),
) {
    for at in (0..outs).step_by(2 * S::F32_LANES) {
        let count = (outs - at).min(2 * S::F32_LANES);
        let first = count.min(S::F32_LANES);
        let mut sums = [[simd.splat_f32s(0.0); 2]; R];
        for i in 0..ins {
            let w = &w[i * w_stride + at..][..count];
            let w = match S::as_simd_f32s(w).0 {
                [first, second] => [*first, *second],
                _ => [simd.partial_load_f32s(&w[..first]), simd.partial_load_f32s(&w[first..])],
            };
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = simd.splat_f32s(x[r * x_stride + i]);
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = simd.mul_add_e_f32s(w, x, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let (low, high) = y[r * y_stride + at..][..count].split_at_mut(first);
            simd.partial_store_f32s(low, sums[0]);
            simd.partial_store_f32s(high, sums[1]);
        }
    }
}
