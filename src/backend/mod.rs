//! Where kernels run: on a GPU through wgpu, on the CPU through their twins, or on both with a comparison after every kernel.
//!
//! A [`Pass`] is recorded once, turned into a [`Plan`] (pipelines, bind groups and parameters made ready) and replayed as often as
//! wanted: replaying allocates nothing. Only `gpu.rs` knows wgpu.

mod cpu;
mod device;
mod gpu;
mod pass;
pub mod wgsl;

pub use device::{AdapterInfo, AdapterKind, DeviceChoice, DeviceInfo, DeviceOptions, adapters, choose};
#[cfg(feature = "wgpu-interop")]
pub use gpu::OwnDevice;
pub use pass::Pass;

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::kernel::Tier;
use crate::tensor::{BufferId, Dtype, Segmented, Tensor, stride};
use cpu::Cpu;
use gpu::Gpu;

/// Counts of what a backend did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Passes over a list of rows: one for each chunk.
    pub passes: u64,
    /// Rows of all passes; a row is one token at one loop of one sequence.
    pub rows: u64,
    /// Kernels run.
    pub dispatches: u64,
    /// Command buffers handed to the GPU.
    pub submits: u64,
    /// Times the host waited for data from the device.
    pub read_backs: u64,
}

/// A device with its memory.
pub struct Backend {
    engine: Engine,
    info: DeviceInfo,
    tier: Tier,
    max_words: usize,
    allocated: usize,
    counters: Counters,
    kernels: BTreeSet<&'static str>,
}

enum Engine {
    Cpu(Cpu),
    Gpu(Box<Gpu>),
    /// The twins and the GPU side by side. Both number their buffers alike.
    Shadow(Cpu, Box<Gpu>),
}

/// A pass made ready for one backend.
pub struct Plan {
    pass: Pass,
    gpu: Option<gpu::Plan>,
}

/// Some words of a tensor to be read back.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    buffer: BufferId,
    offset: usize,
    len: usize,
}

impl Span {
    /// Rows `first..first + rows` with their padding.
    pub fn rows(tensor: &Tensor, first: usize, rows: usize) -> Self {
        Self { buffer: tensor.buffer, offset: first * tensor.stride, len: rows * tensor.stride }
    }
}

impl Backend {
    /// Opens the device that the options name. Errors: [`Error::NoAdapter`], [`Error::TooSmall`], [`Error::Gpu`].
    pub async fn open(options: &DeviceOptions) -> Result<Self> {
        let (engine, info) = match device::select(options).await? {
            device::Selected::Cpu => (Engine::Cpu(Cpu::default()), DeviceInfo::cpu()),
            device::Selected::Gpu(adapter) => {
                let gpu = Box::new(Gpu::open(&adapter, options.tier).await?);
                let info = gpu.info().clone();
                if options.shadow || options.device == DeviceChoice::Shadow {
                    (Engine::Shadow(Cpu::default(), gpu), info.shadowed())
                } else {
                    (Engine::Gpu(gpu), info)
                }
            }
        };
        Ok(Self::with(engine, info, options))
    }

    /// A backend on a device that the program made itself.
    #[cfg(feature = "wgpu-interop")]
    pub fn from_wgpu(own: OwnDevice, options: &DeviceOptions) -> Result<Self> {
        let gpu = Box::new(Gpu::adopt(own, options.tier)?);
        let info = gpu.info().clone();
        Ok(Self::with(Engine::Gpu(gpu), info, options))
    }

    fn with(engine: Engine, info: DeviceInfo, options: &DeviceOptions) -> Self {
        let (tier, own) = match &engine {
            Engine::Cpu(_) => (Tier::BASELINE, device::CPU_BINDING),
            Engine::Gpu(gpu) | Engine::Shadow(_, gpu) => (gpu.tier(), gpu.max_binding()),
        };
        let max_bytes = options.max_binding.unwrap_or(own).min(own);
        Self {
            engine,
            info,
            tier,
            max_words: (max_bytes / 4) as usize,
            allocated: 0,
            counters: Counters::default(),
            kernels: BTreeSet::new(),
        }
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Constants and links that shaders are made with here.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The most 32-bit words that one tensor may have.
    pub fn max_words(&self) -> usize {
        self.max_words
    }

    /// Bytes allocated so far.
    pub fn allocated_bytes(&self) -> usize {
        self.allocated * 4
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Names of the kernels that plans were made with so far.
    pub fn kernels(&self) -> &BTreeSet<&'static str> {
        &self.kernels
    }

    /// Counts a pass over so many rows.
    pub(crate) fn count_pass(&mut self, rows: usize) {
        self.counters.passes += 1;
        self.counters.rows += rows as u64;
    }

    /// An empty pass for this device.
    pub fn pass(&self) -> Pass {
        Pass::new(self.tier)
    }

    /// A zeroed `(rows, cols)` tensor. `what` names it in an error: [`Error::TooSmall`] past [`max_words`](Self::max_words).
    pub fn tensor(&mut self, what: &str, dtype: Dtype, rows: usize, cols: usize) -> Result<Tensor> {
        let stride = stride(cols);
        let words = rows.max(1).checked_mul(stride).filter(|words| *words <= self.max_words);
        let Some(words) = words else {
            return Err(Error::TooSmall {
                what: what.to_string(),
                needed: format!("{} KiB in one binding", (rows as u128 * stride as u128 * 4).div_ceil(1 << 10)),
                available: format!("{} KiB", self.max_words / 256),
            });
        };
        let buffer = match &mut self.engine {
            Engine::Cpu(cpu) => cpu.alloc(words),
            Engine::Gpu(gpu) => Some(gpu.alloc(what, words)?),
            Engine::Shadow(cpu, gpu) => cpu.alloc(words).and(Some(gpu.alloc(what, words)?)),
        };
        let buffer = buffer.ok_or_else(|| Error::TooSmall {
            what: what.to_string(),
            needed: format!("{} MiB", words.div_ceil(1 << 18)),
            available: "less memory than that".to_string(),
        })?;
        self.allocated += words;
        Ok(Tensor { buffer, rows, cols, stride, dtype })
    }

    /// A zeroed `(rows, cols)` matrix in as few parts as the binding limit allows. Parts start at multiples of `unit` rows
    /// (1, or the rows of an expert, a head or a cache slot), which stay together.
    pub fn segmented(&mut self, what: &str, rows: usize, cols: usize, unit: usize) -> Result<Segmented> {
        let unit_words = unit.saturating_mul(stride(cols)).max(1);
        let units = (self.max_words / unit_words).clamp(1, rows.div_ceil(unit).max(1));
        let part_rows = units * unit;
        let mut parts = Vec::new();
        let mut first = 0;
        while first < rows {
            let part = self.tensor(what, Dtype::F32, part_rows.min(rows - first), cols)?;
            parts.push(part);
            first += part_rows;
        }
        Ok(Segmented { parts, part_rows, rows, cols })
    }

    /// Overwrites words of a tensor from word `offset` on. Data past the end is [`Error::Usage`].
    pub fn write(&mut self, tensor: &Tensor, offset: usize, data: &[f32]) -> Result<()> {
        if offset + data.len() > tensor.rows.max(1) * tensor.stride {
            return Err(Error::Usage { reason: format!("a write of {} words at {offset} does not fit the tensor", data.len()) });
        }
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.write(tensor.buffer, offset, data),
            Engine::Gpu(gpu) => gpu.write(tensor.buffer, offset, data),
            Engine::Shadow(cpu, gpu) => {
                cpu.write(tensor.buffer, offset, data);
                gpu.write(tensor.buffer, offset, data);
            }
        }
        Ok(())
    }

    /// Writes `data`, rows of `cols` words without padding, into rows from `first` on.
    pub fn write_rows(&mut self, tensor: &Tensor, first: usize, cols: usize, data: &[f32]) -> Result<()> {
        if cols == tensor.stride {
            return self.write(tensor, first * tensor.stride, data);
        }
        let mut padded = vec![0.0; data.len() / cols.max(1) * tensor.stride];
        for (to, from) in padded.chunks_mut(tensor.stride).zip(data.chunks(cols)) {
            to[..cols].copy_from_slice(from);
        }
        self.write(tensor, first * tensor.stride, &padded)
    }

    /// Makes a pass ready to be replayed.
    pub fn plan(&mut self, pass: Pass) -> Result<Plan> {
        self.kernels.extend(pass.dispatches.iter().map(|dispatch| dispatch.kernel.name()));
        let gpu = match &mut self.engine {
            Engine::Cpu(_) => None,
            Engine::Gpu(gpu) | Engine::Shadow(_, gpu) => Some(gpu.plan(&pass)?),
        };
        Ok(Plan { pass, gpu })
    }

    /// Runs a plan. On a GPU this only submits; [`read`](Self::read) waits.
    pub async fn run(&mut self, plan: &Plan) -> Result<()> {
        self.counters.dispatches += plan.pass.dispatches.len() as u64;
        match (&mut self.engine, &plan.gpu) {
            (Engine::Cpu(cpu), _) => cpu.run(&plan.pass),
            (Engine::Gpu(gpu), Some(ready)) => self.counters.submits += gpu.run(ready, 0..plan.pass.dispatches.len())?,
            (Engine::Shadow(cpu, gpu), Some(ready)) => {
                self.counters.submits += shadow(cpu, gpu, &plan.pass, ready).await?;
            }
            _ => return Err(Error::Usage { reason: "this plan was made for another device".into() }),
        }
        Ok(())
    }

    /// Waits for the device and reads several spans in one go.
    pub async fn read(&mut self, spans: &[Span]) -> Result<Vec<Vec<f32>>> {
        self.counters.read_backs += 1;
        match &mut self.engine {
            Engine::Cpu(cpu) => Ok(spans.iter().map(|s| cpu.read(s.buffer, s.offset, s.len).to_vec()).collect()),
            Engine::Gpu(gpu) | Engine::Shadow(_, gpu) => gpu.read(spans).await,
        }
    }
}

/// How far a GPU kernel may be from its twin, relative to the largest value of the argument.
const SHADOW_TOLERANCE: f32 = 1e-3;

/// Runs dispatch after dispatch on both devices, each on the same inputs, and stops at the first that disagrees.
async fn shadow(cpu: &mut Cpu, gpu: &mut Gpu, pass: &Pass, ready: &gpu::Plan) -> Result<u64> {
    let mut submits = 0;
    for (i, dispatch) in pass.dispatches.iter().enumerate() {
        cpu.run_one(pass, i);
        submits += gpu.run(ready, i..i + 1)?;
        let (_, writes) = dispatch.kernel.args();
        for (arg, buffer) in writes.iter().zip(&dispatch.buffers[dispatch.reads..]) {
            let len = cpu.len(*buffer);
            let span = Span { buffer: *buffer, offset: 0, len };
            let found = gpu.read(&[span]).await?.swap_remove(0);
            if let Some(detail) = difference(arg.dtype, cpu.read(*buffer, 0, len), &found) {
                let detail = format!("dispatch {i}, argument {}, {detail}", arg.name);
                return Err(Error::Mismatch { kernel: dispatch.kernel.name().to_string(), detail });
            }
            // The next kernel is judged alone: it starts from what the GPU computed.
            cpu.write(*buffer, 0, &found);
        }
    }
    Ok(submits)
}

/// The worst element, if it is too far off.
fn difference(dtype: Dtype, expected: &[f32], found: &[f32]) -> Option<String> {
    let scale = expected.iter().fold(1e-6f32, |max, x| max.max(x.abs()));
    for (i, (e, f)) in expected.iter().zip(found).enumerate() {
        let bad = match dtype {
            Dtype::U32 => e.to_bits() != f.to_bits(),
            Dtype::F32 => e.to_bits() != f.to_bits() && ((e - f).is_nan() || (e - f).abs() > SHADOW_TOLERANCE * scale),
        };
        if bad {
            let (e, f) = match dtype {
                Dtype::U32 => (e.to_bits().to_string(), f.to_bits().to_string()),
                Dtype::F32 => (e.to_string(), f.to_string()),
            };
            return Some(format!("word {i}: CPU {e}, GPU {f}"));
        }
    }
    None
}
