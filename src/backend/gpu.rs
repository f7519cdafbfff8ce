//! The GPU backend, and the only file that knows wgpu: adapters, pipelines, bind groups, submits and read-backs.
//!
//! All parameters of a plan lie in one uniform buffer at dynamic offsets; bind groups are shared by the dispatches that bind the
//! same buffers, so the loops of a plan need no more of them than one loop.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::backend::Span;
use crate::backend::device::{AdapterInfo, AdapterKind, DeviceInfo};
use crate::backend::pass::Pass;
use crate::backend::wgsl;
use crate::error::{Error, Result};
use crate::kernel::{AnyKernel, Tier};
use crate::tensor::BufferId;

/// Dispatches per submit: long work is split, so that no submit runs into a driver's time limit.
const DISPATCHES_PER_SUBMIT: usize = 64;

/// Bytes of writes after which a submit is made.
const MOST_UNSUBMITTED: usize = 64 << 20;

/// What every device must offer (WebGPU's defaults).
const STORAGE_BUFFERS: u32 = 8;
const WORKGROUP_THREADS: u32 = 256;
const SHARED_MEMORY: u32 = 16 << 10;

/// An adapter with its facts.
pub(crate) struct Found {
    adapter: wgpu::Adapter,
    pub info: AdapterInfo,
}

/// A device that a program made itself, to run models beside its own work.
#[cfg(feature = "wgpu-interop")]
pub struct OwnDevice {
    /// The adapter that the device came from: its facts choose the kernels' shapes.
    pub adapter: wgpu::Adapter,
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
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

fn facts(adapter: &wgpu::Adapter) -> AdapterInfo {
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
fn tier(info: &AdapterInfo, features: wgpu::Features) -> Tier {
    match info.kind {
        AdapterKind::Software => Tier::SOFTWARE,
        // Some drivers report a subgroup size of 0: then nothing is known, and nothing is risked.
        _ if features.contains(wgpu::Features::SUBGROUP) && info.subgroup.0 >= 4 => Tier::SUBGROUPS,
        _ => Tier::BASELINE,
    }
}

struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// A device, its pipelines and its buffers.
pub(crate) struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: DeviceInfo,
    tier: Tier,
    max_binding: u64,
    pipelines: HashMap<&'static str, Arc<Pipeline>>,
    buffers: Vec<wgpu::Buffer>,
    staging: Option<wgpu::Buffer>,
    /// Bytes written since the last submit.
    unsubmitted: usize,
    /// The first thing that went wrong outside a call that could have returned it. Nothing runs after it.
    fault: Arc<Mutex<Option<Fault>>>,
}

#[derive(Clone)]
enum Fault {
    OutOfMemory(String),
    Validation(String),
    Lost(String),
}

/// A pass with everything made that replaying needs.
pub(crate) struct Plan {
    steps: Vec<Step>,
}

struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    offset: u32,
    grid: [u32; 3],
}

impl Gpu {
    /// Makes a device with the adapter's binding size and the baseline of everything else.
    pub async fn open(found: &Found, forced: Option<Tier>) -> Result<Self> {
        let info = &found.info;
        check_size(info)?;
        let features = found.adapter.features() & wgpu::Features::SUBGROUP;
        let own = found.adapter.limits();
        let required_limits = wgpu::Limits {
            max_storage_buffer_binding_size: own.max_storage_buffer_binding_size,
            max_buffer_size: own.max_buffer_size,
            ..wgpu::Limits::default()
        };
        let descriptor =
            wgpu::DeviceDescriptor { label: Some("refrain"), required_features: features, required_limits, ..Default::default() };
        let (device, queue) = found
            .adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::Gpu { doing: format!("opening {}", info.name), reason: e.to_string() })?;
        Ok(Self::with(device, queue, info.clone(), forced))
    }

    /// Takes over a device that the program made.
    #[cfg(feature = "wgpu-interop")]
    pub fn adopt(own: OwnDevice, forced: Option<Tier>) -> Result<Self> {
        let mut info = facts(&own.adapter);
        let limits = own.device.limits();
        info.max_binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        info.storage_buffers = limits.max_storage_buffers_per_shader_stage;
        info.workgroup_threads = limits.max_compute_invocations_per_workgroup;
        info.shared_memory = limits.max_compute_workgroup_storage_size;
        check_size(&info)?;
        Ok(Self::with(own.device, own.queue, info, forced))
    }

    fn with(device: wgpu::Device, queue: wgpu::Queue, info: AdapterInfo, forced: Option<Tier>) -> Self {
        let fault = Arc::new(Mutex::new(None));
        let first = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let fault = match &error {
                wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory(error.to_string()),
                _ => Fault::Validation(error.to_string()),
            };
            keep_first(&first, fault);
        }));
        let first = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            // The program's own `destroy`, or the end of the program, is reported here too; it only matters to a later call.
            keep_first(&first, Fault::Lost(format!("{reason:?}: {message}")));
        });
        let tier = forced.unwrap_or_else(|| tier(&info, device.features()));
        Self {
            max_binding: info.max_binding,
            info: DeviceInfo::gpu(info),
            tier,
            device,
            queue,
            pipelines: HashMap::new(),
            buffers: Vec::new(),
            staging: None,
            unsubmitted: 0,
            fault,
        }
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    pub fn tier(&self) -> Tier {
        self.tier
    }

    pub fn max_binding(&self) -> u64 {
        self.max_binding
    }

    /// A zeroed buffer.
    pub fn alloc(&mut self, what: &str, words: usize) -> Result<BufferId> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = self.buffer(what, words as u64 * 4, usage);
        self.check(&format!("allocating {what}"))?;
        self.buffers.push(buffer);
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn buffer(&self, what: &str, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false })
    }

    /// Overwrites words from `offset` on.
    pub fn write(&mut self, id: BufferId, offset: usize, data: &[f32]) {
        self.queue.write_buffer(&self.buffers[id.0 as usize], offset as u64 * 4, bytemuck::cast_slice(data));
        // Written bytes wait in host memory for the next submit: a load must not pile up a whole model there.
        self.unsubmitted += data.len() * 4;
        if self.unsubmitted > MOST_UNSUBMITTED {
            self.queue.submit([]);
            self.unsubmitted = 0;
        }
    }

    /// Compiles what is missing and lays out parameters and bind groups.
    pub fn plan(&mut self, pass: &Pass) -> Result<Plan> {
        let align = self.device.limits().min_uniform_buffer_offset_alignment as usize;
        let mut params = vec![0u8; pass.dispatches.len() * align];
        for (slot, dispatch) in params.chunks_mut(align).zip(&pass.dispatches) {
            slot[..dispatch.params.len()].copy_from_slice(&dispatch.params);
        }
        let uniforms =
            self.buffer("parameters", params.len().max(align) as u64, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
        self.queue.write_buffer(&uniforms, 0, &params);
        let mut groups: HashMap<(&str, &[BufferId]), wgpu::BindGroup> = HashMap::new();
        let mut steps = Vec::with_capacity(pass.dispatches.len());
        for (i, dispatch) in pass.dispatches.iter().enumerate() {
            let pipeline = self.pipeline(dispatch.kernel)?;
            let bind_group = groups
                .entry((dispatch.kernel.name(), &dispatch.buffers))
                .or_insert_with(|| self.bind_group(&pipeline, dispatch.kernel, &uniforms, &dispatch.buffers))
                .clone();
            let grid = dispatch.grid.map(|n| n as u32);
            steps.push(Step { pipeline, bind_group, offset: (i * align) as u32, grid });
        }
        self.check("preparing a pass")?;
        Ok(Plan { steps })
    }

    fn pipeline(&mut self, kernel: &'static dyn AnyKernel) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = self.pipelines.get(kernel.name()) {
            return Ok(pipeline.clone());
        }
        let label = Some(kernel.name());
        let text = wgsl::source(kernel, &self.tier);
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
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        self.check(&format!("compiling kernel {}", kernel.name()))?;
        let pipeline = Arc::new(Pipeline { pipeline, layout });
        self.pipelines.insert(kernel.name(), pipeline.clone());
        Ok(pipeline)
    }

    fn bind_group(&self, pipeline: &Pipeline, kernel: &dyn AnyKernel, uniforms: &wgpu::Buffer, buffers: &[BufferId]) -> wgpu::BindGroup {
        let size = wgpu::BufferSize::new(kernel.fields().len() as u64 * 4);
        let params = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: uniforms, offset: 0, size });
        let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: params }];
        entries.extend(
            buffers
                .iter()
                .enumerate()
                .map(|(i, id)| wgpu::BindGroupEntry { binding: i as u32 + 1, resource: self.buffers[id.0 as usize].as_entire_binding() }),
        );
        let descriptor = wgpu::BindGroupDescriptor { label: Some(kernel.name()), layout: &pipeline.layout, entries: &entries };
        self.device.create_bind_group(&descriptor)
    }

    /// Submits dispatches of a plan; returns the number of submits.
    pub fn run(&mut self, plan: &Plan, range: Range<usize>) -> Result<u64> {
        self.check("running a pass")?;
        let mut submits = 0;
        for steps in plan.steps[range].chunks(DISPATCHES_PER_SUBMIT) {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: None });
                for step in steps {
                    pass.set_pipeline(&step.pipeline.pipeline);
                    pass.set_bind_group(0, &step.bind_group, &[step.offset]);
                    pass.dispatch_workgroups(step.grid[0], step.grid[1], step.grid[2]);
                }
            }
            self.queue.submit([encoder.finish()]);
            submits += 1;
        }
        Ok(submits)
    }

    /// Copies the spans into one staging buffer, waits once, and hands out the words.
    pub async fn read(&mut self, spans: &[Span]) -> Result<Vec<Vec<f32>>> {
        self.check("running a pass")?;
        let bytes = spans.iter().map(|s| s.len as u64 * 4).sum::<u64>().max(4);
        // Taken out while it is mapped: a caller that drops this future leaves no half-mapped buffer behind.
        let staging = match self.staging.take() {
            Some(staging) if staging.size() >= bytes => staging,
            _ => {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                let staging = self.buffer("staging", bytes.next_power_of_two(), usage);
                self.check("allocating a staging buffer")?;
                staging
            }
        };
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        let mut offset = 0;
        for span in spans {
            let source = &self.buffers[span.buffer.0 as usize];
            encoder.copy_buffer_to_buffer(source, span.offset as u64 * 4, &staging, offset, span.len as u64 * 4);
            offset += span.len as u64 * 4;
        }
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            let _ = sender.send(result); // Nobody waits any more if the caller dropped the future.
        });
        // In a browser this does nothing and the await below yields to the event loop.
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        let mapped = match polled {
            Ok(_) => receiver.await,
            Err(error) => return Err(self.failure("waiting for the device", &error.to_string())),
        };
        let reason = match mapped {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the device went away".to_string()),
        };
        if let Some(reason) = reason {
            return Err(self.failure("reading results", &reason));
        }
        let mut read = Vec::with_capacity(spans.len());
        {
            let view = match staging.get_mapped_range(0..bytes) {
                Ok(view) => view,
                Err(error) => return Err(self.failure("reading results", &error.to_string())),
            };
            let mut rest: &[u8] = &view;
            for span in spans {
                let (head, tail) = rest.split_at(span.len * 4);
                read.push(bytemuck::pod_collect_to_vec(head));
                rest = tail;
            }
        }
        staging.unmap();
        self.staging = Some(staging);
        self.check("running a pass")?;
        Ok(read)
    }

    /// The recorded fault if there is one, else an error of this call.
    fn failure(&self, doing: &str, reason: &str) -> Error {
        self.check(doing).err().unwrap_or_else(|| Error::Gpu { doing: doing.to_string(), reason: reason.to_string() })
    }

    /// An error if anything went wrong so far: after a validation error the results mean nothing.
    fn check(&self, doing: &str) -> Result<()> {
        let fault = self.fault.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        match fault {
            None => Ok(()),
            Some(Fault::OutOfMemory(reason)) => {
                Err(Error::TooSmall { what: doing.to_string(), needed: "more GPU memory".into(), available: reason })
            }
            Some(Fault::Validation(reason)) => Err(Error::Gpu { doing: doing.to_string(), reason }),
            Some(Fault::Lost(reason)) => Err(Error::DeviceLost { reason }),
        }
    }
}

fn keep_first(slot: &Mutex<Option<Fault>>, fault: Fault) {
    slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(fault);
}

/// Refuses an adapter below WebGPU's defaults.
fn check_size(info: &AdapterInfo) -> Result<()> {
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
