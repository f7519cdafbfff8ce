//! The matrix product under the twins: `y (+)= x · wᵀ` by the `gemm` crate, checked slices in, one unsafe call.

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

/// `y[r, o] = Σ_i x[r, i] · w[o, i]`, added to `y` if `add`. Shapes: x (rows, ins), w (outs, ins), y (rows, outs).
#[allow(clippy::too_many_arguments)]
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
    #[cfg(not(target_arch = "wasm32"))]
    let parallelism = if rows * ins * outs >= PARALLEL { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    #[cfg(target_arch = "wasm32")]
    let parallelism = gemm::Parallelism::None;
    // SAFETY: the slices above were cut to exactly the elements that the strides reach, `y` is borrowed mutably and
    // therefore overlaps neither `x` nor `w`.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            rows,
            outs,
            ins,
            y.as_mut_ptr(),
            1,
            y_rows.stride as isize,
            add,
            x.as_ptr(),
            1,
            x_rows.stride as isize,
            w.as_ptr(),
            w_rows.stride as isize,
            1,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
