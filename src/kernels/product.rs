//! The matrix products under the twins, by the `gemm` crate: checked slices in, one unsafe call.

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
pub(super) fn product(
    (rows, ins, outs): (usize, usize, usize),
    (x, x_rows): (&[f32], Rows),
    (w, w_rows): (&[f32], Rows),
    (y, y_rows): (&mut [f32], Rows),
    add: bool,
) {
    if rows == 0 || outs == 0 {
        return;
    }
    let x = &x[x_rows.start..x_rows.end(rows, ins)];
    let w = &w[w_rows.start..w_rows.end(outs, ins)];
    let y = &mut y[y_rows.start..y_rows.end(rows, outs)];
    if rows > FEW_ROWS || outs <= SLAB {
        return multiply((rows, ins, outs), (x, x_rows.stride), (w, w_rows.stride, 1), (y, y_rows.stride), add);
    }
    // The slabs, each with its part of every row of y.
    let mut slabs: Vec<Vec<&mut [f32]>> = (0..outs.div_ceil(SLAB)).map(|_| Vec::with_capacity(rows)).collect();
    for y in y.chunks_mut(y_rows.stride.max(outs)) {
        slabs.iter_mut().zip(y[..outs].chunks_mut(SLAB)).for_each(|(slab, y)| slab.push(y));
    }
    let run = |(slab, parts): (usize, Vec<&mut [f32]>)| {
        for (row, y) in parts.into_iter().enumerate() {
            let (x, w) = (&x[row * x_rows.stride..], &w[slab * SLAB * w_rows.stride..]);
            multiply((1, ins, y.len()), (x, 0), (w, w_rows.stride, 1), (y, 0), add);
        }
    };
    #[cfg(not(target_arch = "wasm32"))]
    if rows * ins * outs >= PARALLEL {
        use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
        return slabs.into_par_iter().enumerate().for_each(run);
    }
    slabs.into_iter().enumerate().for_each(run);
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
