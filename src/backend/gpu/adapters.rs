//! The adapters of this machine, their facts, and what is chosen by them.

use crate::backend::device::{AdapterInfo, AdapterKind};
use crate::error::{Error, Result};
use crate::kernel::Tier;

/// What every device must offer (WebGPU's defaults).
const STORAGE_BUFFERS: u32 = 8;
const WORKGROUP_THREADS: u32 = 256;
const SHARED_MEMORY: u32 = 16 << 10;

/// An adapter with its facts.
pub(crate) struct Found {
    pub(super) adapter: wgpu::Adapter,
    pub info: AdapterInfo,
}

/// Vulkan, Metal, DX12 and WebGPU adapters, best kind first within the order of the drivers.
pub(crate) async fn enumerate() -> Vec<Found> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12 | wgpu::Backends::BROWSER_WEBGPU;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() });
    #[cfg(not(target_arch = "wasm32"))]
    let adapters = instance.enumerate_adapters(backends).await;
    // A browser hands out one adapter, the one that it thinks best.
    #[cfg(target_arch = "wasm32")]
    let adapters: Vec<wgpu::Adapter> = {
        let options = wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
        instance.request_adapter(&options).await.into_iter().collect()
    };
    adapters.into_iter().map(|adapter| Found { info: facts(&adapter), adapter }).collect()
}

pub(super) fn facts(adapter: &wgpu::Adapter) -> AdapterInfo {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    AdapterInfo {
        // Mesa's llvmpipe: LP_MAX_TGSI_LOOP_ITERATIONS.
        max_rounds: info.name.contains("llvmpipe").then_some(65_535),
        driver: [info.driver.as_str(), info.driver_info.as_str()].join(" ").trim().to_string(),
        name: info.name,
        api: format!("{:?}", info.backend),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
            wgpu::DeviceType::Other => AdapterKind::Unknown,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
        },
        max_binding: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
        storage_buffers: limits.max_storage_buffers_per_shader_stage,
        workgroup_threads: limits.max_compute_invocations_per_workgroup,
        shared_memory: limits.max_compute_workgroup_storage_size,
        subgroup: (info.subgroup_min_size, info.subgroup_max_size),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        f16: features.contains(wgpu::Features::SHADER_F16),
    }
}

/// The tier for an adapter's facts.
pub(crate) fn tier(info: &AdapterInfo) -> Tier {
    let (with, without) = match info.kind {
        AdapterKind::Software => (Tier::SOFTWARE_SUBGROUPS, Tier::SOFTWARE),
        _ => (Tier::SUBGROUPS, Tier::BASELINE),
    };
    // Some drivers report a subgroup size of 0: then nothing is known, and nothing is risked.
    if info.subgroups && info.subgroup.0 >= with.least_subgroup() { with } else { without }
}

/// Refuses an adapter below WebGPU's defaults.
pub(super) fn check_size(info: &AdapterInfo) -> Result<()> {
    let too_small = |what: &str, needed: u32, available: u32| {
        Err(Error::TooSmall { what: format!("{}: {what}", info.name), needed: needed.to_string(), available: available.to_string() })
    };
    if info.storage_buffers < STORAGE_BUFFERS {
        return too_small("storage buffers of a shader", STORAGE_BUFFERS, info.storage_buffers);
    }
    if info.workgroup_threads < WORKGROUP_THREADS {
        return too_small("threads of a workgroup", WORKGROUP_THREADS, info.workgroup_threads);
    }
    if info.shared_memory < SHARED_MEMORY {
        return too_small("bytes of shared memory", SHARED_MEMORY, info.shared_memory);
    }
    Ok(())
}
