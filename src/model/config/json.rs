//! A config as `config.json` has it, under the package's names.

use serde_json::Value;

use super::{Attention, Config};

impl Config {
    /// The fields of `config.json` with their values, in the package's order. Fields of the kind of attention that the model does not use
    /// are left out.
    pub fn fields(&self) -> Vec<(&'static str, Value)> {
        let mut fields: Vec<(&str, Value)> = vec![
            ("vocab_size", self.vocab_size.into()),
            ("dim", self.dim.into()),
            ("n_heads", self.n_heads.into()),
            ("max_seq_len", self.max_seq_len.into()),
            ("max_loop_iters", self.max_loop_iters.into()),
            ("prelude_layers", self.prelude_layers.into()),
            ("coda_layers", self.coda_layers.into()),
        ];
        match self.attention {
            Attention::Gqa { n_kv_heads, .. } => fields.extend([("attn_type", "gqa".into()), ("n_kv_heads", n_kv_heads.into())]),
            Attention::Mla { kv_lora_rank, q_lora_rank, rope, nope, v } => fields.extend([
                ("attn_type", "mla".into()),
                ("kv_lora_rank", kv_lora_rank.into()),
                ("q_lora_rank", q_lora_rank.into()),
                ("qk_rope_head_dim", rope.into()),
                ("qk_nope_head_dim", nope.into()),
                ("v_head_dim", v.into()),
            ]),
        }
        // An f32 with the digits that it was written with: 0.99, not 0.9900000095367432.
        let threshold = self.act_threshold.to_string().parse::<f64>().unwrap_or(f64::from(self.act_threshold));
        fields.extend([
            ("n_experts", self.n_experts.into()),
            ("n_shared_experts", self.n_shared_experts.into()),
            ("n_experts_per_tok", self.n_experts_per_tok.into()),
            ("expert_dim", self.expert_dim.into()),
            ("lora_rank", self.lora_rank.into()),
            ("act_threshold", threshold.into()),
            ("rope_theta", self.rope_theta.into()),
            ("max_output_tokens", self.max_output_tokens.into()),
        ]);
        fields
    }

    /// The text of a `config.json`, a line a field: what [`Config::parse`] reads as this config.
    pub fn to_json(&self) -> String {
        let lines: Vec<String> = self.fields().iter().map(|(name, value)| format!("  {name:?}: {value}")).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}
