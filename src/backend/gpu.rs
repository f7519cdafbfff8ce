//! The GPU backend, and the only file that knows wgpu: adapters, pipelines, bind groups, submits and read-backs.
//!
//! The parameters of all plans lie in one uniform buffer at dynamic offsets, and a bind group is made once for a kernel and its
//! buffers: a plan for another number of rows costs no more than its parameters. What is run waits in an open command encoder until
//! there is enough of it for a submit, or until something is written or looked at.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::backend::Span;
use crate::backend::device::{AdapterInfo, AdapterKind, DeviceInfo};
use crate::backend::pass::Pass;
use crate::backend::{GATE_LIVE, new_gate, wgsl};
use crate::error::{Error, Result};
use crate::kernel::{AnyKernel, Link, Tier};
use crate::tensor::BufferId;

/// Dispatches per submit: long work is split, so that no submit runs into a driver's time limit.
const DISPATCHES_PER_SUBMIT: usize = 64;

/// Dispatches whose parameters there is room for. When they are used up, all plans are made anew.
const SLOTS: usize = 8192;

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
    /// Whether it asks the gate.
    gated: bool,
}

/// The gate as the shaders see it: a uniform that is either always 1 or says whether the pass is needed.
struct Gate {
    layout: wgpu::BindGroupLayout,
    bind_group: wgpu::BindGroup,
}

/// Dispatches that are encoded and not submitted yet.
struct Open {
    encoder: wgpu::CommandEncoder,
    dispatches: usize,
}

/// Words on their way into a mapped buffer.
pub(crate) struct Look {
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    arrived: futures_channel::oneshot::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
    lens: Vec<usize>,
}

/// A device, its pipelines and its buffers.
pub(crate) struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: DeviceInfo,
    tier: Tier,
    max_binding: u64,
    pipelines: HashMap<&'static str, Arc<Pipeline>>,
    bind_groups: HashMap<(&'static str, Vec<BufferId>), wgpu::BindGroup>,
    gate: Gate,
    /// The parameters of all plans, and how many dispatches have theirs there.
    params: wgpu::Buffer,
    align: usize,
    used: usize,
    /// How often the parameters were begun anew.
    epoch: usize,
    /// Buffer 0 is the gate.
    buffers: Vec<wgpu::Buffer>,
    staging: Vec<wgpu::Buffer>,
    open: Option<Open>,
    submits: u64,
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
    epoch: usize,
}

struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    offset: u32,
    grid: [u32; 3],
    /// Where the gate is read, for a kernel that asks it.
    gate: Option<u32>,
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
        let align = device.limits().min_uniform_buffer_offset_alignment as usize;
        let (gate_buffer, gate) = make_gate(&device, &queue);
        let params = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: (SLOTS * align) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Self {
            max_binding: info.max_binding,
            info: DeviceInfo::gpu(info),
            tier,
            device,
            queue,
            pipelines: HashMap::new(),
            bind_groups: HashMap::new(),
            gate,
            params,
            align,
            used: 0,
            epoch: 0,
            buffers: vec![gate_buffer],
            staging: Vec::new(),
            open: None,
            submits: 0,
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
        // A write takes place before what is submitted after it: what should come first has to go first.
        self.flush();
        self.prepare(id, offset, data);
    }

    /// As [`write`](Self::write), but it may take place before what was run and not looked at yet. Saves a submit.
    pub fn prepare(&mut self, id: BufferId, offset: usize, data: &[f32]) {
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
        let count = pass.dispatches.len();
        if count > SLOTS {
            return Err(Error::Gpu { doing: "preparing a pass".into(), reason: format!("{count} dispatches, at most {SLOTS}") });
        }
        if self.used + count > SLOTS {
            // What still needs the old parameters goes before they are overwritten.
            self.flush();
            (self.used, self.epoch) = (0, self.epoch + 1);
        }
        let mut params = vec![0u8; count * self.align];
        let mut steps = Vec::with_capacity(count);
        for (i, (slot, dispatch)) in params.chunks_mut(self.align).zip(&pass.dispatches).enumerate() {
            slot[..dispatch.params.len()].copy_from_slice(&dispatch.params);
            let pipeline = self.pipeline(dispatch.kernel)?;
            let bind_group = self.bind_group(&pipeline, dispatch.kernel, &dispatch.buffers);
            let gate = pipeline.gated.then_some(if dispatch.gated { GATE_LIVE as u32 * 4 } else { 0 });
            let (offset, grid) = (((self.used + i) * self.align) as u32, dispatch.grid.map(|n| n as u32));
            steps.push(Step { pipeline, bind_group, offset, grid, gate });
        }
        self.queue.write_buffer(&self.params, (self.used * self.align) as u64, &params);
        self.used += count;
        self.check("preparing a pass")?;
        Ok(Plan { steps, epoch: self.epoch })
    }

    /// Whether a plan's parameters are still there.
    pub fn is_current(&self, plan: &Plan) -> bool {
        plan.epoch == self.epoch
    }

    /// Command buffers submitted so far.
    pub fn submits(&self) -> u64 {
        self.submits
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
        let gated = kernel.links().contains(&Link::Gate);
        let groups = [Some(&layout), Some(&self.gate.layout)];
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: if gated { &groups } else { &groups[..1] },
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
        let pipeline = Arc::new(Pipeline { pipeline, layout, gated });
        self.pipelines.insert(kernel.name(), pipeline.clone());
        Ok(pipeline)
    }

    fn bind_group(&mut self, pipeline: &Pipeline, kernel: &dyn AnyKernel, buffers: &[BufferId]) -> wgpu::BindGroup {
        let key = (kernel.name(), buffers.to_vec());
        if let Some(bind_group) = self.bind_groups.get(&key) {
            return bind_group.clone();
        }
        let size = wgpu::BufferSize::new(kernel.fields().len() as u64 * 4);
        let params = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &self.params, offset: 0, size });
        let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: params }];
        entries.extend(
            buffers
                .iter()
                .enumerate()
                .map(|(i, id)| wgpu::BindGroupEntry { binding: i as u32 + 1, resource: self.buffers[id.0 as usize].as_entire_binding() }),
        );
        let descriptor = wgpu::BindGroupDescriptor { label: Some(kernel.name()), layout: &pipeline.layout, entries: &entries };
        let bind_group = self.device.create_bind_group(&descriptor);
        self.bind_groups.insert(key, bind_group.clone());
        bind_group
    }

    /// Encodes dispatches of a plan; submits them as they come to be enough.
    pub fn run(&mut self, plan: &Plan, range: Range<usize>) -> Result<()> {
        self.check("running a pass")?;
        if !self.is_current(plan) {
            return Err(Error::Usage { reason: "the parameters of this plan have been overwritten".into() });
        }
        for steps in plan.steps[range].chunks(DISPATCHES_PER_SUBMIT) {
            let open = self.open.get_or_insert_with(|| Open {
                encoder: self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None }),
                dispatches: 0,
            });
            let mut pass = open.encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: None });
            for step in steps {
                pass.set_pipeline(&step.pipeline.pipeline);
                pass.set_bind_group(0, &step.bind_group, &[step.offset]);
                if let Some(offset) = step.gate {
                    pass.set_bind_group(1, &self.gate.bind_group, &[offset]);
                }
                pass.dispatch_workgroups(step.grid[0], step.grid[1], step.grid[2]);
            }
            drop(pass);
            open.dispatches += steps.len();
            if open.dispatches >= DISPATCHES_PER_SUBMIT {
                self.flush();
            }
        }
        Ok(())
    }

    /// Submits what is encoded.
    fn flush(&mut self) {
        if let Some(open) = self.open.take() {
            self.queue.submit([open.encoder.finish()]);
            self.submits += 1;
        }
    }

    /// Copies the spans into one staging buffer and asks for it to be mapped, after all that was run before.
    pub fn look(&mut self, spans: &[Span]) -> Result<Look> {
        self.check("running a pass")?;
        let bytes = spans.iter().map(|s| s.len as u64 * 4).sum::<u64>().max(4);
        // Taken out while it is mapped: a caller that drops the look leaves no half-mapped buffer behind.
        let staging = match self.staging.iter().position(|staging| staging.size() >= bytes) {
            Some(at) => self.staging.swap_remove(at),
            None => {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                let staging = self.buffer("staging", bytes.next_power_of_two(), usage);
                self.check("allocating a staging buffer")?;
                staging
            }
        };
        let mut encoder = match self.open.take() {
            Some(open) => open.encoder,
            None => self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None }),
        };
        let mut offset = 0;
        for span in spans {
            let source = &self.buffers[span.buffer.0 as usize];
            encoder.copy_buffer_to_buffer(source, span.offset as u64 * 4, &staging, offset, span.len as u64 * 4);
            offset += span.len as u64 * 4;
        }
        let submission = self.queue.submit([encoder.finish()]);
        self.submits += 1;
        let (sender, arrived) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            let _ = sender.send(result); // Nobody waits any more if the look was dropped.
        });
        Ok(Look { staging, submission, arrived, lens: spans.iter().map(|span| span.len).collect() })
    }

    /// Waits for a look, and no longer: what was submitted after it goes on.
    pub async fn take(&mut self, look: Look) -> Result<Vec<Vec<f32>>> {
        let Look { staging, submission, arrived, lens } = look;
        // In a browser this does nothing and the await below yields to the event loop.
        let polled = self.device.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None });
        let mapped = match polled {
            Ok(_) => arrived.await,
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
        let bytes = lens.iter().map(|len| *len as u64 * 4).sum::<u64>().max(4);
        let mut read = Vec::with_capacity(lens.len());
        {
            let view = match staging.get_mapped_range(0..bytes) {
                Ok(view) => view,
                Err(error) => return Err(self.failure("reading results", &error.to_string())),
            };
            let mut rest: &[u8] = &view;
            for len in lens {
                let (head, tail) = rest.split_at(len * 4);
                read.push(bytemuck::pod_collect_to_vec(head));
                rest = tail;
            }
        }
        self.forget_staging(staging);
        self.check("running a pass")?;
        Ok(read)
    }

    /// Gives up a look.
    pub fn forget(&mut self, look: Look) {
        // Unmapping ends a mapping that is still on its way, too.
        self.forget_staging(look.staging);
    }

    fn forget_staging(&mut self, staging: wgpu::Buffer) {
        staging.unmap();
        self.staging.push(staging);
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

/// The gate, always open until a pass decides otherwise, with its binding.
fn make_gate(device: &wgpu::Device, queue: &wgpu::Queue) -> (wgpu::Buffer, Gate) {
    let (label, words) = (Some("gate"), new_gate());
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let size = size_of_val(&words) as u64;
    let buffer = device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false });
    queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&words));
    let binding_size = wgpu::BufferSize::new(16);
    let ty = wgpu::BindingType::Buffer { ty: wgpu::BufferBindingType::Uniform, has_dynamic_offset: true, min_binding_size: binding_size };
    let entry = wgpu::BindGroupLayoutEntry { binding: 0, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None };
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &[entry] });
    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &buffer, offset: 0, size: binding_size });
    let entries = [wgpu::BindGroupEntry { binding: 0, resource }];
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout: &layout, entries: &entries });
    (buffer, Gate { layout, bind_group })
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
