//! What each fuzz target does with its bytes: a door of the crate, and what must be true behind it. A panic is a finding, and so are too
//! much memory and too much time.

pub mod arguments;
pub mod checkpoint;
pub mod config;
pub mod quantised;
pub mod safetensors;
pub mod tokenizer;
pub mod twins;

use pollster::block_on;
use refrain::backend::{DeviceChoice, DeviceInfo, DeviceOptions};
use refrain::model::config::Config;
use refrain::model::defaults::Defaults;
use refrain::model::files::{Source, Weights};
use refrain::model::{Depth, Engine, Feed, Logits, Needs, Options};

/// What takes an input.
pub type Door = fn(&[u8]);

/// The doors by the names of their targets.
pub const ALL: [(&str, Door); 7] = [
    ("arguments", arguments::enter),
    ("checkpoint", checkpoint::enter),
    ("config", config::enter),
    ("quantised", quantised::enter),
    ("safetensors", safetensors::enter),
    ("tokenizer", tokenizer::enter),
    ("twins", twins::enter),
];

/// A model as small as can be.
pub const TINY: &str = r#"{"vocab_size":3,"dim":4,"n_heads":1,"n_kv_heads":1,"max_seq_len":8,"max_loop_iters":2,"prelude_layers":0,
"coda_layers":0,"attn_type":"gqa","n_experts":1,"n_shared_experts":0,"n_experts_per_tok":1,"expert_dim":2,"lora_rank":1,
"act_threshold":0.9,"rope_theta":10000.0}"#;

/// Models that take more than this are counted, and not loaded.
const LARGEST: u64 = 1 << 20;

/// The parts of an input: what stands between bytes 0xff, which no text in UTF-8 has.
fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == 0xff)
}

/// An error can say what it has to say.
fn check(error: &refrain::Error) {
    assert!(!error.code().is_empty() && !error.to_string().is_empty() && error.hint() != Some(String::new()), "{error:?}");
}

/// What came of it, if all went well.
fn good<T>(result: refrain::Result<T>) -> Option<T> {
    result.inspect_err(check).ok()
}

/// Files in memory.
fn memory(files: Vec<(String, Vec<u8>)>) -> Source {
    Source::Memory { name: "m".into(), files: files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect() }
}

/// The CPU with 1 GiB for a model.
fn options() -> Options {
    let device = DeviceOptions { device: DeviceChoice::Cpu, memory: Some(1 << 30), ..DeviceOptions::default() };
    Options { device, ..Options::default() }
}

/// Counts what a model takes, before any of its weights is read.
fn count(config: &Config, defaults: &Defaults, options: &Options, weights: Option<&Weights>) -> Option<Needs> {
    let (needs, fault) = good(Needs::of(&DeviceInfo::cpu(), config, defaults, options, weights))?;
    fault.iter().for_each(check);
    assert!(fault.is_some() || options.device.memory.is_none_or(|memory| needs.total() <= memory), "{needs:?}");
    fault.is_none().then_some(needs)
}

/// Loads a model if it is small, and runs three tokens.
fn run(source: &Source, needs: &Needs) {
    if needs.total() > LARGEST {
        return;
    }
    let Some(mut engine) = good(block_on(Engine::load(source, &options(), &mut |_| {}))) else { return };
    assert_eq!(engine.needs(), needs, "counted and allocated");
    let depth = Depth { loops: engine.default_depth().loops.min(3), ..engine.default_depth() };
    let tokens: Vec<u32> = (0..3).map(|i| i % engine.config().vocab_size as u32).take(engine.context()).collect();
    let Some(mut sequence) = good(engine.sequence()) else { return };
    let mut feeds = [Feed { sequence: &mut sequence, tokens: &tokens }];
    if let Some(output) = good(block_on(engine.forward(&mut feeds, depth, Logits { every: true, best: 1, all: true }))) {
        assert!(output.predictions.iter().all(|at| at.logits.iter().all(|x| x.is_finite())), "{output:?}");
    }
}
