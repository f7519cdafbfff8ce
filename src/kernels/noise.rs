//! Weights that nobody has trained, made on the device: w\[i\] = (hash(i) & mask) | base, word by word
//!
//! What is held by `base` gives the numbers their size: an exponent for f32 and f16, a scale for blocks. Only integers: the same on every
//! device.

use crate::backend::{Backend, Pass};
use crate::error::Result;
use crate::kernel::{Kernel, Twin, u32s, words_mut};
use crate::params;
use crate::precision::Precision;
use crate::tensor::{Dtype, Matrix, Tensor};
use half::f16;

params! {
    /// Parameters. Every thread takes each `stride`-th word.
    Params { words: u32, stride: u32, seed: u32, mask: u32, base: u32 }
}

/// The kernel.
pub const NOISE: Kernel<Params, 0, 1> = Kernel {
    name: "noise",
    body: include_str!("../../shaders/noise.wgsl"),
    links: &[],
    reads: [],
    writes: [u32s("w")],
    grid: |p, tier| [(p.stride / tier.workgroup) as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, []: [&[f32]; 0], [w]: [&mut [f32]; 1]) {
    for (i, word) in words_mut(w)[..p.words as usize].iter_mut().enumerate() {
        *word = (hash((i as u32).wrapping_add(p.seed)) & p.mask) | p.base;
    }
}

/// A number in which no bit follows from one of `i`.
pub(crate) fn hash(i: u32) -> u32 {
    let x = i.wrapping_mul(0x9e37_79b1);
    let x = (x ^ (x >> 15)).wrapping_mul(0x85eb_ca6b);
    let x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// Workgroups of a dispatch: enough for any device, within every device's limit.
const GROUPS: usize = 4096;

/// Fills a matrix with numbers of about 1 / √cols: products are then as large as what goes in, at any size of model.
pub fn noise(backend: &mut Backend, matrix: &Matrix) -> Result<()> {
    // Sign and mantissa are free, the exponent is held: numbers of ±(1 … 2) · 2⁻ᵏ, whose root mean square is 1.53 · 2⁻ᵏ.
    let k = (1.53 * (matrix.cols.max(1) as f32).sqrt()).log2().round();
    let least = (-k).exp2();
    let half_bits = |x: f32| u32::from(f16::from_f32(x).to_bits()) * 0x1_0001;
    let (mask, base) = match matrix.precision {
        Precision::F32 => (0x807f_ffff, least.to_bits()),
        Precision::F16 => (0x83ff_83ff, half_bits(least)),
        // Odd numbers alone, −127 … 127 and −7 … 7: their mean is 0. With another mean each matrix would turn all rows into one direction.
        Precision::Q8 => (0xfefe_fefe, 0x0101_0101),
        Precision::Q4 => (0xeeee_eeee, 0x1111_1111),
    };
    // The root mean square of these bytes is 74, of these half bytes 4.6.
    let scale = half_bits(1.53 * least / if matrix.precision == Precision::Q8 { 74.0 } else { 4.6 });
    let mut pass = backend.pass();
    for (first, part) in matrix.parts() {
        let seed = hash(first as u32 ^ part.data.buffer.0);
        words(&mut pass, &part.data, seed, mask, base)?;
        if matrix.precision.is_quantized() {
            words(&mut pass, &part.scales, 0, 0, scale)?;
        }
    }
    let plan = backend.plan(pass)?;
    backend.submit(&plan)
}

/// Records the noise of all words of a tensor: `mask` says which bits are random, `base` what the others are.
pub fn words(pass: &mut Pass, tensor: &Tensor, seed: u32, mask: u32, base: u32) -> Result<()> {
    let (count, workgroup) = (tensor.words(), pass.tier().workgroup as usize);
    let threads = workgroup * count.div_ceil(workgroup).min(GROUPS);
    let params = Params { words: count as u32, stride: threads as u32, seed, mask, base };
    pass.dispatch(&NOISE, params, [], [&Tensor { dtype: Dtype::U32, ..*tensor }])
}
