//! Data on its way back: spans are copied into a staging buffer that is mapped once all that was run before is done.

use web_time::Instant;

use crate::backend::Span;
use crate::backend::gpu::Gpu;
use crate::error::Result;

/// Words on their way into a mapped buffer.
pub(crate) struct Look {
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    arrived: futures_channel::oneshot::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
    lens: Vec<usize>,
}

impl Gpu {
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
        let submission = self.submit(encoder);
        let (sender, arrived) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            let _ = sender.send(result); // Nobody waits any more if the look was dropped.
        });
        Ok(Look { staging, submission, arrived, lens: spans.iter().map(|span| span.len).collect() })
    }

    /// Waits for a look, and no longer: what was submitted after it goes on.
    pub async fn take(&mut self, look: &mut Look) -> Result<Vec<Vec<f32>>> {
        let begin = self.stopwatch.as_ref().map(|_| Instant::now());
        // In a browser this does nothing and the await below yields to the event loop.
        let polled = self.device.poll(wgpu::PollType::Wait { submission_index: Some(look.submission.clone()), timeout: None });
        let mapped = match polled {
            Ok(_) => (&mut look.arrived).await,
            Err(error) => return Err(self.failure("waiting for the device", &error.to_string())),
        };
        if let (Some(watch), Some(begin)) = (&mut self.stopwatch, begin) {
            watch.profile.did("wait", begin);
        }
        let reason = match mapped {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the device went away".to_string()),
        };
        if let Some(reason) = reason {
            return Err(self.failure("reading results", &reason));
        }
        let bytes = look.lens.iter().map(|len| *len as u64 * 4).sum::<u64>().max(4);
        let mut read = Vec::with_capacity(look.lens.len());
        {
            let view = match look.staging.get_mapped_range(0..bytes) {
                Ok(view) => view,
                Err(error) => return Err(self.failure("reading results", &error.to_string())),
            };
            let mut rest: &[u8] = &view;
            for len in &look.lens {
                let (head, tail) = rest.split_at(len * 4);
                read.push(bytemuck::pod_collect_to_vec(head));
                rest = tail;
            }
        }
        self.forget_staging(look.staging.clone());
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
}
