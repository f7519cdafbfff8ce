//! How fast a device reads memory: y\[t\] = Σ of the 16 · rounds numbers that thread t reads        y: (1, threads)
//!
//! In round r thread t of workgroup g reads four `vec4`s, from `g · group_step + t · thread_step + r · round_step` on, each
//! `inner_step` after the one before. All threads together read every number once; the [patterns](Pattern) differ in who reads which.

use crate::backend::{Backend, Pass, Plan};
use crate::error::Result;
use crate::kernel::{Kernel, Twin, f32s};
use crate::kernels::{expect, expect_room, noise};
use crate::params;
use crate::tensor::{Dtype, Tensor};

params! {
    /// Parameters: `groups` workgroups of `group` threads. Steps count `vec4`s.
    Params { rounds: u32, groups: u32, group: u32, group_step: u32, thread_step: u32, round_step: u32, inner_step: u32 }
}

/// The kernel.
pub const READ_RATE: Kernel<Params, 1, 1> = Kernel {
    name: "read_rate",
    body: include_str!("../../shaders/read_rate.wgsl"),
    links: &[],
    reads: [f32s("x")],
    writes: [f32s("y")],
    grid: |p, _| [p.groups as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [x]: [&[f32]; 1], [y]: [&mut [f32]; 1]) {
    let thread = |group: usize, thread: usize| {
        let mut at = group * p.group_step as usize + thread * p.thread_step as usize;
        let mut sums = [[0.0f32; 4]; 4];
        for _ in 0..p.rounds {
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = &x[4 * (at + i * p.inner_step as usize)..][..4];
                sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
            }
            at += p.round_step as usize;
        }
        let [a, b, c, d] = sums;
        let sum = |i: usize| (a[i] + b[i]) + (c[i] + d[i]);
        (sum(0) + sum(1)) + (sum(2) + sum(3))
    };
    let arch = pulp::Arch::new();
    let run = |(group, y): (usize, &mut [f32])| arch.dispatch(|| y.iter_mut().enumerate().for_each(|(t, y)| *y = thread(group, t)));
    let (size, groups) = (p.group as usize, p.groups as usize);
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSliceMut};
        y[..size * groups].par_chunks_mut(size).enumerate().for_each(run);
    }
    #[cfg(target_arch = "wasm32")]
    y[..size * groups].chunks_mut(size).enumerate().for_each(run);
}

/// Which thread reads what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Each thread a row of its own, from its beginning to its end.
    Rows,
    /// A workgroup a stretch of its own: neighbouring threads neighbouring `vec4`s.
    Workgroups,
    /// A workgroup a stretch of its own: neighbouring threads neighbouring blocks of four `vec4`s.
    Blocks,
    /// All threads of the device side by side.
    Device,
}

impl Pattern {
    /// Every pattern.
    pub const ALL: [Pattern; 4] = [Pattern::Rows, Pattern::Workgroups, Pattern::Blocks, Pattern::Device];

    /// `rows`, `workgroups`, `blocks`, `device`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Workgroups => "workgroups",
            Self::Blocks => "blocks",
            Self::Device => "device",
        }
    }

    /// Rounds of a thread when the rate is measured: enough that the one number that it writes does not count, few enough that there are
    /// threads for a whole GPU. A thread with a row of its own has one as long as those of a matrix: processors look ahead along it.
    fn rounds(self) -> usize {
        match self {
            Self::Rows => LONGEST,
            Self::Workgroups | Self::Blocks | Self::Device => 16,
        }
    }
}

/// Rounds that read a row of 4,096 numbers.
const LONGEST: usize = 256;

/// Records one reading of x by workgroups of `group` threads, the tier's own, in `rounds` rounds a thread. x must be a whole number of
/// such workgroups' 16 · `rounds` · `group` numbers.
pub fn read_rate(pass: &mut Pass, x: &Tensor, pattern: Pattern, group: usize, rounds: usize, y: &Tensor) -> Result<()> {
    let share = 4 * rounds * group;
    let groups = x.words() / 4 / share;
    expect("read_rate", "numbers of x", 4 * share * groups, x.words())?;
    expect_room("read_rate", "columns of y", group * groups, y.cols)?;
    let (thread_step, inner_step, round_step, group_step) = match pattern {
        Pattern::Rows => (4 * rounds, 1, 4, share),
        Pattern::Workgroups => (1, group, 4 * group, share),
        Pattern::Blocks => (4, 1, 4 * group, share),
        Pattern::Device => (1, groups * group, 4 * groups * group, group),
    };
    let params = Params {
        rounds: rounds as u32,
        groups: groups as u32,
        group: group as u32,
        group_step: group_step as u32,
        thread_step: thread_step as u32,
        round_step: round_step as u32,
        inner_step: inner_step as u32,
    };
    pass.work(4 * (x.words() + group * groups), 0);
    pass.dispatch(&READ_RATE, params, [x], [y])
}

/// A rate that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How it was come by.
    pub how: &'static str,
    /// Bytes, or operations, a second.
    pub per_second: f64,
}

impl Rate {
    /// The best of several.
    pub fn best(rates: &[Rate]) -> f64 {
        rates.iter().map(|rate| rate.per_second).fold(0.0, f64::max)
    }
}

/// Runs of which the fastest counts; the first of them warms up.
const RUNS: usize = 5;

/// Seconds that a clock is taken to tell apart: one that did not move is no reason to divide by zero.
pub(super) const SHORTEST: f64 = 1e-9;

/// The rates at which a device reads `bytes` of its memory (more than its caches hold) in each pattern. It takes as
/// much memory, in parts of at most 128 MiB. Errors: [`Error::TooSmall`](crate::Error::TooSmall), those of a profile.
pub async fn read_rates(backend: &mut Backend, bytes: usize) -> Result<Vec<Rate>> {
    let group = backend.tier().workgroup as usize;
    let unit = 16 * LONGEST * group;
    let most = backend.max_words().min(32 << 20) / unit * unit;
    let parts = (bytes / 4).div_ceil(most).max(1);
    let words = (bytes / 4 / parts).clamp(unit, most) / unit * unit;
    let y = backend.tensor("sums of what was read", Dtype::F32, 1, words / 16)?;
    let parts: Vec<Tensor> = (0..parts).map(|_| backend.tensor("memory to read", Dtype::F32, 1, words)).collect::<Result<_>>()?;
    let mut pass = backend.pass();
    // Memory that was never written need not be there: all of it can be one page of zeros.
    parts.iter().try_for_each(|part| noise::words(&mut pass, part, 0, 0x807f_ffff, 1f32.to_bits()))?;
    let plan = backend.plan(pass)?;
    backend.run(&plan).await?;
    let mut rates = Pattern::ALL.map(|pattern| Rate { how: pattern.name(), per_second: 0.0 }).to_vec();
    let plans: Vec<Plan> = Pattern::ALL
        .iter()
        .map(|pattern| {
            let mut pass = backend.pass();
            parts.iter().try_for_each(|part| read_rate(&mut pass, part, *pattern, group, pattern.rounds(), &y))?;
            backend.plan(pass)
        })
        .collect::<Result<_>>()?;
    // In turns, so that what else the machine does falls on all.
    for _ in 0..RUNS {
        for (plan, rate) in plans.iter().zip(&mut rates) {
            backend.start_profile()?;
            backend.run(plan).await?;
            for dispatch in backend.take_profile().await?.dispatches {
                rate.per_second = rate.per_second.max(dispatch.load.bytes as f64 / dispatch.seconds.max(SHORTEST));
            }
        }
    }
    Ok(rates)
}
