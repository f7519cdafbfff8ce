//! How fast a device computes: y\[t\] = Σ of 12 numbers, each of which went 8 · rounds times through a ← a · factor + addend
//!
//! y: (1, threads). Number k of thread t starts at k + (t mod 256) / 256. Nothing but registers is used, and 12 chains wait for none but
//! themselves: the rate of multiplications with additions, two operations each.

use pulp::{Simd, WithSimd};

use crate::backend::{Backend, Pass};
use crate::error::Result;
use crate::kernel::{Kernel, Twin, f32s};
use crate::kernels::expect_room;
use crate::kernels::read_rate::{Rate, SHORTEST};
use crate::params;
use crate::tensor::{Dtype, Tensor};

params! {
    /// Parameters. `fused` is 1 where multiplication and addition are one operation of the shading language, `fma`.
    Params { rounds: u32, threads: u32, fused: u32, factor: f32, addend: f32 }
}

/// The kernel.
pub const FMA_RATE: Kernel<Params, 0, 1> = Kernel {
    name: "fma_rate",
    body: include_str!("../../shaders/fma_rate.wgsl"),
    links: &[],
    reads: [],
    writes: [f32s("y")],
    grid: |p, tier| [(p.threads as usize).div_ceil(tier.workgroup as usize), 1, 1],
    twin: Twin::Plain(twin),
};

/// Chains of a thread, and steps of a round.
const CHAINS: usize = 12;
const STEPS: usize = 8;

fn twin(p: &Params, []: [&[f32]; 0], [y]: [&mut [f32]; 1]) {
    const THREADS: usize = 256;
    let arch = pulp::Arch::new();
    let run = |y: &mut [f32]| arch.dispatch(Chains { p, y });
    let y = &mut y[..p.threads as usize];
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::{ParallelIterator, ParallelSliceMut};
        y.par_chunks_mut(THREADS).for_each(run);
    }
    #[cfg(target_arch = "wasm32")]
    y.chunks_mut(THREADS).for_each(run);
}

/// The first threads of y, which start like thread 0: as many at a time as a vector has lanes.
struct Chains<'a> {
    p: &'a Params,
    y: &'a mut [f32],
}

impl WithSimd for Chains<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { p, y } = self;
        let (m, n) = (simd.splat_f32s(p.factor), simd.splat_f32s(p.addend));
        for (team, y) in y.chunks_mut(S::F32_LANES).enumerate() {
            let mut starts = [0.0f32; 64];
            starts.iter_mut().enumerate().for_each(|(i, start)| *start = (team * S::F32_LANES + i) as f32 / 256.0);
            let starts = simd.partial_load_f32s(&starts[..S::F32_LANES]);
            let mut chains: [S::f32s; CHAINS] = std::array::from_fn(|k| simd.add_f32s(simd.splat_f32s(k as f32), starts));
            for _ in 0..p.rounds {
                for _ in 0..STEPS {
                    // One by one, so that they stay in registers.
                    chains.iter_mut().for_each(|a| *a = simd.mul_add_e_f32s(*a, m, n));
                }
            }
            let part = |i: usize| simd.add_f32s(simd.add_f32s(chains[i], chains[4 + i]), chains[8 + i]);
            let sum = simd.add_f32s(simd.add_f32s(part(0), part(1)), simd.add_f32s(part(2), part(3)));
            simd.partial_store_f32s(y, sum);
        }
    }
}

/// Records the chains of `threads` threads.
pub fn fma_rate(pass: &mut Pass, threads: usize, rounds: usize, fused: bool, y: &Tensor) -> Result<()> {
    expect_room("fma_rate", "columns of y", threads, y.cols)?;
    // Every chain nears 1: nothing overflows, nothing becomes subnormal.
    let params = Params { rounds: rounds as u32, threads: threads as u32, fused: fused.into(), factor: 0.75, addend: 0.25 };
    pass.work(4 * threads, 2 * threads * CHAINS * STEPS * rounds);
    pass.dispatch(&FMA_RATE, params, [], [y])
}

/// Threads: enough for any device.
const THREADS: usize = 1 << 18;

/// Seconds from which on a run is long enough to be timed.
const LONG: f64 = 0.005;

/// Rounds at most: lavapipe ends every loop after 65,535.
const MOST_ROUNDS: usize = 1 << 14;

/// Runs of which the fastest counts.
const RUNS: usize = 5;

/// The rates at which a device multiplies and adds, in operations a second, written as one operation and as two. Errors: those of a profile.
pub async fn fma_rates(backend: &mut Backend) -> Result<Vec<Rate>> {
    let threads = THREADS.min(backend.max_words());
    let y = backend.tensor("sums of chains", Dtype::F32, 1, threads)?;
    let mut rates = Vec::new();
    for (how, fused) in [("fma(a, b, c)", true), ("a * b + c", false)] {
        let (mut rounds, mut runs, mut best) = (1, 0, 0f64);
        while runs < RUNS {
            let mut pass = backend.pass();
            fma_rate(&mut pass, threads, rounds, fused, &y)?;
            let plan = backend.plan(pass)?;
            backend.start_profile()?;
            backend.run(&plan).await?;
            let profile = backend.take_profile().await?;
            let (seconds, flops) = (profile.busy(), profile.dispatches.iter().map(|dispatch| dispatch.load.flops).sum::<u64>());
            // What is short is a warm-up, and says how much more it takes.
            if seconds < LONG && rounds < MOST_ROUNDS {
                rounds *= 4;
            } else {
                best = best.max(flops as f64 / seconds.max(SHORTEST));
                runs += 1;
            }
        }
        rates.push(Rate { how, per_second: best });
    }
    Ok(rates)
}
