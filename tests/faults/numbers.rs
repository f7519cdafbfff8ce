//! NaN and infinity: refused in weights, and never text where they come up in the middle of a model, but an error that says where.

use std::cell::Cell;
use std::collections::HashMap;

use half::{bf16, f16};
use pollster::block_on;
use refrain::backend::DeviceOptions;
use refrain::generate::{Params, Prompt};
use refrain::model::defaults::Exit;
use refrain::model::files::{Source, Weights, export};
use refrain::model::{Depth, Detail, Engine, Feed, Logits, Options, Output, Schedule, Sequence};
use refrain::precision::Precision;
use refrain::{Error, Model};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Fault, MODELS, Spoiled, files, on_cpu, open};
use crate::devices;
use crate::random::in_memory;

/// The weights of a shipped model in a dtype of the file format.
fn weights_in(model: &str, dtype: &str) -> Vec<u8> {
    let source = refrain::shipped::source(model).unwrap();
    let Source::Memory { files, .. } = &source else { panic!("in memory") };
    let file = |name| files.iter().find(|(file, _)| file == name).unwrap().1.to_vec();
    if let Some(precision) = [Precision::Q8, Precision::Q4].into_iter().find(|precision| precision.to_string() == dtype) {
        let (temp, weights) = (TempDir::new().unwrap(), Weights::open(&source).unwrap());
        let out = temp.path().join("m");
        export(&weights, ("c", &file("config.json")), Some(precision), &out, &mut |_| Ok(()), &mut |_, _| Ok(())).unwrap();
        return std::fs::read(out.join("model.safetensors")).unwrap();
    }
    let bytes = file("model.safetensors");
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    let convert = |bytes: &[u8]| match dtype {
        "f16" => bytes.chunks(4).flat_map(|b| f16::from_f32(number(b)).to_le_bytes()).collect(),
        "bf16" => bytes.chunks(4).flat_map(|b| bf16::from_f32(number(b)).to_le_bytes()).collect(),
        _ => bytes.to_vec(),
    };
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors(&bytes) {
        let start = data.len();
        data.extend(convert(&bytes[tensor.first..tensor.end]));
        header.insert(name, json!({ "dtype": dtype.to_uppercase(), "shape": tensor.shape, "data_offsets": [start, data.len()] }));
    }
    let header = Value::Object(header).to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

struct Tensor {
    dtype: String,
    shape: Value,
    /// Its bytes in the file.
    first: usize,
    end: usize,
}

/// The tensors of a safetensors file.
fn tensors(bytes: &[u8]) -> Vec<(String, Tensor)> {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let at = |tensor: &Value, i: usize| 8 + length + tensor["data_offsets"][i].as_u64().unwrap() as usize;
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, tensor)| {
        let dtype = tensor["dtype"].as_str().unwrap().to_string();
        let (first, end) = (at(&tensor, 0), at(&tensor, 1));
        (name, Tensor { dtype, shape: tensor["shape"].clone(), first, end })
    });
    tensors.collect()
}

#[test]
fn a_weight_that_is_no_number_is_refused_in_every_tensor_and_dtype() {
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for model in MODELS {
        let mut refused = HashMap::<&str, usize>::new();
        for dtype in ["f32", "f16", "bf16", "q8", "q4"] {
            let mut files = files(model);
            let weights = weights_in(model, dtype);
            let tensors = tensors(&weights);
            files.iter_mut().find(|(name, _)| name == "model.safetensors").unwrap().1 = weights.into();
            let files = Spoiled::new(files);
            let source = files.source();
            open(&source, &on_cpu()).unwrap();
            for (number, (name, tensor)) in tensors.iter().enumerate() {
                // Each number in turn; the first, the middle and the last of a tensor.
                let value = values[number % 3];
                let bytes = match tensor.dtype.as_str() {
                    "F32" => value.to_le_bytes().to_vec(),
                    "F16" => f16::from_f32(value).to_le_bytes().to_vec(),
                    "BF16" => bf16::from_f32(value).to_le_bytes().to_vec(),
                    // Integers are numbers, whatever they are: what can go wrong are their scales.
                    "I8" | "U8" => continue,
                    other => panic!("{name} in {other}"),
                };
                let last = (tensor.end - tensor.first) / bytes.len() - 1;
                let at = [0, last / 2, last][number / 3 % 3] * bytes.len();
                files.spoil(Fault::Bytes(tensor.first + at, bytes));
                // The precision on the device changes nothing.
                for asked in [None, Some(Precision::F32), Some(Precision::Q4)] {
                    let what = format!("{value} in {name} of {model} in {dtype}, loaded as {asked:?}");
                    let error = open(&source, &Options { dtype: asked, ..on_cpu() }).err().unwrap_or_else(|| panic!("{what}: a load"));
                    let Error::Tensor { path, tensor, expected, found } = &error else { panic!("{what}: {error}") };
                    let stem = name.strip_suffix(".scales").unwrap_or(name);
                    assert!(path == "spoiled/model.safetensors" && tensor == stem && expected == "finite numbers", "{what}: {error}");
                    assert!(found.starts_with(&value.to_string()), "{what}: {error}");
                }
                *refused.entry(dtype).or_default() += 1;
            }
        }
        println!("{model}: tensors with a number that is none, each refused by three loads: {refused:?}");
        assert!(refused.len() == 5 && refused.values().all(|count| *count > 40), "{refused:?}");
    }
}

/// Two layers before and after the loop, and six loops, at none of which a token halts.
fn config() -> Value {
    json!({
        "vocab_size": 40, "dim": 16, "n_heads": 2, "n_kv_heads": 1, "max_seq_len": 48, "max_loop_iters": 6,
        "prelude_layers": 2, "coda_layers": 2, "attn_type": "gqa", "n_experts": 3, "n_shared_experts": 1, "n_experts_per_tok": 2,
        "expert_dim": 8, "act_threshold": 0.99, "rope_theta": 10000.0, "lora_rank": 2
    })
}

/// A model in which all is tame but what `wild` makes of a tensor's name and the index of a number: `None` leaves it as it is.
fn model(wild: impl Fn(&str, usize) -> Option<f32>) -> Source {
    let counts = std::cell::RefCell::new(HashMap::<String, usize>::new());
    in_memory(&config(), 5, |name, unit| {
        let mut counts = counts.borrow_mut();
        let count = counts.entry(name.into()).or_default();
        let index = std::mem::replace(count, *count + 1);
        wild(name, index).unwrap_or(match name {
            "recurrent.act.halt.bias" => -9.0,
            "recurrent.act.halt.weight" => 0.0,
            name if name.contains("norm") => 1.0 + 0.1 * unit,
            _ => 0.3 * unit,
        })
    })
}

/// A model whose state overflows at loop `at`, counted from 1, and not before.
fn overflows_at_loop(at: usize) -> Source {
    model(move |name, index| match name {
        // (loops, rank)
        "recurrent.lora.scale.weight" => Some(if index / 2 + 1 == at { 3e38 } else { 0.1 }),
        "recurrent.lora.down.weight" | "recurrent.lora.B" => Some(4.0 + index as f32 / 7.0),
        _ => None,
    })
}

/// A model in which weights whose name starts so are huge: of either sign by row, so that some gates are open.
fn huge(start: &'static str) -> Source {
    model(move |name, index| name.starts_with(start).then(|| if index / 16 % 2 == 0 { 1e25 } else { -1.1e25 }))
}

/// Models, the tokens that they are asked, and where the numbers cease to be any.
fn cases() -> Vec<(Source, Vec<u32>, &'static str)> {
    let token_7 = |wild: f32| model(move |name, index| (name == "embed.weight" && index / 16 == 7).then_some(wild));
    vec![
        (huge("prelude.0.ffn."), vec![1, 2, 3], "prelude.0 at position 0"),
        (huge("prelude.1.ffn."), vec![1, 2, 3], "prelude.1 at position 0"),
        (token_7(1e30), vec![1, 2, 7, 3], "prelude.0 at position 2"),
        (huge("recurrent.block.ffn.routed_experts."), vec![1, 2, 3], "loop 1 at position 0"),
        (overflows_at_loop(3), vec![1, 2, 3], "loop 3 at position 0"),
        (overflows_at_loop(6), vec![1], "loop 6 at position 0"),
        (huge("coda.0.ffn."), vec![1, 2, 3], "coda.0 at position 0"),
        (huge("coda.1.ffn."), vec![1, 2, 3], "coda.1 at position 0"),
        (model(|name, _| (name == "norm.weight").then_some(3.4e38)), vec![1, 2, 3], "the head at position 2"),
    ]
}

fn engine(source: &Source, device: DeviceOptions, options: Options) -> Engine {
    // What one engine made the driver compile the next one need not.
    let device = DeviceOptions { pipeline_cache: Some(concat!(env!("CARGO_TARGET_TMPDIR"), "/pipelines").into()), ..device };
    block_on(Engine::load(source, &Options { device, ..options }, &mut |_| {})).unwrap()
}

fn depth(loops: usize) -> Depth {
    Depth { loops, min_loops: 0, exit: Exit::Model }
}

fn feed(engine: &mut Engine, sequence: &mut Sequence, tokens: &[u32], depth: Depth) -> refrain::Result<Output> {
    block_on(engine.forward(&mut [Feed { sequence, tokens }], depth, Logits { every: false, best: 1, all: true }))
}

/// The same logits but for rounding.
fn same(a: &[f32], b: &[f32]) -> bool {
    let largest = b.iter().fold(0f32, |max, b| max.max(b.abs()));
    largest > 0.0 && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * largest)
}

fn place(error: &Error) -> &str {
    let Error::NonFinite { place } = error else { panic!("{error}") };
    place
}

#[test]
fn an_overflow_says_where_it_began() {
    let cases = cases();
    for (device, options) in devices::all() {
        for (source, tokens, expected) in &cases {
            // One by one, or all at once: then what overflows within a stage may show at the positions before it.
            for chunk in [Some(1), None] {
                let mut engine = engine(source, options.clone(), Options { chunk, ..Options::default() });
                for _ in 0..2 {
                    let mut sequence = engine.sequence().unwrap();
                    let error = feed(&mut engine, &mut sequence, tokens, depth(6)).unwrap_err();
                    let stage = |place: &str| place.split(" at ").next().unwrap().to_string();
                    assert_eq!(stage(place(&error)), stage(expected), "{device}, chunks of {chunk:?}");
                    assert!(chunk.is_none() || place(&error) == *expected, "{device}: {error}, expected {expected}");
                    assert!(sequence.is_empty(), "{device}: {expected}");
                }
            }
        }
        println!("{device}: {} places, each found again", cases.len());
    }
}

#[test]
fn an_overflow_says_where_it_began_in_every_way_of_running() {
    let cpu = || devices::all().swap_remove(0).1;
    let source = overflows_at_loop(3);
    for dtype in Precision::ALL {
        for schedule in [Schedule::Lazy, Schedule::Full] {
            for exit in [Exit::Model, Exit::Fixed] {
                let mut engine = engine(&source, cpu(), Options { dtype: Some(dtype), schedule, eager: 4, ..Options::default() });
                let mut sequence = engine.sequence().unwrap();
                let error = feed(&mut engine, &mut sequence, &[1, 2], Depth { exit, ..depth(6) }).unwrap_err();
                assert_eq!(place(&error), "loop 3 at position 0", "{dtype}, {schedule:?}, {exit:?}");
                feed(&mut engine, &mut sequence, &[1, 2], Depth { exit, ..depth(2) }).unwrap();
            }
        }
    }
    // Generations: plain, in place, traced.
    let mut model = block_on(Model::open(&source, &Options { device: cpu(), ..Options::default() }, &mut |_| {})).unwrap();
    let everything = Detail { states: true, experts: true, lens: 2 };
    for params in [
        Params::default(),
        Params { in_place: true, ..Params::default() },
        Params { echo: true, ..Params::default() },
        Params { trace: Some(everything), ..Params::default() },
    ] {
        let mut generation = model.generate(Prompt::Tokens(vec![1, 2, 3]), params.clone()).unwrap();
        let error = block_on(generation.next()).unwrap().unwrap_err();
        assert_eq!(place(&error), "loop 3 at position 0", "{params:?}");
        assert_eq!(error.to_string(), "NaN or infinity in loop 3 at position 0");
        assert!(block_on(generation.next()).is_none());
    }
}

/// Tokens that stopped early overflow when a later one takes them along to a deeper loop; and after the error all goes on as if the later
/// one had never been fed.
#[test]
fn an_overflow_of_tokens_that_catch_up() {
    let source = overflows_at_loop(3);
    for (device, options) in devices::all() {
        let load = || engine(&source, options.clone(), Options::default());
        let (mut tried, mut calm) = (load(), load());
        let (mut a, mut b) = (tried.sequence().unwrap(), calm.sequence().unwrap());
        for engine_and_sequence in [(&mut tried, &mut a), (&mut calm, &mut b)] {
            feed(engine_and_sequence.0, engine_and_sequence.1, &[4, 5], depth(1)).unwrap();
        }
        for _ in 0..2 {
            let error = feed(&mut tried, &mut a, &[6], depth(5)).unwrap_err();
            assert_eq!(place(&error), "loop 3 at position 0", "{device}");
            assert_eq!(a.len(), 2);
        }
        for (token, loops) in [(8, 2), (9, 1), (10, 2)] {
            let [x, y] = [(&mut tried, &mut a), (&mut calm, &mut b)]
                .map(|(engine, sequence)| feed(engine, sequence, &[token], depth(loops)).unwrap().predictions.swap_remove(0).logits);
            assert!(same(&x, &y), "{device}: {x:?} and {y:?}");
        }
    }
}

/// A token of infinite keys beside positions that catch up: these forget it with it.
#[test]
fn an_overflow_leaves_nothing_in_the_cache() {
    let source = model(|name, index| (name == "embed.weight" && index / 16 == 7).then_some(1e30));
    for (device, options) in devices::all() {
        for given_up in [false, true] {
            let load = || engine(&source, options.clone(), Options::default());
            let (mut tried, mut calm) = (load(), load());
            let (mut a, mut b) = (tried.sequence().unwrap(), calm.sequence().unwrap());
            for engine_and_sequence in [(&mut tried, &mut a), (&mut calm, &mut b)] {
                feed(engine_and_sequence.0, engine_and_sequence.1, &[4, 5], depth(1)).unwrap();
            }
            let all = Depth { exit: Exit::Fixed, ..depth(4) };
            let error = feed(&mut tried, &mut a, &[7], all).unwrap_err();
            assert!(place(&error).starts_with("prelude.0 at "), "{device}: {error}");
            if given_up {
                // In a batch beside one that is done before it.
                let mut batch = block_on(tried.batch()).unwrap();
                let key = batch.insert(a).unwrap();
                batch.feed(key, &[7], all, Logits::GREEDY).unwrap();
                a = block_on(batch.remove(key)).unwrap();
            }
            let [(x, passes), (y, calm_passes)] = [(&mut tried, &mut a), (&mut calm, &mut b)].map(|(engine, sequence)| {
                let before = engine.counters().passes;
                let logits = feed(engine, sequence, &[6], all).unwrap().predictions.swap_remove(0).logits;
                (logits, engine.counters().passes - before)
            });
            assert!(same(&x, &y), "{device}: {x:?} and {y:?}");
            // Nor does it have to be computed a second time.
            assert_eq!(passes, calm_passes, "{device}");
        }
    }
}

/// One sequence of a batch overflows, twice, while others are at every stage of theirs: these give what they give alone.
#[test]
fn others_of_a_batch_are_not_harmed() {
    let source = overflows_at_loop(3);
    for (device, options) in devices::all() {
        let options = Options { device: options, sequences: Some(3), chunk: Some(4), ..Options::default() };
        let mut engine = block_on(Engine::load(&source, &options, &mut |_| {})).unwrap();
        let prompts: [Vec<u32>; 2] = [(0..30).map(|i| i * 7 % 40).collect(), vec![3]];
        let alone = prompts.clone().map(|prompt| {
            let mut sequence = engine.sequence().unwrap();
            feed(&mut engine, &mut sequence, &prompt, depth(2)).unwrap()
        });
        let mut batch = block_on(engine.batch()).unwrap();
        let [long, short, bad] = [0, 1, 2].map(|_| {
            let sequence = batch.engine().sequence().unwrap();
            batch.insert(sequence).unwrap()
        });
        let logits = Logits { every: false, best: 1, all: true };
        batch.feed(long, &prompts[0], depth(2), logits).unwrap();
        batch.feed(short, &prompts[1], depth(2), logits).unwrap();
        batch.feed(bad, &[1, 2], depth(5), logits).unwrap();
        let (mut good, errors) = (Vec::new(), Cell::new(0));
        while let Some(finished) = Some(block_on(batch.next()).unwrap()).filter(|finished| !finished.is_empty()) {
            for finished in finished {
                if finished.key != bad {
                    good.push((finished.key, finished.output.unwrap()));
                    continue;
                }
                assert_eq!(place(&finished.output.unwrap_err()), "loop 3 at position 0", "{device}");
                errors.set(errors.get() + 1);
                if errors.get() == 1 {
                    batch.feed(bad, &[9], depth(5), logits).unwrap();
                }
            }
        }
        assert_eq!((good.len(), errors.get()), (2, 2), "{device}");
        good.sort_by_key(|(key, _)| *key);
        for (found, alone) in good.iter().zip(&alone) {
            assert_eq!(found.1.rows, alone.rows, "{device}");
            assert!(same(&found.1.predictions[0].logits, &alone.predictions[0].logits), "{device}");
        }
        // Given up in the middle of the second run.
        batch.feed(bad, &[1, 2], depth(5), logits).unwrap();
        batch.feed(long, &[1], depth(2), logits).unwrap();
        block_on(batch.remove(bad)).unwrap();
        assert_eq!(block_on(batch.next()).unwrap().len(), 1);
    }
}

/// What no kernel was made for is refused with its reason.
#[test]
fn sizes_that_no_kernel_has_room_for() {
    let mut config = config();
    config["dim"] = 2500.into();
    for field in ["prelude_layers", "coda_layers"] {
        config[field] = 0.into();
    }
    config["n_heads"] = 1.into();
    let error = refrain::model::config::Config::parse("c", config.to_string().as_bytes())
        .and_then(|config| block_on(Engine::untrained(config, &on_cpu())).map(drop))
        .unwrap_err();
    assert_eq!(error.to_string(), "an attention key needs 2500 numbers, and there is a kernel for at most 1216");
    assert_eq!(error.hint().unwrap(), "no device helps: the model needs another version of refrain");
}
