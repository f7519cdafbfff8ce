//! How long each dispatch takes: by the device's timestamps where it has them, else by the host's clock around one at a time.

use web_time::Instant;

use crate::backend::gpu::{DISPATCHES_PER_SUBMIT, Gpu};
use crate::backend::profile::{Clock, DispatchTime, Load, Profile};
use crate::error::{Error, Result};
use crate::precision::Precision;

/// Dispatches of one command buffer at most: what was left open is less than a submit, and so much again comes to it.
const MOST: u32 = 2 * DISPATCHES_PER_SUBMIT as u32;

/// Waits by which the clocks of device and host are compared.
const WAITS: usize = 5;

/// Bytes of a timestamp.
const BYTES: u64 = wgpu::QUERY_SIZE as u64;

/// A profile that is being written.
pub(super) struct Stopwatch {
    pub profile: Profile,
    /// Of a device with timestamps.
    queries: Option<Queries>,
}

/// Timestamps of one command buffer, two a dispatch, and what was copied of them.
struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Seconds of a tick.
    tick: f64,
    /// Dispatches of the command buffer that is open.
    open: Vec<Load>,
    /// Those of earlier ones, with the buffers that their timestamps were copied to.
    closed: Vec<(wgpu::Buffer, Vec<Load>)>,
}

impl Stopwatch {
    fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Self { profile: Profile::new(Clock::RoundTrip), queries: None };
        }
        let label = Some("timestamps");
        let set = device.create_query_set(&wgpu::QuerySetDescriptor { label, ty: wgpu::QueryType::Timestamp, count: 2 * MOST });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let size = 2 * u64::from(MOST) * BYTES;
        let resolved = device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false });
        let tick = f64::from(queue.get_timestamp_period()) * 1e-9;
        let queries = Queries { set, resolved, tick, open: Vec::new(), closed: Vec::new() };
        Self { profile: Profile::new(Clock::Device), queries: Some(queries) }
    }

    /// Whether every dispatch has to be waited for.
    pub fn waits(&self) -> bool {
        self.queries.is_none()
    }

    /// A pass for one dispatch.
    pub fn pass<'a>(&mut self, encoder: &'a mut wgpu::CommandEncoder, load: Load) -> wgpu::ComputePass<'a> {
        let timestamp_writes = self.queries.as_mut().map(|queries| {
            let first = 2 * queries.open.len() as u32;
            queries.open.push(load);
            wgpu::ComputePassTimestampWrites {
                query_set: &queries.set,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }
        });
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes })
    }

    /// Ends a command buffer: its timestamps are copied to where the host will read them.
    pub fn close(&mut self, device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder) {
        let Some(queries) = self.queries.as_mut().filter(|queries| !queries.open.is_empty()) else { return };
        let (count, usage) = (2 * queries.open.len() as u32, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let size = u64::from(count) * BYTES;
        let label = Some("timestamps to be read");
        let read = device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false });
        encoder.resolve_query_set(&queries.set, 0..count, &queries.resolved, 0);
        encoder.copy_buffer_to_buffer(&queries.resolved, 0, &read, 0, size);
        queries.closed.push((read, std::mem::take(&mut queries.open)));
    }
}

impl Gpu {
    /// Starts a profile, from what is handed over from here on.
    pub fn start_profile(&mut self) -> Result<()> {
        self.flush();
        let watch = Stopwatch::new(&self.device, &self.queue);
        if watch.waits() && cfg!(target_arch = "wasm32") {
            return Err(Error::Gpu { doing: "timing kernels".into(), reason: "this browser gives no timestamps".into() });
        }
        // Else a kernel would be timed that began behind others.
        self.poll("waiting for the device", wgpu::PollType::wait_indefinitely())?;
        self.stopwatch = Some(Box::new(watch));
        self.check("making a query set")
    }

    /// Waits for a dispatch that was submitted alone, and writes down how long that took.
    pub(super) fn round_trip(&mut self, load: Load) -> Result<()> {
        let begin = Instant::now();
        self.poll("waiting for a kernel", wgpu::PollType::wait_indefinitely())?;
        if let Some(watch) = &mut self.stopwatch {
            // It began when it was submitted, and that is the last thing that the host did.
            let begin = watch.profile.host.last().map_or_else(|| watch.profile.at(begin), |submit| submit.begin);
            let seconds = watch.profile.at(Instant::now()) - begin;
            watch.profile.dispatches.push(DispatchTime { load, begin, seconds });
        }
        Ok(())
    }

    /// Ends the profile and returns it, if there is one.
    pub async fn take_profile(&mut self) -> Result<Option<Profile>> {
        self.flush();
        let Some(Stopwatch { mut profile, queries }) = self.stopwatch.take().map(|watch| *watch) else { return Ok(None) };
        let Some(mut queries) = queries else { return Ok(Some(profile)) };
        let batches = std::mem::take(&mut queries.closed);
        if batches.is_empty() {
            return Ok(Some(profile));
        }
        let mut loads = Vec::new();
        let mut ticks: Vec<u64> = Vec::new();
        for (buffer, batch) in batches {
            ticks.extend(self.ticks(&buffer).await?);
            loads.extend(batch);
        }
        let (tick, first) = (queries.tick, ticks[0]);
        let since = |ticks: u64| ticks.wrapping_sub(first) as i64 as f64 * tick;
        // When it was the first tick by the host's clock: an empty pass has ended by the time that the host has waited for it, the least
        // of several waits ago.
        let none = Load { kernel: "", precision: Precision::F32, rows: None, grid: [0; 3], bytes: 0, flops: 0 };
        let mut watch = Stopwatch { profile: Profile::new(Clock::Device), queries: Some(queries) };
        let mut zero = f64::INFINITY;
        for _ in 0..WAITS {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
            drop(watch.pass(&mut encoder, none));
            watch.close(&self.device, &mut encoder);
            self.queue.submit([encoder.finish()]);
            if let Some((buffer, _)) = watch.queries.as_mut().and_then(|queries| queries.closed.pop()) {
                let ended = self.ticks(&buffer).await?[1];
                zero = zero.min(profile.at(Instant::now()) - since(ended));
            }
        }
        profile.dispatches.extend(loads.into_iter().zip(ticks.chunks_exact(2)).map(|(load, ticks)| DispatchTime {
            load,
            begin: zero + since(ticks[0]),
            seconds: (since(ticks[1]) - since(ticks[0])).max(0.0),
        }));
        self.check("reading timestamps")?;
        Ok(Some(profile))
    }

    /// The timestamps that were copied to a buffer.
    async fn ticks(&self, buffer: &wgpu::Buffer) -> Result<Vec<u64>> {
        let (sender, arrived) = futures_channel::oneshot::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result); // Nobody waits any more if the profile was dropped.
        });
        self.poll("reading timestamps", wgpu::PollType::wait_indefinitely())?;
        let failed = |reason: &str| self.failure("reading timestamps", reason);
        match arrived.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(&error.to_string())),
            Err(_) => return Err(failed("the device went away")),
        }
        let view = buffer.get_mapped_range(..).map_err(|error| failed(&error.to_string()))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }

    fn poll(&self, doing: &str, how: wgpu::PollType) -> Result<()> {
        self.device.poll(how).map(|_| ()).map_err(|error| self.failure(doing, &error.to_string()))
    }
}
