//! A backend's memory: tensors, matrices in parts that fit a binding, writes; and a backend that only counts them.

use crate::backend::device::{self, AdapterKind, DeviceInfo, DeviceOptions};
use crate::backend::{Backend, Counters, Engine, GATE_MARKS, MOST_MARKS, gpu};
use crate::error::{Error, Result};
use crate::kernel::Tier;
use crate::precision::Precision;
use crate::tensor::{BufferId, Dtype, Matrix, Part, Segmented, Tensor, stride};

impl Backend {
    /// A backend that allocates nothing and runs nothing: it counts what a model would take on the device of `info`.
    pub fn imagined(info: &DeviceInfo, options: &DeviceOptions) -> Self {
        let tier = options.tier.unwrap_or_else(|| info.adapter.as_ref().map_or(Tier::SOFTWARE, gpu::tier));
        let own = info.adapter.as_ref().map_or(device::CPU_BINDING, |adapter| adapter.max_binding);
        Self::with(Engine::Imagined(1), info.clone(), options, tier, own)
    }

    /// As [`imagined`](Self::imagined), for the device of this backend.
    pub fn imagine(&self) -> Self {
        // The memory is known, or cannot be: nobody asks the machine again.
        let options = DeviceOptions { tier: Some(self.tier), memory: self.memory, ..Default::default() };
        Self { max_words: self.max_words, ..Self::imagined(&self.info, &options) }
    }

    pub(super) fn with(engine: Engine, info: DeviceInfo, options: &DeviceOptions, tier: Tier, own: u64) -> Self {
        let max_bytes = options.max_binding.unwrap_or(own).min(own);
        let cols = GATE_MARKS + MOST_MARKS;
        let gate = Tensor { buffer: BufferId(0), rows: 1, cols, stride: cols, dtype: Dtype::U32 };
        Self {
            engine,
            tier,
            // Where addresses have 32 bits, no array of the host's may be larger than half of them.
            max_words: usize::try_from(max_bytes / 4).unwrap_or(isize::MAX as usize / 4),
            allocated: 4 * cols as u64 + if info.adapter.is_some() { gpu::PARAMS_BYTES as u64 } else { 0 },
            memory: options.memory.or_else(|| shares_memory(&info).then(host_memory).flatten()),
            info,
            gate,
            counters: Counters::default(),
            kernels: Default::default(),
        }
    }

    /// Bytes allocated so far.
    pub fn allocated_bytes(&self) -> u64 {
        let staging = match &self.engine {
            Engine::Gpu(gpu) | Engine::Shadow(_, gpu) => gpu.staging_bytes() as u64,
            Engine::Cpu(_) | Engine::Imagined(_) => 0,
        };
        self.allocated + staging
    }

    /// Bytes that the device had for a model when it was opened, where that is known: graphics cards do not tell.
    pub fn memory(&self) -> Option<u64> {
        self.memory
    }

    /// A zeroed `(rows, cols)` tensor. `what` names it in an error: [`Error::TooSmall`] past [`max_words`](Self::max_words), or where
    /// all that is allocated here would be more than [`memory`](Self::memory).
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
        let left = self.memory.map_or(u64::MAX, |memory| memory.saturating_sub(self.allocated));
        // An imagined device counts what there is no room for, too.
        if 4 * words as u64 > left && !matches!(self.engine, Engine::Imagined(_)) {
            return Err(Error::TooSmall {
                what: what.to_string(),
                needed: format!("{} bytes", 4 * words),
                available: format!("room for {left}"),
            });
        }
        let buffer = match &mut self.engine {
            Engine::Cpu(cpu) => cpu.alloc(words),
            Engine::Gpu(gpu) => Some(gpu.alloc(what, words)?),
            Engine::Shadow(cpu, gpu) => cpu.alloc(words).and(Some(gpu.alloc(what, words)?)),
            Engine::Imagined(buffers) => {
                *buffers += 1;
                Some(BufferId(*buffers - 1))
            }
        };
        let buffer = buffer.ok_or_else(|| Error::TooSmall {
            what: what.to_string(),
            needed: format!("{} MiB", words.div_ceil(1 << 18)),
            available: "less memory than that".to_string(),
        })?;
        self.allocated += 4 * words as u64;
        Ok(Tensor { buffer, rows, cols, stride, dtype })
    }

    /// A zeroed `(rows, cols)` array in as few parts as the binding limit allows. Parts start at multiples of `unit` rows
    /// (1, or the rows of a cache slot), which stay together.
    pub fn segmented(&mut self, what: &str, rows: usize, cols: usize, unit: usize) -> Result<Segmented> {
        let part_rows = self.part_rows(rows, unit, stride(cols));
        let firsts = (0..rows).step_by(part_rows);
        let parts = firsts.map(|first| self.tensor(what, Dtype::F32, part_rows.min(rows - first), cols)).collect::<Result<_>>()?;
        Ok(Segmented { parts, part_rows, rows, cols })
    }

    /// Rows of a part: as many units as fit a binding, at least one. Rows have `words` words.
    fn part_rows(&self, rows: usize, unit: usize, words: usize) -> usize {
        let units = self.max_words / unit.saturating_mul(words).max(1);
        unit * units.clamp(1, rows.div_ceil(unit).max(1))
    }

    /// A `(rows, cols)` matrix of zeros in a precision, in parts as [`segmented`](Self::segmented) cuts them.
    pub fn matrix(&mut self, what: &str, precision: Precision, rows: usize, cols: usize, unit: usize) -> Result<Matrix> {
        let (words, scale_words) = (precision.words(cols), precision.scale_words(cols));
        let part_rows = self.part_rows(rows, unit, words);
        let mut parts = Vec::new();
        for first in (0..rows).step_by(part_rows) {
            let rows = part_rows.min(rows - first);
            let data = self.tensor(what, Dtype::Weights(precision), rows, words)?;
            let scales = match scale_words {
                0 => Tensor { dtype: Dtype::U32, ..data },
                // Flat, since the scales of a row need not fill up 16 bytes.
                words => self.tensor(what, Dtype::U32, 1, rows * words)?,
            };
            parts.push(Part { data, scales });
        }
        Ok(Matrix { parts, part_rows, rows, cols, precision })
    }

    /// Writes rows of a matrix from row `first` on: `data` in words of whole rows, `scales` likewise.
    pub fn write_matrix(&mut self, matrix: &Matrix, first: usize, data: &[f32], scales: &[f32]) -> Result<()> {
        let (words, scale_words) = (matrix.precision.words(matrix.cols), matrix.precision.scale_words(matrix.cols));
        let rows = data.len() / words;
        for (start, part) in matrix.parts() {
            let (from, to) = (first.max(start), (first + rows).min(start + part.data.rows));
            if from < to {
                let range = |words: usize| (from - first) * words..(to - first) * words;
                self.write(&part.data, (from - start) * words, &data[range(words)])?;
                if scale_words > 0 {
                    self.write(&part.scales, (from - start) * scale_words, &scales[range(scale_words)])?;
                }
            }
        }
        Ok(())
    }

    /// Overwrites words of a tensor from word `offset` on. Data past the end is [`Error::Usage`].
    pub fn write(&mut self, tensor: &Tensor, offset: usize, data: &[f32]) -> Result<()> {
        check_write(tensor, offset, data)?;
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.write(tensor.buffer, offset, data),
            Engine::Gpu(gpu) => gpu.write(tensor.buffer, offset, data),
            Engine::Shadow(cpu, gpu) => {
                cpu.write(tensor.buffer, offset, data);
                gpu.write(tensor.buffer, offset, data);
            }
            Engine::Imagined(_) => {}
        }
        Ok(())
    }

    /// As [`write`](Self::write), for words that nothing needs which was run since the last look: it may take place before that.
    pub(crate) fn prepare(&mut self, tensor: &Tensor, offset: usize, data: &[f32]) -> Result<()> {
        match &mut self.engine {
            Engine::Gpu(gpu) => {
                check_write(tensor, offset, data)?;
                gpu.prepare(tensor.buffer, offset, data);
                Ok(())
            }
            _ => self.write(tensor, offset, data),
        }
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
}

fn check_write(tensor: &Tensor, offset: usize, data: &[f32]) -> Result<()> {
    if offset + data.len() <= tensor.rows.max(1) * tensor.stride {
        return Ok(());
    }
    Err(Error::Usage { reason: format!("a write of {} words at {offset} does not fit the tensor", data.len()) })
}

/// The fault of running something on a backend that only counts.
pub(super) fn imagined() -> Error {
    Error::Usage { reason: "an imagined device runs nothing".into() }
}

/// Whether a device takes its memory from the host's.
fn shares_memory(info: &DeviceInfo) -> bool {
    info.adapter.as_ref().is_none_or(|adapter| matches!(adapter.kind, AdapterKind::Integrated | AdapterKind::Software))
}

/// Bytes of memory that this machine, or the container in it, has to spare.
#[cfg(not(target_arch = "wasm32"))]
fn host_memory() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let container = system.cgroup_limits().map(|limits| limits.free_memory);
    let free = system.available_memory();
    Some(container.map_or(free, |container| container.min(free))).filter(|free| *free > 0)
}

#[cfg(target_arch = "wasm32")]
fn host_memory() -> Option<u64> {
    None
}
