//! A pass is a list of dispatches, recorded without a device at hand; a backend turns it into a plan that can be replayed.

use crate::backend::profile::Load;
use crate::error::{Error, Result};
use crate::kernel::{AnyKernel, Arg, Grid, Kernel, Params, Tier};
use crate::precision::Precision;
use crate::tensor::{BufferId, Dtype, Tensor};

/// One kernel with its parameters, its buffers (reads, then writes) and its grid.
pub(crate) struct Dispatch {
    pub kernel: &'static dyn AnyKernel,
    pub params: Vec<u8>,
    pub buffers: Vec<BufferId>,
    pub reads: usize,
    /// What it has to do, its grid and the precision of its weights among it.
    pub load: Load,
    /// Whether it is left out once the gate is closed.
    pub gated: bool,
}

/// Dispatches in order. Each sees what those before it wrote.
pub struct Pass {
    tier: Tier,
    gated: bool,
    weights: u64,
    /// What was said of the dispatch recorded next: bytes of weights, other bytes, operations.
    said: Option<(u64, u64, u64)>,
    pub(crate) dispatches: Vec<Dispatch>,
}

impl Pass {
    /// An empty pass for devices of this tier.
    pub fn new(tier: Tier) -> Self {
        Self { tier, gated: false, weights: 0, said: None, dispatches: Vec::new() }
    }

    /// Makes what is recorded from here on depend on the gate: it is left out where the gate is closed.
    pub fn gated(&mut self) {
        self.gated = true;
    }

    /// Counts bytes of weights that the dispatch recorded next reads, at most.
    pub(crate) fn touch(&mut self, bytes: usize) {
        self.weights += bytes as u64;
        self.said.get_or_insert_default().0 += bytes as u64;
    }

    /// Says what the dispatch recorded next does besides reading the weights that it touches: bytes that it reads and writes,
    /// each once, and floating-point operations, two for a multiplication with an addition. Only a profile looks at it. Of a kernel that says
    /// nothing at all, the bytes are those of its rows of every tensor that it binds, and nothing is known of its operations.
    pub fn work(&mut self, bytes: usize, flops: usize) {
        let said = self.said.get_or_insert_default();
        said.1 += bytes as u64;
        said.2 += flops as u64;
    }

    /// Bytes of weight matrices that this pass reads: of the experts, those of as many as its rows can choose.
    pub fn weight_bytes(&self) -> u64 {
        self.weights
    }

    /// The tier of the devices that this pass is for.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Whether a device has this many workgroups.
    pub fn fits(&self, grid: Grid) -> bool {
        grid.iter().all(|groups| *groups <= MAX_GROUPS)
    }

    /// Appends a dispatch. A kernel module's own function calls this after checking shapes; here dtypes and aliasing are checked:
    /// WebGPU forbids a buffer that is written to be bound twice.
    pub fn dispatch<P: Params, const R: usize, const W: usize>(
        &mut self,
        kernel: &'static Kernel<P, R, W>,
        params: P,
        reads: [&Tensor; R],
        writes: [&Tensor; W],
    ) -> Result<()> {
        let said = self.said.take();
        let grid = (kernel.grid)(&params, &self.tier);
        let wrong = |reason: String| Error::Usage { reason: format!("kernel {}: {reason}", kernel.name) };
        for (arg, tensor) in pairs(&kernel.reads, &reads).chain(pairs(&kernel.writes, &writes)) {
            if !tensor.dtype.serves_as(arg.dtype) {
                return Err(wrong(format!("{} should hold {:?} and holds {:?}", arg.name, arg.dtype, tensor.dtype)));
            }
        }
        let buffers: Vec<BufferId> = reads.iter().chain(&writes).map(|t| t.buffer).collect();
        for (i, (arg, tensor)) in pairs(&kernel.writes, &writes).enumerate() {
            let itself = R + i;
            if buffers.iter().enumerate().any(|(j, b)| j != itself && *b == tensor.buffer) {
                return Err(wrong(format!("{} is written and bound a second time", arg.name)));
            }
        }
        if !self.fits(grid) {
            return Err(wrong(format!("{grid:?} workgroups, and a device has at most {MAX_GROUPS} in each dimension")));
        }
        if grid.contains(&0) {
            return Ok(());
        }
        let precision = reads.iter().find_map(|tensor| match tensor.dtype {
            Dtype::Weights(precision) => Some(precision),
            _ => None,
        });
        let params = bytemuck::bytes_of(&params).to_vec();
        let rows = P::FIELDS.iter().position(|field| *field == ("rows", "u32")).and_then(|at| params.get(4 * at..4 * at + 4));
        let rows = rows.map(|bytes| bytemuck::pod_read_unaligned::<u32>(bytes) as usize);
        let (weights, others, flops) = said.unwrap_or_else(|| {
            let words = |tensor: &&Tensor| tensor.rows.min(rows.unwrap_or(usize::MAX)) * tensor.stride;
            (0, 4 * reads.iter().chain(&writes).map(words).sum::<usize>() as u64, 0)
        });
        let precision = precision.unwrap_or(Precision::F32);
        let load = Load { kernel: kernel.name, precision, rows, grid, bytes: weights + others, flops };
        self.dispatches.push(Dispatch { kernel, params, buffers, reads: R, load, gated: self.gated });
        Ok(())
    }
}

/// WebGPU's limit for every dimension of a grid.
const MAX_GROUPS: usize = 65_535;

fn pairs<'a>(args: &'a [Arg], tensors: &'a [&'a Tensor]) -> impl Iterator<Item = (&'a Arg, &'a Tensor)> {
    args.iter().zip(tensors.iter().copied())
}
