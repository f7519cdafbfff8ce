//! Where kernels run: on a GPU through wgpu, on the CPU through their twins, or on both with a comparison after every kernel.
//!
//! A [`Pass`] is recorded once, turned into a [`Plan`] (pipelines, bind groups and parameters made ready) and replayed as often as
//! wanted: replaying allocates nothing. Only `gpu.rs` and what lies under it know wgpu.

mod cpu;
mod device;
mod gpu;
mod memory;
mod pass;
pub mod profile;
pub mod wgsl;

pub use device::{AdapterInfo, AdapterKind, DeviceChoice, DeviceInfo, DeviceOptions, adapters, choose};
#[cfg(feature = "wgpu-interop")]
pub use gpu::OwnDevice;
pub use pass::Pass;
pub use profile::Profile;

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::kernel::Tier;
use crate::tensor::{BufferId, Dtype, Tensor};
use cpu::Cpu;
use gpu::Gpu;

/// Counts of what a backend did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Passes of the loop over a list of rows: each reads the weights of the loop once.
    pub passes: u64,
    /// Rows of all passes; a row is one token at one loop of one sequence.
    pub rows: u64,
    /// Of these, rows of older tokens that caught up.
    pub rows_catching_up: u64,
    /// Kernels handed to the device.
    pub dispatches: u64,
    /// Of these, kernels of passes that turned out to be needed by nobody: each left at once.
    pub empty_dispatches: u64,
    /// Command buffers handed to the GPU.
    pub submits: u64,
    /// Times the host waited for data from a device that had nothing else to do: blocking waits.
    pub read_backs: u64,
    /// Times the host looked whether tokens had halted while later passes were under way on the device.
    pub polls: u64,
    /// Bytes of weight matrices that the passes of the loop read, at most: of the experts, those of as many as the rows could choose.
    /// Prelude, coda and head are not in it.
    pub weight_bytes: u64,
}

impl Counters {
    /// What was done since an earlier count.
    pub fn since(&self, earlier: &Counters) -> Counters {
        Counters {
            passes: self.passes - earlier.passes,
            rows: self.rows - earlier.rows,
            rows_catching_up: self.rows_catching_up - earlier.rows_catching_up,
            dispatches: self.dispatches - earlier.dispatches,
            empty_dispatches: self.empty_dispatches - earlier.empty_dispatches,
            submits: self.submits - earlier.submits,
            read_backs: self.read_backs - earlier.read_backs,
            polls: self.polls - earlier.polls,
            weight_bytes: self.weight_bytes - earlier.weight_bytes,
        }
    }
}

/// The gate of a device, which lets a pass that nobody needs any more run empty. Its words: one that is always 1; at [`GATE_LIVE`]
/// whether the pass that runs is needed; from [`GATE_MARKS`] on a mark for each pass of a submission, 1 if it ran. The first two
/// are bound as uniforms, so they lie 256 bytes apart.
pub(crate) const GATE_LIVE: usize = 64;
/// See [`GATE_LIVE`].
pub(crate) const GATE_MARKS: usize = 128;
/// Passes of one submission at most.
pub(crate) const MOST_MARKS: usize = 128;

fn new_gate() -> [u32; GATE_MARKS + MOST_MARKS] {
    let mut gate = [0; GATE_MARKS + MOST_MARKS];
    (gate[0], gate[GATE_LIVE]) = (1, 1);
    gate
}

/// How the host comes by data from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It waits, and the device has nothing else to do.
    Blocking,
    /// It looks while the device goes on with what came after.
    Poll,
    /// The data lies in the host's own memory.
    Free,
}

/// Data that is on its way from the device. It is as of when it was asked for.
pub(crate) enum Look {
    Here(Vec<Vec<f32>>),
    Pending(gpu::Look),
}

/// A device with its memory.
pub struct Backend {
    engine: Engine,
    info: DeviceInfo,
    tier: Tier,
    max_words: usize,
    /// Bytes. A GPU may have more of them than a browser has addresses.
    allocated: u64,
    memory: Option<u64>,
    gate: Tensor,
    counters: Counters,
    kernels: BTreeSet<&'static str>,
}

enum Engine {
    Cpu(Cpu),
    Gpu(Box<Gpu>),
    /// The twins and the GPU side by side. Both number their buffers alike.
    Shadow(Cpu, Box<Gpu>),
    /// Nothing but the number of buffers: what would be allocated is counted, nothing runs.
    Imagined(u32),
}

/// A pass made ready for one backend.
pub struct Plan {
    pass: Pass,
    gpu: Option<gpu::Plan>,
}

impl Plan {
    /// Kernels that it runs.
    pub fn dispatches(&self) -> usize {
        self.pass.dispatches.len()
    }

    /// Bytes of weight matrices that it reads at most.
    pub fn weight_bytes(&self) -> u64 {
        self.pass.weight_bytes()
    }
}

/// Some words of a tensor to be read back.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    buffer: BufferId,
    offset: usize,
    len: usize,
}

impl Span {
    /// Words `first..first + words` of a tensor of one row.
    pub fn words(tensor: &Tensor, first: usize, words: usize) -> Self {
        Self { buffer: tensor.buffer, offset: first, len: words }
    }

    /// Rows `first..first + rows` with their padding.
    pub fn rows(tensor: &Tensor, first: usize, rows: usize) -> Self {
        Self { buffer: tensor.buffer, offset: first * tensor.stride, len: rows * tensor.stride }
    }
}

impl Backend {
    /// Opens the device that the options name. Errors: [`Error::NoAdapter`], [`Error::TooSmall`], [`Error::Gpu`].
    pub async fn open(options: &DeviceOptions) -> Result<Self> {
        let (engine, info) = match device::select(options).await? {
            device::Selected::Cpu => (Engine::Cpu(Cpu::new()), DeviceInfo::cpu()),
            device::Selected::Gpu(adapter) => {
                let gpu = Box::new(Gpu::open(&adapter, options.tier, options.pipeline_cache.as_deref()).await?);
                let info = gpu.info().clone();
                if options.shadow || options.device == DeviceChoice::Shadow {
                    (Engine::Shadow(Cpu::new(), gpu), info.shadowed())
                } else {
                    (Engine::Gpu(gpu), info)
                }
            }
        };
        let (tier, own) = match &engine {
            Engine::Gpu(gpu) | Engine::Shadow(_, gpu) => (gpu.tier(), gpu.max_binding()),
            Engine::Cpu(_) | Engine::Imagined(_) => (Tier::SOFTWARE, device::CPU_BINDING),
        };
        Ok(Self::with(engine, info, options, tier, own))
    }

    /// A backend on a device that the program made itself.
    #[cfg(feature = "wgpu-interop")]
    pub fn from_wgpu(own: OwnDevice, options: &DeviceOptions) -> Result<Self> {
        let gpu = Box::new(Gpu::adopt(own, options.tier)?);
        let info = gpu.info().clone();
        let (tier, own) = (gpu.tier(), gpu.max_binding());
        Ok(Self::with(Engine::Gpu(gpu), info, options, tier, own))
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

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let submits = match &self.engine {
            Engine::Cpu(_) | Engine::Imagined(_) => 0,
            Engine::Gpu(gpu) | Engine::Shadow(_, gpu) => gpu.submits(),
        };
        Counters { submits, ..self.counters }
    }

    /// The counts, to add what only the model knows.
    pub(crate) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// The device's gate, which lets passes that nobody needs run empty: (1, any) of u32.
    pub fn gate(&self) -> &Tensor {
        &self.gate
    }

    /// Whether the device's memory is the host's: then looking at it costs nothing.
    pub fn is_host(&self) -> bool {
        self.info.adapter.is_none()
    }

    /// Names of the kernels that plans were made with so far.
    pub fn kernels(&self) -> &BTreeSet<&'static str> {
        &self.kernels
    }

    /// An empty pass for this device.
    pub fn pass(&self) -> Pass {
        Pass::new(self.tier)
    }

    /// Makes a pass ready to be replayed.
    pub fn plan(&mut self, pass: Pass) -> Result<Plan> {
        self.kernels.extend(pass.dispatches.iter().map(|dispatch| dispatch.kernel.name()));
        let gpu = match &mut self.engine {
            Engine::Cpu(_) | Engine::Imagined(_) => None,
            Engine::Gpu(gpu) | Engine::Shadow(_, gpu) => Some(gpu.plan(&pass)?),
        };
        Ok(Plan { pass, gpu })
    }

    /// Whether a plan can still be run: a GPU has room for the parameters of so many, and starts anew when it is full.
    pub fn is_current(&self, plan: &Plan) -> bool {
        match (&self.engine, &plan.gpu) {
            (Engine::Gpu(gpu) | Engine::Shadow(_, gpu), Some(ready)) => gpu.is_current(ready),
            _ => true,
        }
    }

    /// Runs a plan. On a GPU this only hands it over; [`read`](Self::read) waits.
    pub async fn run(&mut self, plan: &Plan) -> Result<()> {
        if let (Engine::Shadow(cpu, gpu), Some(ready)) = (&mut self.engine, &plan.gpu) {
            self.counters.dispatches += plan.pass.dispatches.len() as u64;
            return shadow(cpu, gpu, &plan.pass, ready).await;
        }
        self.submit(plan)
    }

    /// Runs a plan without a comparison on the way.
    pub(crate) fn submit(&mut self, plan: &Plan) -> Result<()> {
        let dispatches = plan.pass.dispatches.len();
        self.counters.dispatches += dispatches as u64;
        match (&mut self.engine, &plan.gpu) {
            (Engine::Cpu(cpu), _) => cpu.run(&plan.pass),
            (Engine::Gpu(gpu), Some(ready)) => gpu.run(ready, 0..dispatches)?,
            (Engine::Shadow(cpu, gpu), Some(ready)) => {
                cpu.run(&plan.pass);
                gpu.run(ready, 0..dispatches)?;
            }
            (Engine::Imagined(_), _) => return Err(memory::imagined()),
            _ => return Err(Error::Usage { reason: "this plan was made for another device".into() }),
        }
        Ok(())
    }

    /// Waits for the device and reads several spans in one go.
    pub async fn read(&mut self, spans: &[Span]) -> Result<Vec<Vec<f32>>> {
        let mut look = self.look(spans)?;
        self.take(&mut look, Wait::Blocking).await
    }

    /// Asks for spans as they are after all that was handed over so far, without waiting for them.
    pub(crate) fn look(&mut self, spans: &[Span]) -> Result<Look> {
        Ok(match &mut self.engine {
            Engine::Cpu(cpu) => Look::Here(spans.iter().map(|s| cpu.read(s.buffer, s.offset, s.len).to_vec()).collect()),
            Engine::Gpu(gpu) | Engine::Shadow(_, gpu) => Look::Pending(gpu.look(spans)?),
            Engine::Imagined(_) => return Err(memory::imagined()),
        })
    }

    /// The data of a look, which can be had once. A caller may give up waiting, and ask again.
    pub(crate) async fn take(&mut self, look: &mut Look, wait: Wait) -> Result<Vec<Vec<f32>>> {
        match wait {
            Wait::Blocking => self.counters.read_backs += 1,
            Wait::Poll => self.counters.polls += 1,
            Wait::Free => {}
        }
        match (look, &mut self.engine) {
            (Look::Here(data), _) => Ok(std::mem::take(data)),
            (Look::Pending(look), Engine::Gpu(gpu) | Engine::Shadow(_, gpu)) => gpu.take(look).await,
            _ => Err(Error::Usage { reason: "this look was made on another device".into() }),
        }
    }

    /// Gives up a look.
    pub(crate) fn forget(&mut self, look: Look) {
        if let (Look::Pending(look), Engine::Gpu(gpu) | Engine::Shadow(_, gpu)) = (look, &mut self.engine) {
            gpu.forget(look);
        }
    }
}

/// How far a GPU kernel may be from its twin, relative to the largest value of the argument.
const SHADOW_TOLERANCE: f32 = 1e-3;

/// Runs dispatch after dispatch on both devices, each on the same inputs, and stops at the first that disagrees.
async fn shadow(cpu: &mut Cpu, gpu: &mut Gpu, pass: &Pass, ready: &gpu::Plan) -> Result<()> {
    for (i, dispatch) in pass.dispatches.iter().enumerate() {
        cpu.run_one(pass, i);
        gpu.run(ready, i..i + 1)?;
        let (_, writes) = dispatch.kernel.args();
        for (arg, buffer) in writes.iter().zip(&dispatch.buffers[dispatch.reads..]) {
            let len = cpu.len(*buffer);
            let span = Span { buffer: *buffer, offset: 0, len };
            let mut look = gpu.look(&[span])?;
            let found = gpu.take(&mut look).await?.swap_remove(0);
            if let Some(detail) = difference(arg.dtype, cpu.read(*buffer, 0, len), &found) {
                let detail = format!("dispatch {i}, argument {}, {detail}", arg.name);
                return Err(Error::Mismatch { kernel: dispatch.kernel.name().to_string(), detail });
            }
            // The next kernel is judged alone: it starts from what the GPU computed.
            cpu.write(*buffer, 0, &found);
        }
    }
    Ok(())
}

/// The worst element, if it is too far off.
fn difference(dtype: Dtype, expected: &[f32], found: &[f32]) -> Option<String> {
    let scale = expected.iter().fold(1e-6f32, |max, x| max.max(x.abs()));
    for (i, (e, f)) in expected.iter().zip(found).enumerate() {
        let bad = match dtype {
            Dtype::U32 => e.to_bits() != f.to_bits(),
            Dtype::F32 | Dtype::Weights(_) => e.to_bits() != f.to_bits() && ((e - f).is_nan() || (e - f).abs() > SHADOW_TOLERANCE * scale),
        };
        if bad {
            let (e, f) = match dtype {
                Dtype::U32 => (e.to_bits().to_string(), f.to_bits().to_string()),
                Dtype::F32 | Dtype::Weights(_) => (e.to_string(), f.to_string()),
            };
            return Some(format!("word {i}: CPU {e}, GPU {f}"));
        }
    }
    None
}
