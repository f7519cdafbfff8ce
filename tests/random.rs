//! Models of random weights made in memory: what the golden cases are too small or too tame for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use pollster::block_on;
use refrain::backend::DeviceOptions;
use refrain::generate::{Model, Params, Prompt};
use refrain::kernel::Tier;
use refrain::model::config::Config;
use refrain::model::defaults::Exit;
use refrain::model::files::Source;
use refrain::model::{Depth, Detail, Engine, Feed, Logits, Options};
use refrain::sampler::Sampling;
use serde_json::{Value, json};

use crate::devices;

/// A small configuration with some fields replaced.
fn config(changes: &Value) -> Value {
    let mut config = json!({
        "vocab_size": 3000, "dim": 16, "n_heads": 2, "n_kv_heads": 1, "max_seq_len": 48, "max_loop_iters": 3,
        "prelude_layers": 1, "coda_layers": 1, "attn_type": "gqa", "n_experts": 3, "n_shared_experts": 1, "n_experts_per_tok": 2,
        "expert_dim": 8, "act_threshold": 0.9, "rope_theta": 10000.0, "lora_rank": 2
    });
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

/// A model of that configuration with random weights of about `scale`, those of the embedding of about `embed`, from a fixed seed.
fn model(changes: &Value, scale: f32, embed: f32) -> Source {
    in_memory(&config(changes), 1, |name, unit| match name {
        "embed.weight" => embed * unit,
        // Gains near 1, as norms have them; all else around 0.
        name if name.contains("norm") => 1.0 + 0.1 * unit,
        _ => scale * unit,
    })
}

/// A model of that configuration. `value` makes a weight of the name of its tensor and a random number from -1 to 1.
pub fn in_memory(config: &Value, seed: u64, value: impl Fn(&str, f32) -> f32) -> Source {
    let config = config.to_string().into_bytes();
    let specs = Config::parse("config.json", &config).unwrap().tensors();
    let (mut header, mut data, mut state) = (serde_json::Map::new(), Vec::<u8>::new(), seed);
    for spec in specs.iter().filter(|spec| !spec.optional) {
        let start = data.len();
        for _ in 0..spec.shape.iter().product::<usize>() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
            data.extend(value(&spec.name, unit).to_le_bytes());
        }
        header.insert(spec.name.clone(), json!({"dtype": "F32", "shape": spec.shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string().into_bytes();
    let weights = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    Source::Memory {
        name: "random".into(),
        files: vec![("config.json".into(), config.into()), ("model.safetensors".into(), weights.into())],
    }
}

/// A model of 40 tokens of which [`OVERFLOWS`] does: it has an embedding of its own, as large as can be.
pub fn overflowing(changes: &Value) -> Source {
    let mut changes = changes.clone();
    changes["vocab_size"] = 40.into();
    let Source::Memory { name, mut files } = model(&changes, 0.1, 0.3) else { panic!("in memory") };
    let weights = &mut files.iter_mut().find(|(file, _)| file.ends_with("safetensors")).unwrap().1;
    let mut bytes = weights.to_vec();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = 8 + header + tensors["embed.weight"]["data_offsets"][0].as_u64().unwrap() as usize + OVERFLOWS as usize * 16 * 4;
    (0..16).for_each(|i| bytes[at + 4 * i..][..4].copy_from_slice(&1e30f32.to_le_bytes()));
    *weights = bytes.into();
    Source::Memory { name, files }
}

/// See [`overflowing`].
pub const OVERFLOWS: u32 = 7;

/// What turns a configuration into one of latent attention.
pub fn mla() -> Value {
    json!({"attn_type": "mla", "kv_lora_rank": 12, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 8})
}

fn open(source: &Source, device: DeviceOptions) -> refrain::Result<Model> {
    block_on(Model::open(source, &Options { device, ..Options::default() }, &mut |_| {}))
}

/// The tokens of a generation.
fn tokens(model: &mut Model, sampling: Sampling) -> refrain::Result<Vec<u32>> {
    let params = Params { max_tokens: Some(24), sampling: Some(sampling), ..Params::default() };
    let mut generation = model.generate(Prompt::Tokens(vec![5, 2999, 17, 1200]), params)?;
    let mut tokens = Vec::new();
    while let Some(step) = block_on(generation.next()) {
        tokens.push(step?.token);
    }
    Ok(tokens)
}

#[test]
fn a_seed_gives_the_same_text_on_every_device() {
    let source = model(&json!({}), 0.6, 0.6);
    let warm = Sampling { temperature: 1.2, seed: 11, ..Sampling::default() };
    // Candidates from the device (one, the best 64 of two parts of the vocabulary), and every logit.
    let samplings = [
        Sampling::default(),
        Sampling { top_k: 40, ..warm },
        Sampling { top_k: 64, top_p: 0.9, ..warm },
        Sampling { min_p: 0.05, ..warm },
        warm,
    ];
    let mut expected: Option<Vec<Vec<u32>>> = None;
    for (device, options) in devices::all() {
        let mut model = open(&source, options).unwrap();
        let found: Vec<Vec<u32>> = samplings.iter().map(|sampling| tokens(&mut model, *sampling).unwrap()).collect();
        assert_ne!(found[1], found[0], "{device}: warm text is not the greedy one");
        assert_ne!(found[4], tokens(&mut model, Sampling { seed: 12, ..warm }).unwrap(), "{device}: another seed, another text");
        assert_eq!(&found, expected.get_or_insert_with(|| found.clone()), "{device}");
    }
}

#[test]
fn numbers_that_overflow_are_an_error_and_no_text() {
    // Large weights overflow in products. A large embedding alone overflows only in the squares under a norm, which must not come
    // out as a row of zeros: all else would stay finite, and wrong.
    for ((device, options), (scale, embed)) in
        devices::all().into_iter().flat_map(|device| [(device.clone(), (1e20, 1e20)), (device, (0.1, 1e30))])
    {
        let source = model(&json!({"vocab_size": 40}), scale, embed);
        let mut model = open(&source, options).unwrap();
        let mut generation = model.generate(Prompt::Tokens(vec![1, 2, 3]), Params::default()).unwrap();
        let error = block_on(generation.next()).unwrap().unwrap_err();
        assert_eq!(error.code(), "non_finite", "{device}: {error}");
        for _ in 0..3 {
            assert!(block_on(generation.next()).is_none(), "{device}: the stream ends after an error, and stays so");
        }
    }
}

#[test]
fn a_sequence_that_overflows_leaves_the_others_of_a_batch_alone() {
    let source = overflowing(&json!({}));
    let depth = Depth { loops: 3, min_loops: 0, exit: Exit::Model };
    for (device, options) in devices::all() {
        let options = Options { device: options, sequences: Some(2), chunk: Some(4), ..Options::default() };
        let mut engine = block_on(Engine::load(&source, &options, &mut |_| {})).unwrap();
        let mut batch = block_on(engine.batch()).unwrap();
        let [good, bad] = [0, 1].map(|_| {
            let sequence = batch.engine().sequence().unwrap();
            batch.insert(sequence).unwrap()
        });
        batch.feed(good, &[1, 2, 3, 4, 5, 6], depth, Logits::GREEDY).unwrap();
        batch.feed(bad, &[1, 7], depth, Logits::GREEDY).unwrap();
        let mut outputs = Vec::new();
        while let Some(finished) = Some(block_on(batch.next()).unwrap()).filter(|finished| !finished.is_empty()) {
            outputs.extend(finished.into_iter().map(|finished| (finished.key, finished.output)));
        }
        outputs.sort_by_key(|(key, _)| *key);
        let [(_, good_output), (_, bad_output)] = &outputs[..] else { panic!("{device}: {outputs:?}") };
        assert_eq!(bad_output.as_ref().unwrap_err().code(), "non_finite", "{device}");
        // What failed was never fed; what did not is as it is alone.
        batch.feed(bad, &[1, 2, 3, 4, 5, 6], depth, Logits::GREEDY).unwrap();
        let again = block_on(batch.next()).unwrap().swap_remove(0).output.unwrap();
        let same = good_output.as_ref().unwrap();
        assert_eq!(again.rows, same.rows, "{device}");
        let [a, b] = [&again, same].map(|output| output.predictions[0].best[0]);
        assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-4, "{device}: {a:?} and {b:?}");
        assert!([good, bad].map(|key| block_on(batch.remove(key)).unwrap().len()) == [6, 6], "{device}");
    }
}

#[test]
fn a_context_that_the_driver_would_cut_short_is_refused() {
    let source = model(&json!({"vocab_size": 40, "max_seq_len": 100_000, "dim": 256, "n_heads": 1}), 0.1, 0.1);
    let Some(device) = devices::gpu("llvmpipe") else { return };
    let load = |context| {
        let options = Options { device: device.clone(), context: Some(context), ..Options::default() };
        block_on(Model::open(&source, &options, &mut |_| {})).err().map(|error| error.code())
    };
    assert_eq!(load(100_000), Some("too_small"));
    assert_eq!(load(1000), None);
}

/// Few rows that look back on many positions: on hardware tiers these are shared out in spans, and the logits are the same.
#[test]
fn long_contexts_are_shared_out() {
    for (attention, kind, a_loop) in [(json!({}), "gqa", 9), (mla(), "mla", 12)] {
        let mut changes = attention;
        (changes["vocab_size"], changes["max_seq_len"]) = (300.into(), 700.into());
        let source = model(&changes, 0.6, 0.6);
        let prompt: Vec<u32> = (0..640).map(|i| i * 71 % 300).collect();
        let mut expected: Option<Vec<f32>> = None;
        for (name, device) in devices::all() {
            for tier in [None, Some(Tier::BASELINE)] {
                let what = format!("{kind} on {name}, tier {tier:?}");
                let device = DeviceOptions { tier, ..device.clone() };
                let mut engine = block_on(Engine::load(&source, &Options { device, ..Options::default() }, &mut |_| {})).unwrap();
                let mut sequence = engine.sequence().unwrap();
                let depth = Depth { loops: 3, min_loops: 0, exit: Exit::Fixed };
                let mut logits = Vec::new();
                // One row with a short context, many rows, then one and three rows with a long one.
                for (tokens, spans) in
                    [(&prompt[..1], false), (&prompt[1..600], false), (&prompt[600..601], true), (&prompt[601..604], true)]
                {
                    let mut feeds = [Feed { sequence: &mut sequence, tokens }];
                    let every = Logits { every: true, best: 1, all: true };
                    let (output, trace) = block_on(engine.forward_traced(&mut feeds, depth, every, Detail::default())).unwrap();
                    logits.extend(output.predictions.last().unwrap().logits.clone());
                    let spans = spans && tier.is_some() && name != "cpu";
                    for pass in trace.passes.iter().filter(|pass| pass.rows <= 4) {
                        assert_eq!(pass.dispatches, a_loop + usize::from(spans), "{what}, {} rows", pass.rows);
                    }
                }
                assert_eq!(engine.kernels().contains("attention_merge"), tier.is_some() && name != "cpu", "{what}");
                let expected = expected.get_or_insert(logits.clone());
                let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
                let apart = expected.iter().zip(&logits).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
                assert!(apart < 1e-3 * largest, "{what}: {apart} of {largest}");
            }
        }
    }
}
