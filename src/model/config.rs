//! `config.json`: the sizes of a model, and what follows from them: tables, tensors, parameters, cache.
//!
//! The fields are those of `MythosConfig` in version 0.5.0 of the `open-mythos` package; the shapes that follow are in
//! [`Config::tensors`]. Every size has an upper bound, far above the largest published model, so that no product of sizes
//! below overflows. Only `max_output_tokens` has a default (4096, the package's): a wrong guess at any other field would
//! give wrong numbers without a word.

mod json;

use super::files::{Fields, shorten};
use crate::error::Result;
use crate::precision::Precision;

/// The sizes of one model, checked: whoever holds a `Config` need not check them again.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// V: ids of tokens are `0..vocab_size`.
    pub vocab_size: usize,
    /// D: numbers in one row of hidden state.
    pub dim: usize,
    /// H: query heads.
    pub n_heads: usize,
    /// Positions that the model was made for; past them is an error.
    pub max_seq_len: usize,
    /// Default number of loops, and rows of the LoRA scale table.
    pub max_loop_iters: usize,
    /// Dense blocks before the loop; may be 0.
    pub prelude_layers: usize,
    /// Dense blocks after the loop; may be 0.
    pub coda_layers: usize,
    /// The kind of attention, with its sizes.
    pub attention: Attention,
    /// E: routed experts.
    pub n_experts: usize,
    /// S: shared experts; may be 0.
    pub n_shared_experts: usize,
    /// K: routed experts that each token uses.
    pub n_experts_per_tok: usize,
    /// F: hidden size of one routed expert.
    pub expert_dim: usize,
    /// r: rank of the per-loop LoRA adapter.
    pub lora_rank: usize,
    /// Tokens that one generation may add.
    pub max_output_tokens: usize,
    /// Sum of halting probabilities at which a token stops looping, in (0, 1].
    pub act_threshold: f32,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
}

/// The two kinds of attention and the sizes that only they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Grouped-query attention: several query heads read one key/value head.
    Gqa {
        /// Key/value heads; divides `n_heads`.
        n_kv_heads: usize,
        /// dim / n_heads; even, since RoPE turns pairs.
        head_dim: usize,
    },
    /// Multi-head latent attention: keys and values are expanded from one latent vector a token.
    Mla {
        /// Numbers in the cached latent vector.
        kv_lora_rank: usize,
        /// Numbers in the latent vector of the query.
        q_lora_rank: usize,
        /// Numbers of a head's query and key that RoPE turns; even.
        rope: usize,
        /// Numbers of a head's query and key that RoPE leaves alone.
        nope: usize,
        /// Numbers in a head's value.
        v: usize,
    },
}

/// How many numbers the model has. The tied head counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Trained parameters, as PyTorch counts them: `sum(p.numel() for p in model.parameters())`.
    pub total: u64,
    /// Those of them that one token meets: K of the E routed experts; the loop's weights once, however often it runs.
    pub active: u64,
    /// Numbers in the file that are no parameters but buffers in PyTorch: the E of the router's bias.
    pub buffers: u64,
}

/// A tensor that `model.safetensors` must hold, or may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its exact name.
    pub name: String,
    /// Its shape, outermost first; a linear layer's is (out, in).
    pub shape: Vec<usize>,
    /// Whether a file without it is complete.
    pub optional: bool,
    /// Whether it is one of the large matrices, which may be stored in any [`Precision`]. All else (router,
    /// halting head, norms, injection, LoRA) is computed with in f32: a choice that flips costs more than they weigh.
    pub matrix: bool,
}

/// Largest number of elements of any one table or row that the engine itself makes: 1 GiB of f32.
const LARGEST_TABLE: usize = 1 << 28;

impl Config {
    /// Reads and checks `config.json`. `path` is only for messages. Unknown fields are ignored; so are the fields of the
    /// kind of attention that the model does not use.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) where `json` is no JSON object, [`Error::Config`](crate::Error::Config) for
    /// the first field that is missing or impossible.
    pub fn parse(path: &str, json: &[u8]) -> Result<Self> {
        let fields = Fields::parse(path, json)?;
        let vocab_size = fields.size("vocab_size", 1, 1 << 24)?;
        let dim = fields.size("dim", 1, 1 << 18)?;
        let n_heads = fields.size("n_heads", 1, 1 << 12)?;
        let max_seq_len = fields.size("max_seq_len", 1, 1 << 24)?;
        let attention = match fields.word("attn_type")? {
            "gqa" => Self::parse_gqa(&fields, dim, n_heads)?,
            "mla" => Self::parse_mla(&fields)?,
            other => return Err(fields.error("attn_type", "\"gqa\" or \"mla\"", &format!("{:?}", shorten(other)))),
        };
        let config = Self {
            vocab_size,
            dim,
            n_heads,
            max_seq_len,
            max_loop_iters: fields.size("max_loop_iters", 1, 4096)?,
            prelude_layers: fields.size("prelude_layers", 0, 1 << 12)?,
            coda_layers: fields.size("coda_layers", 0, 1 << 12)?,
            attention,
            n_experts: fields.size("n_experts", 1, 1 << 14)?,
            n_shared_experts: fields.size("n_shared_experts", 0, 1 << 8)?,
            n_experts_per_tok: fields.size("n_experts_per_tok", 1, 1 << 14)?,
            expert_dim: fields.size("expert_dim", 1, 1 << 18)?,
            lora_rank: fields.size("lora_rank", 1, 1 << 16)?,
            max_output_tokens: fields.optional_size("max_output_tokens", 1, i32::MAX as usize)?.unwrap_or(4096),
            act_threshold: fields.number("act_threshold", "a number above 0 and at most 1", |x| x as f32 > 0.0 && x <= 1.0)? as f32,
            // Outside these bounds a frequency or an angle would not be a finite f32.
            rope_theta: fields.number("rope_theta", "a number above 0 (from 1e-30 to 1e38)", |x| (1e-30..=1e38).contains(&x))?,
        };
        config.check_products(&fields)?;
        Ok(config)
    }

    fn parse_gqa(fields: &Fields<'_>, dim: usize, n_heads: usize) -> Result<Attention> {
        let n_kv_heads = fields.size("n_kv_heads", 1, 1 << 12)?;
        if !dim.is_multiple_of(n_heads) {
            return Err(fields.error("n_heads", &format!("a divisor of dim ({dim})"), &n_heads.to_string()));
        }
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(fields.error("n_kv_heads", &format!("a divisor of n_heads ({n_heads})"), &n_kv_heads.to_string()));
        }
        let head_dim = dim / n_heads;
        if !head_dim.is_multiple_of(2) {
            return Err(fields.error("dim / n_heads", "an even head size, since RoPE turns pairs", &head_dim.to_string()));
        }
        Ok(Attention::Gqa { n_kv_heads, head_dim })
    }

    fn parse_mla(fields: &Fields<'_>) -> Result<Attention> {
        let rope = fields.size("qk_rope_head_dim", 1, 1 << 13)?;
        if !rope.is_multiple_of(2) {
            return Err(fields.error("qk_rope_head_dim", "an even number, since RoPE turns pairs", &rope.to_string()));
        }
        Ok(Attention::Mla {
            kv_lora_rank: fields.size("kv_lora_rank", 1, 1 << 17)?,
            q_lora_rank: fields.size("q_lora_rank", 1, 1 << 17)?,
            rope,
            nope: fields.size("qk_nope_head_dim", 1, 1 << 13)?,
            v: fields.size("v_head_dim", 1, 1 << 13)?,
        })
    }

    /// What no single field shows: K ≤ E, and products that must fit a 32-bit `usize` (WebAssembly).
    fn check_products(&self, fields: &Fields<'_>) -> Result<()> {
        if self.n_experts_per_tok > self.n_experts {
            let expected = format!("at most n_experts ({})", self.n_experts);
            return Err(fields.error("n_experts_per_tok", &expected, &self.n_experts_per_tok.to_string()));
        }
        let products: [(&str, u64); 2] = [
            (
                "n_shared_experts × expert_dim × n_experts_per_tok",
                self.n_shared_experts as u64 * self.expert_dim as u64 * self.n_experts_per_tok as u64,
            ),
            ("max_seq_len × RoPE size", self.max_seq_len as u64 * self.rope_dim() as u64),
        ];
        for (name, product) in products {
            if product > LARGEST_TABLE as u64 {
                return Err(fields.error(name, &format!("at most {LARGEST_TABLE}"), &product.to_string()));
            }
        }
        Ok(())
    }

    /// Hidden size of a dense block's SwiGLU: floor(4·dim / 3).
    pub fn ffn_dim(&self) -> usize {
        4 * self.dim / 3
    }

    /// Numbers of one head's query and key that RoPE turns: head_dim (GQA) or qk_rope_head_dim (MLA).
    pub fn rope_dim(&self) -> usize {
        match self.attention {
            Attention::Gqa { head_dim, .. } => head_dim,
            Attention::Mla { rope, .. } => rope,
        }
    }

    /// Numbers cached for one token in one slot: keys and values, 2·n_kv_heads·head_dim (GQA), or the latent vector and
    /// the one turned key, kv_lora_rank + rope (MLA).
    pub fn cache_width(&self) -> usize {
        match self.attention {
            Attention::Gqa { n_kv_heads, head_dim } => 2 * n_kv_heads * head_dim,
            Attention::Mla { kv_lora_rank, rope, .. } => kv_lora_rank + rope,
        }
    }

    /// Slots that a token has in the cache: one for each dense block and one for each loop, prelude + coda + loops.
    pub fn cache_slots(&self, loops: usize) -> usize {
        (self.prelude_layers + self.coda_layers).saturating_add(loops)
    }

    /// Bytes of cache for one token in f32: 4 · cache_width · cache_slots(loops).
    pub fn cache_bytes_per_token(&self, loops: usize) -> u64 {
        (self.cache_slots(loops) as u64).saturating_mul(4 * self.cache_width() as u64)
    }

    /// Bytes of a token's state, f32, without the padding of rows: h where its loops stopped, and e.
    pub fn state_bytes_per_token(&self) -> u64 {
        2 * 4 * self.dim as u64
    }

    /// Counts the parameters: total + buffers is every number of a file without `head.weight`, and
    /// active = total − (E − K)·3·D·F.
    pub fn parameters(&self) -> Parameters {
        let elements = |tensor: &TensorSpec| tensor.shape.iter().map(|&n| n as u64).product::<u64>();
        let stored: u64 = self.tensors().iter().filter(|tensor| !tensor.optional).map(elements).sum();
        let buffers = self.n_experts as u64;
        let total = stored - buffers;
        let expert = 3 * self.dim as u64 * self.expert_dim as u64;
        Parameters { total, active: total - (self.n_experts - self.n_experts_per_tok) as u64 * expert, buffers }
    }

    /// loop_emb(t), `dim` numbers: the signal that tells the loop's block at which loop it is. With n = floor(dim / 8),
    /// the first n numbers are those of [sin(t·f₀), sin(t·f₁), …, cos(t·f₀), cos(t·f₁), …] with f_i = 10000^(−2i/n) for
    /// i = 0 … ceil(n/2) − 1; the rest are 0.
    ///
    /// The frequency and the angle are rounded to f32 where PyTorch rounds them and all else is computed in f64. That is
    /// within 1e-7 of the package up to loop 64 but for dims in the thousands, where PyTorch's own power is off by one
    /// unit in the last place at about one frequency in a hundred: there it is within 1e-6.
    pub fn loop_embedding(&self, t: usize) -> Vec<f32> {
        let n = self.dim / 8;
        let angles: Vec<f64> = frequencies(n, 10000.0).iter().map(|f| f64::from(t as f32 * f)).collect();
        let mut row: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
        row.extend(angles.iter().map(|a| a.cos() as f32));
        // An odd n has one cosine too many.
        row.truncate(n);
        row.resize(self.dim, 0.0);
        row
    }

    /// `count` rows of the RoPE table from position `first` on, laid out (count, rope_dim / 2, [cos, sin]): entry (pos, i) holds
    /// the cosine and the sine of pos · rope_theta^(−2i / rope_dim).
    ///
    /// The frequency and the angle are rounded to f32 where PyTorch rounds them, then sine and cosine are taken in f64: at
    /// position 4000 one unit in the last place of an angle is already 2e-4. The package's table is met within 2e-7.
    pub fn rope_rows(&self, first: usize, count: usize) -> Vec<f32> {
        let frequencies = frequencies(self.rope_dim(), self.rope_theta);
        let mut table = Vec::with_capacity(count.saturating_mul(self.rope_dim()));
        for position in first..first.saturating_add(count) {
            for frequency in &frequencies {
                let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                table.extend([cos as f32, sin as f32]);
            }
        }
        table
    }

    /// Bytes of the numbers of a `model.safetensors` whose large matrices are stored in a precision and all else in f32.
    pub fn stored_bytes(&self, precision: Precision) -> u64 {
        let bytes = |spec: &TensorSpec| {
            let cols = spec.shape.last().copied().unwrap_or(1);
            let rows: u64 = spec.shape.iter().rev().skip(1).map(|&n| n as u64).product();
            let precision = if spec.matrix { precision } else { Precision::F32 };
            rows * (precision.row_bytes(cols) + 2 * precision.blocks(cols)) as u64
        };
        self.tensors().iter().filter(|spec| !spec.optional).map(bytes).sum()
    }

    /// Every tensor of a complete `model.safetensors`, in the model's order; `head.weight`, tied to `embed.weight`, is
    /// optional.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (d, v, r) = (self.dim, self.vocab_size, self.lora_rank);
        let mut list = List(Vec::new());
        list.matrix("embed.weight", &[v, d]);
        for i in 0..self.prelude_layers {
            self.add_dense_block(&mut list, &format!("prelude.{i}"));
        }
        list.add("recurrent.norm.weight", &[d]);
        self.add_attention(&mut list, "recurrent.block");
        let moe = "recurrent.block.ffn";
        list.add(&format!("{moe}.router.weight"), &[self.n_experts, d]);
        list.add(&format!("{moe}.router_bias"), &[self.n_experts]);
        for e in 0..self.n_experts {
            list.add_swiglu(&format!("{moe}.routed_experts.{e}"), d, self.expert_dim);
        }
        for s in 0..self.n_shared_experts {
            list.add_swiglu(&format!("{moe}.shared_experts.{s}"), d, self.expert_dim * self.n_experts_per_tok);
        }
        list.add("recurrent.lora.down.weight", &[r, d]);
        list.add("recurrent.lora.scale.weight", &[self.max_loop_iters, r]);
        list.add("recurrent.lora.B", &[r, d]);
        list.add("recurrent.injection.log_A", &[d]);
        list.add("recurrent.injection.log_dt", &[1]);
        list.add("recurrent.injection.B", &[d]);
        list.add("recurrent.act.halt.weight", &[1, d]);
        list.add("recurrent.act.halt.bias", &[1]);
        for i in 0..self.coda_layers {
            self.add_dense_block(&mut list, &format!("coda.{i}"));
        }
        list.add("norm.weight", &[d]);
        list.0.push(TensorSpec { name: "head.weight".into(), shape: vec![v, d], optional: true, matrix: true });
        list.0
    }

    fn add_dense_block(&self, list: &mut List, block: &str) {
        self.add_attention(list, block);
        list.add_swiglu(&format!("{block}.ffn"), self.dim, self.ffn_dim());
    }

    /// A block's two norms and its attention.
    fn add_attention(&self, list: &mut List, block: &str) {
        let (d, h) = (self.dim, self.n_heads);
        list.add(&format!("{block}.attn_norm.weight"), &[d]);
        list.add(&format!("{block}.ffn_norm.weight"), &[d]);
        let mut add = |name: &str, shape: &[usize]| {
            let name = format!("{block}.attn.{name}.weight");
            if shape.len() == 2 { list.matrix(&name, shape) } else { list.add(&name, shape) }
        };
        match self.attention {
            Attention::Gqa { n_kv_heads, head_dim } => {
                add("wq", &[d, d]);
                add("wk", &[n_kv_heads * head_dim, d]);
                add("wv", &[n_kv_heads * head_dim, d]);
                add("wo", &[d, d]);
            }
            Attention::Mla { kv_lora_rank, q_lora_rank, rope, nope, v } => {
                add("q_down", &[q_lora_rank, d]);
                add("q_norm", &[q_lora_rank]);
                add("q_up_nope", &[h * nope, q_lora_rank]);
                add("q_up_rope", &[h * rope, q_lora_rank]);
                add("kv_down", &[kv_lora_rank + rope, d]);
                add("kv_norm", &[kv_lora_rank]);
                add("kv_up", &[h * (nope + v), kv_lora_rank]);
                add("wo", &[d, h * v]);
            }
        }
    }
}

/// The list that [`Config::tensors`] fills.
struct List(Vec<TensorSpec>);

impl List {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.push(TensorSpec { name: name.into(), shape: shape.to_vec(), optional: false, matrix: false });
    }

    fn matrix(&mut self, name: &str, shape: &[usize]) {
        self.0.push(TensorSpec { name: name.into(), shape: shape.to_vec(), optional: false, matrix: true });
    }

    /// down(silu(gate x) ⊙ up x) from `dim` through `hidden` to `dim`.
    fn add_swiglu(&mut self, name: &str, dim: usize, hidden: usize) {
        self.matrix(&format!("{name}.gate.weight"), &[hidden, dim]);
        self.matrix(&format!("{name}.up.weight"), &[hidden, dim]);
        self.matrix(&format!("{name}.down.weight"), &[dim, hidden]);
    }
}

/// f_i = 1 / theta^(2i/n) for i = 0 … ceil(n/2) − 1, each step rounded to f32 as PyTorch does; the power is taken in f64,
/// whose rounding is what a good f32 power gives.
fn frequencies(n: usize, theta: f64) -> Vec<f32> {
    let theta = f64::from(theta as f32);
    (0..n).step_by(2).map(|i| 1.0 / theta.powf(f64::from(i as f32 / n as f32)) as f32).collect()
}
