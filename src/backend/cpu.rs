//! The CPU backend: a buffer is a vector, a dispatch is a call of the kernel's twin. Exact reference, and the fallback where
//! there is no GPU.

use web_time::Instant;

use crate::backend::pass::{Dispatch, Pass};
use crate::backend::profile::Profile;
use crate::backend::{GATE_LIVE, new_gate};
use crate::kernel::Link;
use crate::tensor::BufferId;

/// Buffers in host memory. Words of `u32` tensors are kept as the bits of `f32`.
pub(crate) struct Cpu {
    buffers: Vec<Vec<f32>>,
    /// Where the time of every twin is written down, if it is.
    pub profile: Option<Profile>,
}

impl Cpu {
    /// A memory that holds the gate, and nothing else.
    pub fn new() -> Self {
        Self { buffers: vec![bytemuck::cast_slice(&new_gate()).to_vec()], profile: None }
    }

    /// Whether the gate keeps a dispatch from running.
    fn keeps_out(&self, dispatch: &Dispatch) -> bool {
        dispatch.gated && dispatch.kernel.links().contains(&Link::Gate) && self.buffers[0][GATE_LIVE].to_bits() == 0
    }

    /// A zeroed buffer, or `None` where the memory cannot be had.
    pub fn alloc(&mut self, words: usize) -> Option<BufferId> {
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(words).ok()?;
        buffer.resize(words, 0.0);
        self.buffers.push(buffer);
        Some(BufferId(self.buffers.len() as u32 - 1))
    }

    /// Overwrites words from `offset` on.
    pub fn write(&mut self, id: BufferId, offset: usize, data: &[f32]) {
        self.buffers[id.0 as usize][offset..offset + data.len()].copy_from_slice(data);
    }

    /// Words `offset..offset + len` of a buffer.
    pub fn read(&self, id: BufferId, offset: usize, len: usize) -> &[f32] {
        &self.buffers[id.0 as usize][offset..offset + len]
    }

    /// Words of a buffer.
    pub fn len(&self, id: BufferId) -> usize {
        self.buffers[id.0 as usize].len()
    }

    /// Runs every dispatch in order: from within the pool of threads, where handing out the shares of a product wakes nobody.
    pub fn run(&mut self, pass: &Pass) {
        let mut run = || (0..pass.dispatches.len()).for_each(|i| self.run_one(pass, i));
        #[cfg(not(target_arch = "wasm32"))]
        rayon::scope(|_| run());
        #[cfg(target_arch = "wasm32")]
        run();
    }

    /// Runs dispatch `index` of a pass.
    pub fn run_one(&mut self, pass: &Pass, index: usize) {
        let dispatch = &pass.dispatches[index];
        if self.keeps_out(dispatch) {
            return;
        }
        let (reads, writes) = dispatch.buffers.split_at(dispatch.reads);
        // Written buffers are moved out so that they can be borrowed mutably while the others are read; a pass never binds them twice.
        let mut taken: Vec<Vec<f32>> = writes.iter().map(|id| std::mem::take(&mut self.buffers[id.0 as usize])).collect();
        {
            let reads: Vec<&[f32]> = reads.iter().map(|id| self.buffers[id.0 as usize].as_slice()).collect();
            let writes = taken.iter_mut().map(Vec::as_mut_slice).collect();
            let begin = self.profile.as_ref().map(|_| Instant::now());
            dispatch.kernel.run_twin(&dispatch.params, dispatch.load.precision, &reads, writes);
            if let (Some(profile), Some(begin)) = (&mut self.profile, begin) {
                profile.ran(dispatch.load, begin);
            }
        }
        for (id, buffer) in writes.iter().zip(taken) {
            self.buffers[id.0 as usize] = buffer;
        }
    }
}
