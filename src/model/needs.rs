//! What a model takes on a device, from its config alone: known before anything is loaded.

use super::config::{Attention, Config};
use super::defaults::Defaults;
use super::sizes::{Sizes, check_kernels};
use super::{Options, work};
use crate::error::{Error, Result};
use crate::tensor::stride;

/// The sizes that a model would be loaded with, and the memory that follows. Work tensors, which are small beside the rest, and
/// the padding of rows to multiples of four numbers do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Positions of each sequence.
    pub context: usize,
    /// Loops that the cache has slots for.
    pub loops: usize,
    /// Sequences.
    pub sequences: usize,
    /// Bytes of the weights, in f32.
    pub weights: u64,
    /// Bytes of the cache of all sequences.
    pub cache: u64,
    /// Bytes of the states at which the loop stands at every cached position, of all sequences.
    pub states: u64,
    /// The largest piece that must lie in one binding: all else is cut as small as the device asks for.
    pub largest: &'static str,
    /// Bytes of that piece.
    pub largest_bytes: u64,
}

impl Needs {
    /// What loading a model of this config with these options takes. Errors: those of options that no device can serve.
    pub fn of(config: &Config, defaults: &Defaults, options: &Options) -> Result<Self> {
        let sizes = Sizes::choose(config, defaults, options)?;
        let parameters = config.parameters();
        let positions = sizes.sequences as u64 * sizes.context as u64;
        let (largest, largest_bytes) = largest_piece(config, &sizes);
        Ok(Self {
            context: sizes.context,
            loops: sizes.loops,
            sequences: sizes.sequences,
            weights: (parameters.total + parameters.buffers) * 4,
            cache: config.cache_bytes_per_token(sizes.loops).saturating_mul(positions),
            states: positions.saturating_mul(config.state_bytes_per_token()),
            largest,
            largest_bytes,
        })
    }

    /// [`Error::TooSmall`] where a device whose bindings have at most `max_binding` bytes cannot run the model. Whether it has
    /// enough memory is not known before it is asked for: devices do not tell.
    pub fn check(&self, config: &Config, max_binding: u64) -> Result<()> {
        check_kernels(config)?;
        if self.largest_bytes <= max_binding {
            return Ok(());
        }
        Err(Error::TooSmall {
            what: self.largest.into(),
            needed: format!("{} MiB in one binding", self.largest_bytes.div_ceil(1 << 20)),
            available: format!("{} MiB", max_binding >> 20),
        })
    }
}

fn largest_piece(config: &Config, sizes: &Sizes) -> (&'static str, u64) {
    let matrix = |rows: usize, cols: usize| (rows as u64).saturating_mul(stride(cols) as u64 * 4);
    let head = match config.attention {
        Attention::Gqa { .. } => 0,
        Attention::Mla { kv_lora_rank, q_lora_rank, nope, v, .. } => {
            matrix(nope, q_lora_rank).max(matrix(kv_lora_rank, nope)).max(matrix(v, kv_lora_rank))
        }
    };
    let expert = matrix(2 * config.expert_dim, config.dim).max(matrix(config.dim, config.expert_dim));
    let pieces = [
        ("a slot of the cache", matrix(sizes.sequences.saturating_mul(sizes.context), config.cache_width())),
        ("the states of all positions", matrix(sizes.sequences.saturating_mul(sizes.context), config.dim)),
        ("a matrix of one expert", expert),
        ("a matrix of one head", head),
        ("the router", matrix(config.n_experts, config.dim)),
        ("the LoRA", matrix(config.lora_rank, config.dim).max(matrix(config.max_loop_iters, config.lora_rank))),
        ("the loop embeddings", matrix(sizes.loops, config.dim)),
        ("the RoPE table", matrix(sizes.context, config.rope_dim())),
        ("one row's work", 4 * work::widest(config) as u64),
    ];
    pieces.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or_default()
}
