//! The sizes that were published for OpenMythos, from a billion parameters to a trillion: those of the functions `mythos_1b` … `mythos_1t`
//! in version 0.5.0 of the `open-mythos` package. Nobody has published weights for them.

use crate::model::config::{Attention, Config};

/// Their names, the smallest first.
pub const NAMES: [&str; SIZES.len()] = {
    let mut names = [""; SIZES.len()];
    let mut i = 0;
    while i < SIZES.len() {
        names[i] = SIZES[i].name;
        i += 1;
    }
    names
};

/// The config of this name; `None` unless it is one of [`NAMES`].
pub fn config(name: &str) -> Option<Config> {
    SIZES.iter().find(|size| size.name == name).map(Size::config)
}

/// What tells one from another.
struct Size {
    name: &'static str,
    dim: usize,
    heads: usize,
    /// Dense blocks before the loop, and as many after it.
    layers: usize,
    /// Latent vectors: of keys and values, of queries.
    latent: [usize; 2],
    /// Numbers of a head: that RoPE turns, that it leaves alone, of the value.
    head: [usize; 3],
    /// Routed experts, shared ones, routed ones that a token uses, hidden size of one.
    experts: [usize; 4],
    loops: usize,
    context: usize,
    vocabulary: usize,
    lora: usize,
    theta: f64,
    output: usize,
}

/// The table, a column a number:
/// name, dim, heads, layers, latent, head, experts, loops, context, vocabulary, rank of the LoRA, RoPE's base, output tokens.
#[rustfmt::skip]
const SIZES: [Size; 7] = [
    size("mythos_1b",    2048,  16, 2, [ 256,  512], [32,  64,  64], [ 64, 2, 4,  2048], 16,      4096,  32_000,   8, 5e5,   4096),
    size("mythos_3b",    3072,  24, 2, [ 384,  768], [32,  96,  96], [ 64, 2, 4,  4096], 16,      4096,  32_000,   8, 5e5,   4096),
    size("mythos_10b",   4096,  32, 2, [ 512, 1024], [64, 128, 128], [128, 2, 4,  5632], 24,      8192,  32_000,  16, 5e5,   4096),
    size("mythos_50b",   6144,  48, 3, [ 512, 1536], [64, 128, 128], [256, 4, 4,  9728], 32,      8192,  32_000,  32, 5e5,   4096),
    size("mythos_100b",  8192,  64, 4, [ 512, 2048], [64, 128, 128], [256, 4, 8, 13568], 32, 1_000_000,  32_000,  64, 1e6, 131_072),
    size("mythos_500b", 12288,  96, 4, [1024, 3072], [64, 128, 128], [512, 8, 8, 23040], 48, 1_000_000, 100_000, 128, 1e6, 131_072),
    size("mythos_1t",   16384, 128, 6, [1024, 4096], [64, 128, 128], [512, 8, 8, 34560], 64, 1_000_000, 100_000, 256, 2e6, 131_072),
];

#[allow(clippy::too_many_arguments)] // a row of the table
const fn size(
    name: &'static str,
    dim: usize,
    heads: usize,
    layers: usize,
    latent: [usize; 2],
    head: [usize; 3],
    experts: [usize; 4],
    loops: usize,
    context: usize,
    vocabulary: usize,
    lora: usize,
    theta: f64,
    output: usize,
) -> Size {
    Size { name, dim, heads, layers, latent, head, experts, loops, context, vocabulary, lora, theta, output }
}

impl Size {
    fn config(&self) -> Config {
        let ([kv_lora_rank, q_lora_rank], [rope, nope, v]) = (self.latent, self.head);
        let [n_experts, n_shared_experts, n_experts_per_tok, expert_dim] = self.experts;
        Config {
            vocab_size: self.vocabulary,
            dim: self.dim,
            n_heads: self.heads,
            max_seq_len: self.context,
            max_loop_iters: self.loops,
            prelude_layers: self.layers,
            coda_layers: self.layers,
            attention: Attention::Mla { kv_lora_rank, q_lora_rank, rope, nope, v },
            n_experts,
            n_shared_experts,
            n_experts_per_tok,
            expert_dim,
            lora_rank: self.lora,
            max_output_tokens: self.output,
            act_threshold: 0.99,
            rope_theta: self.theta,
        }
    }
}
