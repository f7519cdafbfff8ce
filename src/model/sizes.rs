//! The sizes that a model is loaded with, and what refuses them: the model's own limits, the kernels', the driver's.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::kernels::{MAX_EXPERTS, attention, recur};
use crate::model::config::{Attention, Config};
use crate::model::defaults::Defaults;
use crate::model::{DEFAULT_CATCH_UP, DEFAULT_CHUNK, DEFAULT_CONTEXT, Options, Pace, Schedule};

/// The sizes that options and defaults come to.
pub(super) struct Sizes {
    pub context: usize,
    pub loops: usize,
    pub sequences: usize,
    pub chunk: usize,
    pub schedule: Schedule,
    pub catch_up: usize,
    pub eager: usize,
    pub pace: Option<Pace>,
}

impl Sizes {
    /// Options first, then the folder's defaults, then the built-in ones. Errors: [`Error::Context`], [`Error::Loops`],
    /// [`Error::Argument`].
    pub fn choose(config: &Config, defaults: &Defaults, options: &Options) -> Result<Self> {
        let at_least_1 = |name: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                return Ok(value);
            }
            Err(Error::Argument { name: name.into(), expected: format!("1 to {most}"), found: value.to_string() })
        };
        let context = options.context.unwrap_or(config.max_seq_len.min(DEFAULT_CONTEXT));
        if context > config.max_seq_len {
            return Err(Error::Context { asked: context, limit: config.max_seq_len, of: "max_seq_len" });
        }
        let loops = options.loops.or(defaults.n_loops).unwrap_or(config.max_loop_iters);
        if !(1..=MAX_LOOPS).contains(&loops) {
            return Err(Error::Loops { asked: loops, limit: MAX_LOOPS, of: "a model" });
        }
        Ok(Self {
            context: at_least_1("context", context, config.max_seq_len)?,
            loops,
            sequences: at_least_1("sequences", options.sequences.unwrap_or(1), 1 << 16)?,
            chunk: at_least_1("chunk", options.chunk.unwrap_or(DEFAULT_CHUNK), 1 << 14)?,
            schedule: options.schedule,
            catch_up: at_least_1("catch-up", options.catch_up.unwrap_or(DEFAULT_CATCH_UP), MAX_CATCH_UP)?,
            eager: options.eager,
            pace: match options.pace {
                Some(pace) => Some(Pace { group: at_least_1("pace", pace.group, MAX_LOOPS)?, ..pace }),
                None => None,
            },
        })
    }
}

/// Rows of a pass at most.
const MAX_CATCH_UP: usize = 1 << 14;

/// More loops than this are a slip of the finger: each costs a slot of the cache and its own dispatches in every plan.
const MAX_LOOPS: usize = 4096;

/// Refuses sizes that a kernel has no room for, or that nobody has tried it with.
pub(super) fn check_kernels(config: &Config) -> Result<()> {
    let (key, value) = key_and_value(config);
    let limits = [
        ("an attention key", key, attention::MAX_KEY),
        ("an attention value", value, attention::MAX_VALUE),
        ("the choice of experts", config.n_experts + config.n_shared_experts * config.n_experts_per_tok, MAX_EXPERTS),
        ("the LoRA rank", config.lora_rank, recur::MAX_RANK),
    ];
    for (what, needed, available) in limits {
        if needed > available {
            return Err(Error::TooSmall {
                what: what.into(),
                needed: format!("{needed} numbers"),
                available: format!("a kernel for at most {available}"),
            });
        }
    }
    Ok(())
}

/// Refuses a context over which a driver would end the attention shader before its time and leave wrong numbers.
pub(super) fn check_driver(config: &Config, sizes: &Sizes, backend: &Backend) -> Result<()> {
    let Some(limit) = backend.info().adapter.as_ref().and_then(|adapter| adapter.max_rounds) else { return Ok(()) };
    let (key, value) = key_and_value(config);
    let needed = attention::rounds(key, value, sizes.context, &backend.tier());
    if needed <= limit {
        return Ok(());
    }
    Err(Error::TooSmall {
        what: format!("attention over {} positions on {}", sizes.context, backend.info().name),
        needed: format!("{needed} rounds of a shader's loops"),
        available: format!("a driver that ends a shader after {limit}"),
    })
}

/// Numbers of a head's key and value, as attention sees them.
fn key_and_value(config: &Config) -> (usize, usize) {
    match config.attention {
        Attention::Gqa { head_dim, .. } => (head_dim, head_dim),
        Attention::Mla { kv_lora_rank, rope, .. } => (kv_lora_rank + rope, kv_lora_rank),
    }
}
