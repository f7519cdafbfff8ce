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

fn hash(i: u32) -> u32 {
    let x = i.wrapping_mul(0x9e37_79b1);
    let x = (x ^ (x >> 15)).wrapping_mul(0x85eb_ca6b);
    let x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// Workgroups of a dispatch: enough for any device, within every device's limit.
const GROUPS: usize = 4096;

/// Fills a matrix with numbers of about 2⁻⁶, the size of trained weights.
pub fn noise(backend: &mut Backend, matrix: &Matrix) -> Result<()> {
    // Sign and mantissa are free, the exponent is held: numbers of ±(1 … 2) · 2⁻⁶.
    let half_bits = |x: f32| u32::from(f16::from_f32(x).to_bits()) * 0x1_0001;
    let (mask, base) = match matrix.precision {
        Precision::F32 => (0x807f_ffff, (127 - 6) << 23),
        Precision::F16 => (0x83ff_83ff, half_bits(1.0 / 64.0)),
        Precision::Q8 | Precision::Q4 => (u32::MAX, 0),
    };
    // The root mean square of all bytes is 74, of all half bytes 4.6.
    let scale = half_bits(if matrix.precision == Precision::Q8 { 0.023 / 74.0 } else { 0.023 / 4.6 });
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
