//! The GPU backend, and the only place that knows wgpu: pipelines, bind groups, submits; below it adapters and looks.
//!
//! The parameters of all plans lie in one uniform buffer at dynamic offsets, and a bind group is made once for a kernel and its
//! buffers: a plan for another number of rows costs no more than its parameters. What is run waits in an open command encoder until
//! there is enough of it for a submit, or until something is written or looked at.

mod adapters;
mod clock;
mod looks;
mod pipelines;

pub(crate) use adapters::{Found, enumerate, tier};
pub(crate) use looks::Look;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use web_time::Instant;

use crate::backend::device::{AdapterInfo, DeviceInfo};
use crate::backend::pass::Pass;
use crate::backend::profile::Load;
use crate::backend::{GATE_LIVE, new_gate};
use crate::error::{Error, Result};
use crate::kernel::{AnyKernel, Tier};
use crate::precision::Precision;
use crate::tensor::BufferId;
use adapters::check_size;
use clock::Stopwatch;
use pipelines::{Kept, Pipeline};

/// Dispatches per submit: long work is split, so that no submit runs into a driver's time limit.
const DISPATCHES_PER_SUBMIT: usize = 64;

/// Dispatches whose parameters there is room for. When they are used up, all plans are made anew.
const SLOTS: usize = 8192;

/// Bytes from the parameters of one dispatch to the next: no device may ask for more.
const ALIGN: usize = 256;

/// Bytes of the parameters of all dispatches.
pub(super) const PARAMS_BYTES: usize = SLOTS * ALIGN;

/// Bytes of writes after which a submit is made.
const MOST_UNSUBMITTED: usize = 64 << 20;

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

/// A device, its pipelines and its buffers.
pub(crate) struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: DeviceInfo,
    tier: Tier,
    max_binding: u64,
    pipelines: HashMap<(&'static str, Precision), Arc<Pipeline>>,
    /// What was compiled before, for whoever asked for it.
    kept: Option<Kept>,
    bind_groups: HashMap<(&'static str, Vec<BufferId>), wgpu::BindGroup>,
    gate: Gate,
    /// The parameters of all plans, and how many dispatches have theirs there.
    params: wgpu::Buffer,
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
    /// What writes down how long each dispatch takes, while anybody wants to know.
    stopwatch: Option<Box<Stopwatch>>,
    /// The first thing that went wrong outside a call that could have returned it, or the loss of the device. Nothing runs after it.
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
    load: Load,
    /// Where the gate is read, for a kernel that asks it.
    gate: Option<u32>,
}

impl Step {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>, gate: &Gate) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[self.offset]);
        if let Some(offset) = self.gate {
            pass.set_bind_group(1, &gate.bind_group, &[offset]);
        }
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

impl Gpu {
    /// Makes a device with the adapter's binding size and the baseline of everything else. What it compiles is kept in the folder `keep`.
    pub async fn open(found: &Found, forced: Option<Tier>, keep: Option<&Path>) -> Result<Self> {
        let info = &found.info;
        check_size(info)?;
        let mut features = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        features.set(wgpu::Features::PIPELINE_CACHE, keep.is_some());
        features &= found.adapter.features();
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
        let kept = keep.and_then(|folder| Kept::open(&device, &found.adapter.get_info(), folder));
        let mut gpu = Self::with(device, queue, info.clone(), forced);
        gpu.kept = kept;
        Ok(gpu)
    }

    /// Takes over a device that the program made.
    #[cfg(feature = "wgpu-interop")]
    pub fn adopt(own: OwnDevice, forced: Option<Tier>) -> Result<Self> {
        let mut info = adapters::facts(&own.adapter);
        let limits = own.device.limits();
        info.max_binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        info.storage_buffers = limits.max_storage_buffers_per_shader_stage;
        info.workgroup_threads = limits.max_compute_invocations_per_workgroup;
        info.shared_memory = limits.max_compute_workgroup_storage_size;
        info.subgroups = own.device.features().contains(wgpu::Features::SUBGROUP);
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
            locked(&first).get_or_insert(fault);
        }));
        let first = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            // The program's own `destroy`, or the end of the program, is reported here too; it only matters to a later call. What went wrong
            // before it is told comes of it.
            *locked(&first) = Some(Fault::Lost(format!("{reason:?}: {message}")));
        });
        let tier = forced.unwrap_or_else(|| tier(&info));
        let (gate_buffer, gate) = make_gate(&device, &queue);
        let params = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: PARAMS_BYTES as u64,
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
            kept: None,
            bind_groups: HashMap::new(),
            gate,
            params,
            used: 0,
            epoch: 0,
            buffers: vec![gate_buffer],
            staging: Vec::new(),
            open: None,
            submits: 0,
            unsubmitted: 0,
            stopwatch: None,
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
        self.compile(pass)?;
        let mut params = vec![0u8; count * ALIGN];
        let mut steps = Vec::with_capacity(count);
        for (i, (slot, dispatch)) in params.chunks_mut(ALIGN).zip(&pass.dispatches).enumerate() {
            slot[..dispatch.params.len()].copy_from_slice(&dispatch.params);
            let Some(pipeline) = self.pipelines.get(&(dispatch.kernel.name(), dispatch.load.precision)).cloned() else { continue };
            let bind_group = self.bind_group(&pipeline, dispatch.kernel, &dispatch.buffers);
            let gate = pipeline.gated.then_some(if dispatch.gated { GATE_LIVE as u32 * 4 } else { 0 });
            let (offset, grid) = (((self.used + i) * ALIGN) as u32, dispatch.load.grid.map(|n| n as u32));
            steps.push(Step { pipeline, bind_group, offset, grid, load: dispatch.load, gate });
        }
        self.queue.write_buffer(&self.params, (self.used * ALIGN) as u64, &params);
        self.used += count;
        self.check("preparing a pass")?;
        Ok(Plan { steps, epoch: self.epoch })
    }

    /// Whether a plan's parameters are still there.
    pub fn is_current(&self, plan: &Plan) -> bool {
        plan.epoch == self.epoch
    }

    /// Bytes of the buffers through which results are read.
    pub fn staging_bytes(&self) -> usize {
        self.staging.iter().map(|staging| staging.size() as usize).sum()
    }

    /// Command buffers submitted so far.
    pub fn submits(&self) -> u64 {
        self.submits
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
        // Without timestamps each is waited for.
        let most = if self.stopwatch.as_ref().is_some_and(|watch| watch.waits()) { 1 } else { DISPATCHES_PER_SUBMIT };
        for steps in plan.steps[range].chunks(most) {
            let open = self.open.get_or_insert_with(|| Open {
                encoder: self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None }),
                dispatches: 0,
            });
            match &mut self.stopwatch {
                None => {
                    let mut pass = open.encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: None });
                    steps.iter().for_each(|step| step.encode(&mut pass, &self.gate));
                }
                // A pass for each: that is what has a beginning and an end.
                Some(watch) => steps.iter().for_each(|step| step.encode(&mut watch.pass(&mut open.encoder, step.load), &self.gate)),
            }
            open.dispatches += steps.len();
            if open.dispatches >= most {
                self.flush();
            }
            if most == 1 {
                self.round_trip(steps[0].load)?;
            }
        }
        Ok(())
    }

    /// Submits what is encoded.
    fn flush(&mut self) {
        if let Some(open) = self.open.take() {
            self.submit(open.encoder);
        }
    }

    /// Hands over an encoder's commands.
    fn submit(&mut self, mut encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        if let Some(watch) = &mut self.stopwatch {
            watch.close(&self.device, &mut encoder);
        }
        let begin = self.stopwatch.as_ref().map(|_| Instant::now());
        let submission = self.queue.submit([encoder.finish()]);
        if let (Some(watch), Some(begin)) = (&mut self.stopwatch, begin) {
            watch.profile.did("submit", begin);
        }
        self.submits += 1;
        self.unsubmitted = 0;
        submission
    }

    /// The recorded fault if there is one, else an error of this call.
    fn failure(&self, doing: &str, reason: &str) -> Error {
        self.hear_of_loss();
        self.check(doing).err().unwrap_or_else(|| Error::Gpu { doing: doing.to_string(), reason: reason.to_string() })
    }

    /// Gives a lost device the time to say so: on the way there its buffers are invalid already, and whatever is done with them fails.
    fn hear_of_loss(&self) {
        let idle = wgpu::PollType::Wait { submission_index: None, timeout: Some(Duration::from_secs(5)) };
        let _ = self.device.poll(idle); // How it ends tells nothing: what counts is whether the callback was called.
    }

    /// An error if anything went wrong so far: after a validation error the results mean nothing.
    fn check(&self, doing: &str) -> Result<()> {
        if matches!(*locked(&self.fault), Some(Fault::OutOfMemory(_) | Fault::Validation(_))) {
            self.hear_of_loss();
        }
        let fault = locked(&self.fault).clone();
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

impl Drop for Gpu {
    /// In a browser memory that is only let go of stays until the garbage collector comes, and it does not know how much that is.
    fn drop(&mut self) {
        self.buffers.iter().chain(&self.staging).chain([&self.params]).for_each(wgpu::Buffer::destroy);
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

fn locked(fault: &Mutex<Option<Fault>>) -> MutexGuard<'_, Option<Fault>> {
    fault.lock().unwrap_or_else(PoisonError::into_inner)
}
