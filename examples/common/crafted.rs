//! Models of random weights, made in memory, in which a token's id decides how many loops it takes: token i takes 1 + i mod loops.
//!
//! No engine needs to know of it. Two channels of the residual stream are kept free of all else: nothing writes to channels 0 and 1
//! (those rows of every output matrix and those columns of the LoRA are 0, and so are the gains of the norm before the looped block).
//! There the loop is only h ← A·h + B·e with A = 1 (log_A at the lower end of its range), and with the embedding
//!
//! ```text
//! e₀ = 1, B₀ = 1    h₀ = 1 + n after n loops: a clock
//! e₁ = d, B₁ = 0    h₁ = d: the token's depth
//! ```
//!
//! the halting head S·(h₀ − h₁ − ½) is −S/2 after loop d − 1 and S/2 after loop d. The head's norm does not see the two channels either
//! and changes the sign of half of the others: else the likeliest token after any would be itself, since the head is tied.

use refrain::Result;
use refrain::model::config::Config;
use refrain::model::files::Source;
use serde_json::{Value, json};

use super::{Random, wrong};

/// How sharply the halting head switches.
const S: f32 = 40.0;

/// The channels that hold the clock and the depth.
const KEPT: usize = 2;

/// The sizes by name: `tiny`, or `100m` with 103 million parameters.
fn config(size: &str, loops: usize) -> Result<Value> {
    let mut config = match size {
        "tiny" => json!({
            "vocab_size": 512, "dim": 64, "n_heads": 4, "prelude_layers": 1, "coda_layers": 1,
            "kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
            "n_experts": 4, "n_shared_experts": 1, "n_experts_per_tok": 2, "expert_dim": 32, "lora_rank": 4
        }),
        "100m" => json!({
            "vocab_size": 32000, "dim": 1024, "n_heads": 16, "prelude_layers": 2, "coda_layers": 2,
            "kv_lora_rank": 256, "q_lora_rank": 512, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64,
            "n_experts": 16, "n_shared_experts": 2, "n_experts_per_tok": 4, "expert_dim": 512, "lora_rank": 8
        }),
        other => return Err(wrong("the model", "tiny or 100m", other)),
    };
    let rest = json!({
        "n_kv_heads": 1, "max_seq_len": 4096, "max_loop_iters": loops, "attn_type": "mla", "act_threshold": 0.99, "rope_theta": 500_000.0
    });
    for (field, value) in rest.as_object().into_iter().flatten() {
        config[field] = value.clone();
    }
    Ok(config)
}

/// A crafted model of that size with depths from 1 to `loops`.
pub fn model(size: &str, loops: usize) -> Result<Source> {
    let json = config(size, loops)?.to_string().into_bytes();
    let specs: Vec<_> = Config::parse("config.json", &json)?.tensors().into_iter().filter(|spec| !spec.optional).collect();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for spec in &specs {
        let start = end;
        end += 4 * spec.shape.iter().product::<usize>();
        header.insert(spec.name.clone(), json!({"dtype": "F32", "shape": spec.shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string().into_bytes();
    let mut file = Vec::with_capacity(8 + header.len() + end);
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header);
    let mut random = Random(1);
    for spec in &specs {
        let cols = spec.shape.last().copied().unwrap_or(1);
        let number = numbers(&spec.name, cols, loops);
        for i in 0..spec.shape.iter().product() {
            let number: f32 = number(i / cols, i % cols, 2.0 * random.unit() - 1.0);
            file.extend(number.to_le_bytes());
        }
    }
    let files = vec![("config.json".into(), json.into()), ("model.safetensors".into(), file.into())];
    Ok(Source::Memory { name: format!("crafted {size}"), files })
}

/// What a tensor holds: a number from its row, its column and a random number between −1 and 1.
fn numbers(name: &str, cols: usize, loops: usize) -> Box<dyn Fn(usize, usize, f32) -> f32> {
    // Of unit variance out where it is of unit variance in.
    let linear = (3.0 / cols as f32).sqrt();
    let kept = |col: usize, number: f32| if col < KEPT { 0.0 } else { number };
    match name {
        "embed.weight" => Box::new(move |token, col, unit| match col {
            0 => 1.0,
            1 => depth(token as u32, loops) as f32,
            _ => unit,
        }),
        "recurrent.norm.weight" => Box::new(move |_, col, unit| kept(col, 1.0 + 0.1 * unit)),
        "norm.weight" => Box::new(move |_, col, unit| kept(col, unit.signum())),
        "recurrent.lora.B" => Box::new(move |_, col, unit| kept(col, 0.1 * unit)),
        "recurrent.injection.log_A" => Box::new(|_, col, _| if col < KEPT { -40.0 } else { 0.0 }),
        "recurrent.injection.log_dt" => Box::new(|_, _, _| 0.0),
        "recurrent.injection.B" => Box::new(|_, col, unit| [1.0, 0.0].get(col).copied().unwrap_or(0.5 * unit)),
        "recurrent.act.halt.weight" => Box::new(|_, col, _| [S, -S].get(col).copied().unwrap_or(0.0)),
        "recurrent.act.halt.bias" => Box::new(|_, _, _| -S / 2.0),
        _ if name.contains("norm") => Box::new(|_, _, unit| 1.0 + 0.1 * unit),
        // Matrices that write to the residual stream.
        _ if name.ends_with(".wo.weight") || (name.ends_with(".down.weight") && !name.contains("lora")) => {
            Box::new(move |row, _, unit| kept(row, linear * unit))
        }
        // Choices of experts that no rounding changes.
        _ if name.contains("router.weight") => Box::new(move |_, _, unit| 3.0 * linear * unit),
        _ => Box::new(move |_, _, unit| linear * unit),
    }
}

/// The loops that a token takes.
pub fn depth(token: u32, loops: usize) -> usize {
    1 + token as usize % loops
}

/// A random token that takes `depth` loops.
pub fn token(depth: usize, loops: usize, vocab_size: usize, random: &mut Random) -> u32 {
    (depth - 1 + loops * (random.bits() as usize % (vocab_size / loops))) as u32
}
