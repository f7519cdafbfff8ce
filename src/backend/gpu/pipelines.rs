//! Pipelines: made when a plan first needs them, those of one plan side by side, with what the driver kept of an earlier run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::gpu::Gpu;
use crate::backend::pass::Pass;
use crate::backend::wgsl;
use crate::error::Result;
use crate::kernel::{AnyKernel, Link};
use crate::precision::Precision;

pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    /// Whether it asks the gate.
    pub gated: bool,
}

impl Gpu {
    /// Compiles what the pass needs and is missing, on all processors: a driver may take a tenth of a second for each.
    pub(super) fn compile(&mut self, pass: &Pass) -> Result<()> {
        let mut missing: BTreeMap<(&'static str, Precision), &'static dyn AnyKernel> = BTreeMap::new();
        for dispatch in &pass.dispatches {
            let key = (dispatch.kernel.name(), dispatch.load.precision);
            if !self.pipelines.contains_key(&key) {
                missing.insert(key, dispatch.kernel);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let make = |(key, kernel): ((&'static str, Precision), &'static dyn AnyKernel)| (key, Arc::new(self.pipeline(kernel, key.1)));
        #[cfg(not(target_arch = "wasm32"))]
        let made: Vec<_> = {
            use rayon::iter::{IntoParallelIterator, ParallelIterator};
            missing.into_par_iter().map(make).collect()
        };
        #[cfg(target_arch = "wasm32")]
        let made: Vec<_> = missing.into_iter().map(make).collect();
        // What went wrong names the kernel.
        self.check("compiling kernels")?;
        self.pipelines.extend(made);
        Ok(())
    }

    fn pipeline(&self, kernel: &'static dyn AnyKernel, precision: Precision) -> Pipeline {
        let label = Some(kernel.name());
        let text = wgsl::source(kernel, &self.tier, precision);
        let module =
            self.device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(text.into()) });
        let (reads, writes) = kernel.args();
        let entry = |binding: usize, ty| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: binding == 0, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
        for i in 0..reads.len() + writes.len() {
            entries.push(entry(i + 1, wgpu::BufferBindingType::Storage { read_only: i < reads.len() }));
        }
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let gated = kernel.links().contains(&Link::Gate);
        let groups = [Some(&layout), Some(&self.gate.layout)];
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: if gated { &groups } else { &groups[..1] },
            immediate_size: 0,
        });
        // Every kernel writes to shared memory what it reads there. To have it zeroed costs time in each workgroup, and where drivers write
        // out store after store a second of compiling.
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions { zero_initialize_workgroup_memory: false, ..Default::default() },
            cache: self.kept.as_ref().map(|kept| &kept.cache),
        });
        Pipeline { pipeline, layout, gated }
    }
}

/// What the driver made of the shaders of earlier runs, in a file. It only saves time: a file that is missing, damaged or of another driver
/// is as good as an empty one, and one that cannot be written is not.
pub(super) struct Kept {
    cache: wgpu::PipelineCache,
    path: PathBuf,
    /// What it held when it was opened; nothing without a file.
    begun: Vec<u8>,
}

impl Kept {
    /// Reads the file of this adapter in a folder, for a device with the feature.
    pub fn open(device: &wgpu::Device, adapter: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        // Of this version alone: nothing can be taken out of such a cache, and the shaders of other versions would stay in it.
        let name = format!("{}_{}.bin", wgpu::util::pipeline_cache_key(adapter)?, env!("CARGO_PKG_VERSION"));
        let path = folder.join(name);
        let data = std::fs::read(&path).ok().and_then(|bytes| unseal(&bytes)).unwrap_or_default();
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data: (!data.is_empty()).then_some(&data), fallback: true };
        // SAFETY: the data were returned by `get_data` and have not changed since: a file with another sum is not used. Somebody who makes
        // up a file with a right sum can as well replace the program, which is in the same hands. wgpu checks adapter and driver.
        #[allow(unsafe_code)]
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        // Not what was read: one driver (SwiftShader) hands back what it is given with another head before it, more each time.
        let begun = if data.is_empty() { data } else { cache.get_data().unwrap_or_default() };
        Some(Self { cache, path, begun })
    }
}

impl Drop for Kept {
    /// Writes the file where there is something new: under another name first, so that nobody ever reads half of it.
    fn drop(&mut self) {
        let Some(data) = self.cache.get_data().filter(|data| *data != self.begun) else { return };
        let part = self.path.with_extension(format!("{}.part", std::process::id()));
        let write = || {
            std::fs::create_dir_all(self.path.parent()?).ok()?;
            std::fs::write(&part, seal(&data)).ok()?;
            std::fs::rename(&part, &self.path).ok()
        };
        if write().is_none() {
            let _ = std::fs::remove_file(&part); // It may not even have been made.
        }
    }
}

/// Data after their sum.
fn seal(data: &[u8]) -> Vec<u8> {
    [&sum(data).to_le_bytes(), data].concat()
}

/// The data of a file whose sum is right.
fn unseal(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, data) = bytes.split_at_checked(8)?;
    (head == sum(data).to_le_bytes()).then(|| data.to_vec())
}

/// FNV-1a: against disks and cut-off files, not against anybody.
fn sum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
