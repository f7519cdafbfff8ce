//! A pass is a list of dispatches, recorded without a device at hand; a backend turns it into a plan that can be replayed.

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
    pub grid: Grid,
    /// How the weights among its arguments are stored; f32 where there are none.
    pub precision: Precision,
    /// Whether it is left out once the gate is closed.
    pub gated: bool,
}

/// Dispatches in order. Each sees what those before it wrote.
pub struct Pass {
    tier: Tier,
    gated: bool,
    weights: u64,
    pub(crate) dispatches: Vec<Dispatch>,
}

impl Pass {
    /// An empty pass for devices of this tier.
    pub fn new(tier: Tier) -> Self {
        Self { tier, gated: false, weights: 0, dispatches: Vec::new() }
    }

    /// Makes what is recorded from here on depend on the gate: it is left out where the gate is closed.
    pub fn gated(&mut self) {
        self.gated = true;
    }

    /// Counts bytes of weights that the dispatch recorded next reads, at most.
    pub(crate) fn touch(&mut self, bytes: usize) {
        self.weights += bytes as u64;
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
        let (params, precision) = (bytemuck::bytes_of(&params).to_vec(), precision.unwrap_or(Precision::F32));
        self.dispatches.push(Dispatch { kernel, params, buffers, reads: R, grid, precision, gated: self.gated });
        Ok(())
    }
}

/// WebGPU's limit for every dimension of a grid.
const MAX_GROUPS: usize = 65_535;

fn pairs<'a>(args: &'a [Arg], tensors: &'a [&'a Tensor]) -> impl Iterator<Item = (&'a Arg, &'a Tensor)> {
    args.iter().zip(tensors.iter().copied())
}
