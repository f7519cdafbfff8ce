//! How long each kernel takes: what a backend writes down between [`Backend::start_profile`] and [`Backend::take_profile`].
//!
//! ```
//! # use refrain::{backend::{Backend, DeviceChoice, DeviceOptions}, kernels::noise, tensor::Dtype};
//! # pollster::block_on(async {
//! # let mut backend = Backend::open(&DeviceOptions { device: DeviceChoice::Cpu, ..Default::default() }).await?;
//! # let x = backend.tensor("x", Dtype::F32, 1, 64)?;
//! # let mut pass = backend.pass();
//! # noise::words(&mut pass, &x, 0, u32::MAX, 0)?;
//! # let plan = backend.plan(pass)?;
//! backend.start_profile()?;
//! backend.run(&plan).await?;
//! for kernel in backend.take_profile().await?.kernels() {
//!     println!("{}: {} times, {} s, {} bytes", kernel.kernel, kernel.calls, kernel.seconds, kernel.bytes);
//! }
//! # Ok::<(), refrain::Error>(()) }).unwrap();
//! ```

use web_time::Instant;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::kernel::Grid;
use crate::precision::Precision;

/// Whose clock says when a kernel ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The device's own, at the beginning and at the end of each dispatch. A browser may round it, to 0.1 ms for instance.
    Device,
    /// The host's, on which the kernels themselves run: the CPU backend.
    Host,
    /// The host's, around dispatches that are handed over one by one and waited for: a round trip to the device is in each. For a
    /// device that has no timestamps.
    RoundTrip,
}

impl Clock {
    /// `device`, `host` or `round trip`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Host => "host",
            Self::RoundTrip => "round trip",
        }
    }
}

/// What a dispatch has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The kernel's name.
    pub kernel: &'static str,
    /// How the weights among its arguments are stored; f32 where there are none.
    pub precision: Precision,
    /// Rows that it works on, for a kernel that counts rows.
    pub rows: Option<usize>,
    /// Workgroups.
    pub grid: Grid,
    /// Bytes read and written, each once: what cannot be saved, not what a cache may serve again. 0 where only the device knows.
    pub bytes: u64,
    /// Floating-point operations that the formula needs; a multiplication with an addition counts as two. 0 where nobody has counted.
    pub flops: u64,
}

/// A dispatch that ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DispatchTime {
    /// What it had to do.
    pub load: Load,
    /// When it began, in seconds since [`Profile::start`].
    pub begin: f64,
    /// How long it took.
    pub seconds: f64,
}

/// Something that the host did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostTime {
    /// `submit`, `wait`.
    pub name: &'static str,
    /// When it began, in seconds since [`Profile::start`].
    pub begin: f64,
    /// How long it took.
    pub seconds: f64,
}

/// All dispatches of one kernel with weights in one precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelTime {
    /// The kernel's name.
    pub kernel: &'static str,
    /// See [`Load::precision`].
    pub precision: Precision,
    /// Dispatches.
    pub calls: usize,
    /// Their seconds together.
    pub seconds: f64,
    /// Their bytes together, see [`Load::bytes`].
    pub bytes: u64,
    /// Their operations together, see [`Load::flops`].
    pub flops: u64,
}

/// What ran, and when.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The host's time that counts as 0.
    pub start: Instant,
    /// Whose clock timed the dispatches.
    pub clock: Clock,
    /// Dispatches in the order in which they were handed over. One that the gate kept out has run, empty, on a GPU and has not on the CPU.
    pub dispatches: Vec<DispatchTime>,
    /// What the host did meanwhile.
    pub host: Vec<HostTime>,
}

impl Profile {
    pub(super) fn new(clock: Clock) -> Self {
        Self { start: Instant::now(), clock, dispatches: Vec::new(), host: Vec::new() }
    }

    /// Seconds since the start.
    pub(super) fn at(&self, time: Instant) -> f64 {
        time.saturating_duration_since(self.start).as_secs_f64()
    }

    /// Writes down something that the host did from `begin` until now.
    pub(super) fn did(&mut self, name: &'static str, begin: Instant) {
        self.host.push(HostTime { name, begin: self.at(begin), seconds: begin.elapsed().as_secs_f64() });
    }

    /// Writes down a dispatch that ran from `begin` until now.
    pub(super) fn ran(&mut self, load: Load, begin: Instant) {
        self.dispatches.push(DispatchTime { load, begin: self.at(begin), seconds: begin.elapsed().as_secs_f64() });
    }

    /// Sums by kernel and precision, the longest first.
    pub fn kernels(&self) -> Vec<KernelTime> {
        let mut kernels: Vec<KernelTime> = Vec::new();
        for DispatchTime { load, seconds, .. } in &self.dispatches {
            let (kernel, precision) = (load.kernel, load.precision);
            let at = kernels.iter().position(|sum| (sum.kernel, sum.precision) == (kernel, precision)).unwrap_or_else(|| {
                kernels.push(KernelTime { kernel, precision, calls: 0, seconds: 0.0, bytes: 0, flops: 0 });
                kernels.len() - 1
            });
            let sum = &mut kernels[at];
            sum.calls += 1;
            sum.seconds += seconds;
            sum.bytes += load.bytes;
            sum.flops += load.flops;
        }
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        kernels
    }

    /// Seconds of all dispatches together.
    pub fn busy(&self) -> f64 {
        sum(self.dispatches.iter().map(|dispatch| dispatch.seconds))
    }

    /// Seconds that passed between the end of a dispatch and the beginning of the next, all together: launching, encoding, waiting for the
    /// host. `None` where round trips are timed, which has no such thing.
    pub fn lost(&self) -> Option<f64> {
        let gap = |pair: &[DispatchTime]| (pair[1].begin - pair[0].begin - pair[0].seconds).max(0.0);
        (self.clock != Clock::RoundTrip).then(|| sum(self.dispatches.windows(2).map(gap)))
    }
}

/// The sum; that of nothing is 0, which `Iterator::sum` takes for -0.
fn sum(seconds: impl Iterator<Item = f64>) -> f64 {
    seconds.fold(0.0, |sum, seconds| sum + seconds)
}

impl Backend {
    /// Starts to write down how long each kernel takes; what was written down before is dropped. The kernels then run one by one, which
    /// costs time between them. Errors: [`Error::Usage`] on a backend that checks every kernel or runs none; [`Error::Gpu`] in a browser
    /// that has no timestamps, since it cannot wait for a dispatch either.
    pub fn start_profile(&mut self) -> Result<()> {
        match &mut self.engine {
            super::Engine::Cpu(cpu) => cpu.profile = Some(Profile::new(Clock::Host)),
            super::Engine::Gpu(gpu) => gpu.start_profile()?,
            super::Engine::Shadow(..) => {
                return Err(Error::Usage { reason: "no times are taken where every kernel is checked against the CPU".into() });
            }
            super::Engine::Imagined(_) => return Err(super::memory::imagined()),
        }
        Ok(())
    }

    /// Waits for the device and returns what was written down since [`start_profile`](Self::start_profile), which this ends. Without one
    /// before, [`Error::Usage`].
    pub async fn take_profile(&mut self) -> Result<Profile> {
        let profile = match &mut self.engine {
            super::Engine::Cpu(cpu) => cpu.profile.take(),
            super::Engine::Gpu(gpu) => gpu.take_profile().await?,
            super::Engine::Shadow(..) | super::Engine::Imagined(_) => None,
        };
        profile.ok_or_else(|| Error::Usage { reason: "a profile is taken that was not started".into() })
    }
}
