//! Which device to run on: what there is, what was asked for, and what is chosen.

use std::path::PathBuf;

use crate::backend::gpu;
use crate::error::{Error, Result};
use crate::kernel::Tier;

/// The most bytes of one tensor on the CPU backend: parameters count words in 32 bits.
pub(crate) const CPU_BINDING: u64 = 4 << 32;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best hardware GPU, or the CPU backend where there is none. A software GPU is never chosen silently.
    #[default]
    Auto,
    /// The CPU backend.
    Cpu,
    /// The best GPU, or an error.
    Gpu,
    /// The GPU whose name or driver contains this, case ignored.
    Name(String),
    /// The GPU of this index in [`adapters`].
    Index(usize),
    /// GPU (software admitted) and CPU together: stops at the first kernel on which they disagree.
    Shadow,
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;

    /// `auto`, `cpu`, `gpu`, `shadow`, an index, or part of a name.
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "" => {
                return Err(Error::Argument {
                    name: "--device".into(),
                    expected: "auto, cpu, gpu, shadow, an index or part of a name".into(),
                    found: "nothing".into(),
                });
            }
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu,
            "shadow" => Self::Shadow,
            _ => text.parse().map_or_else(|_| Self::Name(text.to_string()), Self::Index),
        })
    }
}

/// How to choose and use a device.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// What is asked for.
    pub device: DeviceChoice,
    /// Whether [`DeviceChoice::Auto`] and [`DeviceChoice::Gpu`] may take a GPU that is simulated on the CPU.
    pub allow_software: bool,
    /// Whether every kernel of the chosen GPU is checked against the CPU, as [`DeviceChoice::Shadow`] does on the best GPU.
    pub shadow: bool,
    /// Bytes that one binding may have at most, where less than the device's own limit is wanted.
    pub max_binding: Option<u64>,
    /// Bytes of memory that may be taken on the device: a model that needs more is refused before anything is allocated, and so is any tensor
    /// past it. Default: what the machine has to spare, where the device shares its memory; else unknown.
    pub memory: Option<u64>,
    /// Forces a tier instead of choosing one from the adapter's facts.
    pub tier: Option<Tier>,
    /// Folder in which to keep what the driver compiles, for the next program to find: made if need be, a file an adapter. Nothing is kept
    /// where the API cannot (wgpu can with Vulkan); what cannot be read or written is passed over. Default: nothing is written.
    pub pipeline_cache: Option<PathBuf>,
}

/// What sort of adapter it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// A graphics card with memory of its own.
    Discrete,
    /// A GPU that shares the memory of the CPU.
    Integrated,
    /// A GPU given to a virtual machine.
    Virtual,
    /// The driver does not say.
    Unknown,
    /// A GPU simulated on the CPU.
    Software,
}

impl std::fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Unknown => "unknown",
            Self::Software => "software",
        })
    }
}

/// The facts of one adapter.
#[derive(Clone, Debug)]
pub struct AdapterInfo {
    /// The name that the driver gives.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// The API: `Vulkan`, `Metal`, `Dx12`, `BrowserWebGpu`.
    pub api: String,
    /// What sort of adapter.
    pub kind: AdapterKind,
    /// The largest storage binding, bytes.
    pub max_binding: u64,
    /// Storage buffers of a shader stage.
    pub storage_buffers: u32,
    /// Threads of a workgroup.
    pub workgroup_threads: u32,
    /// Shared memory of a workgroup, bytes.
    pub shared_memory: u32,
    /// Smallest and largest subgroup; 0 where the driver does not say.
    pub subgroup: (u32, u32),
    /// Whether shaders may use subgroup operations.
    pub subgroups: bool,
    /// Whether shaders may use f16.
    pub f16: bool,
    /// Rounds of all loops of a shader together after which the driver ends it without a word, where it does.
    pub max_rounds: Option<usize>,
}

/// The device that a backend runs on.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// For people: `CPU (2 threads)`, `NVIDIA … (Vulkan)`.
    pub name: String,
    /// The adapter; `None` on the CPU backend.
    pub adapter: Option<AdapterInfo>,
    /// Threads of the CPU backend; `None` on a GPU.
    pub threads: Option<usize>,
}

impl DeviceInfo {
    /// The CPU backend.
    pub fn cpu() -> Self {
        #[cfg(not(target_arch = "wasm32"))]
        let threads = rayon::current_num_threads();
        #[cfg(target_arch = "wasm32")]
        let threads = 1;
        Self { name: format!("CPU ({threads} thread{})", if threads == 1 { "" } else { "s" }), adapter: None, threads: Some(threads) }
    }

    /// A GPU.
    pub fn gpu(adapter: AdapterInfo) -> Self {
        Self { name: format!("{} ({})", adapter.name, adapter.api), adapter: Some(adapter), threads: None }
    }

    pub(crate) fn shadowed(mut self) -> Self {
        self.name.push_str(", every kernel checked against the CPU");
        self
    }
}

/// The GPUs of this machine, in the order that indices count.
pub async fn adapters() -> Vec<AdapterInfo> {
    gpu::enumerate().await.into_iter().map(|adapter| adapter.info).collect()
}

pub(crate) enum Selected {
    Cpu,
    Gpu(gpu::Found),
}

/// Chooses the device, or says what there is instead.
pub(crate) async fn select(options: &DeviceOptions) -> Result<Selected> {
    if options.device == DeviceChoice::Cpu {
        return Ok(Selected::Cpu);
    }
    let mut found = gpu::enumerate().await;
    let adapters: Vec<AdapterInfo> = found.iter().map(|adapter| adapter.info.clone()).collect();
    Ok(choose(options, &adapters)?.map_or(Selected::Cpu, |index| Selected::Gpu(found.swap_remove(index))))
}

/// The index of the adapter that options choose among `found`; `None` is the CPU. The environment's `WGPU_ADAPTER_NAME` counts
/// where the options name no device. Error: [`Error::NoAdapter`].
pub fn choose(options: &DeviceOptions, found: &[AdapterInfo]) -> Result<Option<usize>> {
    let list = match found.len() {
        0 => "this machine has none".to_string(),
        _ => format!("there is {}", found.iter().map(|a| format!("{:?} ({})", a.name, a.kind)).collect::<Vec<_>>().join(", ")),
    };
    let named = |text: &str| {
        let text = text.to_lowercase();
        found.iter().position(|a| a.name.to_lowercase().contains(&text) || a.driver.to_lowercase().contains(&text))
    };
    let wanted = std::env::var("WGPU_ADAPTER_NAME").ok().filter(|name| !name.is_empty());
    let best = |software: bool| {
        let usable = found.iter().enumerate().filter(|(_, a)| software || a.kind != AdapterKind::Software);
        usable.min_by_key(|(_, a)| a.kind).map(|(i, _)| i)
    };
    let none = |reason: String| Error::NoAdapter { reason };
    Ok(match (&options.device, &wanted) {
        (DeviceChoice::Cpu, _) => None,
        (DeviceChoice::Index(index), _) if *index < found.len() => Some(*index),
        (DeviceChoice::Index(index), _) => return Err(none(format!("index {index} asked for; {list}"))),
        (DeviceChoice::Name(name), _) => Some(named(name).ok_or_else(|| none(format!("{name:?} asked for; {list}")))?),
        (_, Some(name)) => Some(named(name).ok_or_else(|| none(format!("WGPU_ADAPTER_NAME asks for {name:?}; {list}")))?),
        (DeviceChoice::Auto, None) => best(options.allow_software),
        (DeviceChoice::Gpu, None) => Some(best(options.allow_software).ok_or_else(|| none(format!("no hardware GPU; {list}")))?),
        (DeviceChoice::Shadow, None) => Some(best(true).ok_or_else(|| none(list))?),
    })
}
