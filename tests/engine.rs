//! The engine beyond the goldens: chunks, batches, split tensors, the shadow device, forks, depths, and the shipped models' problems.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use futures_util::StreamExt;
use pollster::block_on;
use refrain::backend::{DeviceChoice, DeviceOptions};
use refrain::generate::{Model, Params};
use refrain::model::defaults::Exit;
use refrain::model::files::Source;
use refrain::model::{Depth, Detail, Engine, Feed, Logits, Observed, Options, Pace, Prediction};
use refrain::precision::Precision;
use refrain::shipped;

use crate::devices;
use crate::goldens::{Case, feed, sequences};

const ALL: Logits = Logits { every: true, best: 1, all: true };
/// How far two ways of computing the same logits may be apart, relative to the largest.
const SAME: f32 = 5e-4;

/// The first golden sequence in one pass: its logits.
fn one_pass(case: &Case, engine: &mut Engine) -> Vec<f32> {
    let tokens = case.tokens();
    let mut one = sequences(engine, 1);
    feed(engine, &mut one, &[&tokens[0]], case.depth(), ALL).0
}

fn assert_same(what: &str, expected: &[f32], found: &[f32]) {
    assert_eq!(expected.len(), found.len(), "{what}: sizes");
    let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    let worst = expected.iter().zip(found).map(|(e, f)| (e - f).abs()).fold(0f32, f32::max);
    assert!(worst <= SAME * scale, "{what}: {worst} apart, largest {scale}");
}

#[test]
fn prefill_in_chunks_gives_the_same_logits() {
    for (device, options) in devices::all() {
        for name in ["gqa_odd", "mla_bias"] {
            let case = Case::open(name);
            let whole = one_pass(&case, &mut case.engine(options.clone(), None));
            for chunk in [1, 7] {
                // Chunks that the engine cuts …
                let found = one_pass(&case, &mut case.engine(options.clone(), Some(chunk)));
                assert_same(&format!("{name} on {device}, chunks of {chunk}"), &whole, &found);
            }
            // … and those of a caller who feeds piece by piece.
            let mut engine = case.engine(options.clone(), None);
            let mut one = sequences(&engine, 1);
            let tokens = case.tokens().swap_remove(0);
            let pieces: Vec<f32> = tokens.chunks(7).flat_map(|piece| feed(&mut engine, &mut one, &[piece], case.depth(), ALL).0).collect();
            assert_same(&format!("{name} on {device}, pieces of 7"), &whole, &pieces);
        }
    }
}

#[test]
fn sequences_in_one_pass_are_as_alone() {
    for (device, options) in devices::all() {
        for name in ["gqa_tiny", "mla_bias"] {
            let case = Case::open(name);
            let tokens = case.tokens().swap_remove(0);
            // Of different lengths, and one reversed, so that nothing fits by accident.
            let backwards: Vec<u32> = tokens.iter().rev().copied().collect();
            let texts = [&tokens[..], &backwards[..5], &tokens[3..9]];
            let load = |sequences, chunk| {
                let options =
                    Options { device: options.clone(), loops: Some(case.loops), sequences: Some(sequences), chunk, ..Default::default() };
                block_on(Engine::load(&Source::folder(&case.folder).unwrap(), &options, &mut |_| {})).unwrap()
            };
            let mut engine = load(1, None);
            let mut alone = Vec::new();
            for text in texts {
                let mut one = sequences(&engine, 1);
                alone.extend(feed(&mut engine, &mut one, &[text], case.depth(), ALL).0);
            }
            for chunk in [None, Some(4)] {
                let mut engine = load(3, chunk);
                let mut all = sequences(&engine, 3);
                let together = feed(&mut engine, &mut all, &texts, case.depth(), ALL).0;
                assert_same(&format!("{name} on {device}, chunk {chunk:?}"), &alone, &together);
            }
        }
    }
}

#[test]
fn tensors_over_the_binding_limit_are_split() {
    for (device, options) in devices::all() {
        for name in ["gqa_tiny", "mla_bias"] {
            let case = Case::open(name);
            let whole = one_pass(&case, &mut case.engine(options.clone(), None));
            let limit = if name == "gqa_tiny" { 20_000 } else { 31_000 };
            let small = DeviceOptions { max_binding: Some(limit), ..options.clone() };
            let mut engine = case.engine(small, None);
            assert_same(&format!("{name} on {device}, at most {limit} bytes a binding"), &whole, &one_pass(&case, &mut engine));
        }
    }
}

#[test]
fn the_shadow_device_finds_no_difference() {
    for (device, options) in devices::gpus() {
        let DeviceChoice::Name(name) = &options.device else { continue };
        if name != "llvmpipe" {
            continue; // one driver is enough here: `kernels` compares every kernel on each
        }
        for name in ["gqa_odd", "mla_bias"] {
            let case = Case::open(name);
            let shadow = DeviceOptions { device: DeviceChoice::Shadow, ..options.clone() };
            let mut engine = case.engine(shadow, None);
            assert!(engine.device().name.contains("checked against the CPU"), "{device}: {}", engine.device().name);
            let found = one_pass(&case, &mut engine);
            let cpu = DeviceOptions { device: DeviceChoice::Cpu, ..Default::default() };
            assert_same(&format!("{name} in the shadow"), &one_pass(&case, &mut case.engine(cpu, None)), &found);
        }
    }
}

#[test]
fn forks_and_truncations_continue_as_if_fed_anew() {
    for (device, options) in devices::all() {
        for name in ["gqa_tiny", "mla_tiny"] {
            let case = Case::open(name);
            let tokens = case.tokens().swap_remove(0);
            let load = Options { device: options.clone(), loops: Some(case.loops), sequences: Some(2), ..Default::default() };
            let mut engine = block_on(Engine::load(&Source::folder(&case.folder).unwrap(), &load, &mut |_| {})).unwrap();
            let whole = one_pass(&case, &mut engine);
            let vocabulary = engine.config().vocab_size;

            let mut first = engine.sequence().unwrap();
            let feed_one = |engine: &mut Engine, sequence: &mut _, tokens: &[u32]| -> Vec<Prediction> {
                block_on(engine.forward(&mut [Feed { sequence, tokens }], case.depth(), ALL)).unwrap().predictions
            };
            feed_one(&mut engine, &mut first, &tokens[..8]);
            let mut copy = block_on(engine.fork(&first)).unwrap();
            assert_eq!(copy.len(), 8);
            // The first goes astray, the copy goes on; then the first is cut back and follows.
            feed_one(&mut engine, &mut first, &[1, 2, 3]);
            let found = feed_one(&mut engine, &mut copy, &tokens[8..]);
            let logits: Vec<f32> = found.iter().flat_map(|p| p.logits.clone()).collect();
            assert_same(&format!("{name} on {device}, fork"), &whole[8 * vocabulary..], &logits);
            first.truncate(8);
            let found = feed_one(&mut engine, &mut first, &tokens[8..]);
            let logits: Vec<f32> = found.iter().flat_map(|p| p.logits.clone()).collect();
            assert_same(&format!("{name} on {device}, truncated"), &whole[8 * vocabulary..], &logits);

            assert_eq!(engine.sequence().unwrap_err().code(), "usage", "both places are taken");
            drop(copy);
            assert!(engine.sequence().is_ok(), "a dropped sequence frees its place");
        }
    }
}

#[test]
fn depth_is_what_was_asked_for() {
    let case = Case::open("gqa_odd");
    let tokens = case.tokens().swap_remove(0);
    for (device, options) in devices::all() {
        let mut engine = case.engine(options, None);
        let mut run = |depth: Depth| {
            let mut one = sequences(&engine, 1);
            let mut feeds = [Feed { sequence: &mut one[0], tokens: &tokens }];
            block_on(engine.forward_traced(&mut feeds, depth, ALL, Detail { states: true, ..Detail::default() })).unwrap()
        };
        let (free, _) = run(case.depth());
        let halting: Vec<usize> = free.rows.iter().map(|row| row.loops).collect();
        assert!(halting.iter().any(|loops| *loops < case.loops), "{device}: somebody halts early");

        // Halting only from loop 4 on: nobody stops before, and p counts as 0 until then.
        let (late, trace) = run(Depth { min_loops: 4, ..case.depth() });
        assert!(late.rows.iter().all(|row| row.loops >= 4), "{device}");
        assert!(trace.tokens.iter().all(|token| token.loops[2].halt_p == 0.0 && token.loops[3].halt_p > 0.0), "{device}");

        // A fixed number: every token runs it, and the output is h after it.
        let (fixed, trace) = run(Depth { loops: 5, min_loops: 0, exit: Exit::Fixed });
        assert!(fixed.rows.iter().all(|row| row.loops == 5 && !row.halted), "{device}");
        assert!(trace.tokens.iter().all(|token| token.recurrent == token.loops[4].h), "{device}");

        // Fewer loops are a prefix of more.
        let (few, _) = run(Depth { loops: 2, ..case.depth() });
        let expected: Vec<usize> = halting.iter().map(|loops| (*loops).min(2)).collect();
        assert_eq!(few.rows.iter().map(|row| row.loops).collect::<Vec<_>>(), expected, "{device}");
    }
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_changes() {
    let case = Case::open("gqa_tiny");
    let mut engine = case.engine(devices::all().swap_remove(0).1, None);
    let other = case.engine(devices::all().swap_remove(0).1, None);
    let mut sequence = engine.sequence().unwrap();
    let depth = case.depth();
    let mut refused = |engine: &mut Engine, tokens: &[u32], depth: Depth| {
        let result = block_on(engine.forward(&mut [Feed { sequence: &mut sequence, tokens }], depth, ALL));
        let error = result.unwrap_err();
        (error.code(), error.to_string())
    };
    assert_eq!(refused(&mut engine, &[], depth).0, "empty_prompt");
    assert_eq!(refused(&mut engine, &[0, 128], depth), ("token", "token id 128 is past the vocabulary: expected 0 to 127".into()));
    assert_eq!(refused(&mut engine, &[0; 65], depth).0, "context");
    assert_eq!(refused(&mut engine, &[0], Depth { loops: 0, ..depth }).0, "loops");
    assert_eq!(refused(&mut engine, &[0], Depth { loops: 5, ..depth }).0, "loops");
    assert_eq!(refused(&mut engine, &[0], Depth { min_loops: 5, ..depth }).0, "argument");
    assert!(sequence.is_empty());

    let mut strange = other.sequence().unwrap();
    let result = block_on(engine.forward(&mut [Feed { sequence: &mut strange, tokens: &[1] }], depth, ALL));
    assert_eq!(result.unwrap_err().code(), "usage");

    for (options, code) in [
        (Options { loops: Some(0), ..Default::default() }, "loops"),
        (Options { context: Some(65), ..Default::default() }, "context"),
        (Options { context: Some(0), ..Default::default() }, "argument"),
        (Options { sequences: Some(0), ..Default::default() }, "argument"),
        (Options { chunk: Some(0), ..Default::default() }, "argument"),
        (Options { pace: Some(Pace { group: 0, ahead: 1 }), ..Default::default() }, "argument"),
        (Options { device: DeviceOptions { max_binding: Some(4096), ..Default::default() }, ..Default::default() }, "too_small"),
    ] {
        let device = DeviceOptions { device: DeviceChoice::Cpu, ..options.device.clone() };
        let result = block_on(Engine::load(&Source::folder(&case.folder).unwrap(), &Options { device, ..options.clone() }, &mut |_| {}));
        assert_eq!(result.err().map(|e| e.code()), Some(code), "{options:?}");
    }
}

#[test]
fn a_generation_can_be_dropped_and_its_place_used_again() {
    let mut model = block_on(Model::open(&shipped::source("follow").unwrap(), &Options::default(), &mut |_| {})).unwrap();
    for _ in 0..3 {
        let mut generation = model.generate("a >b b >b ?a", Params { max_tokens: Some(20), ..Params::default() }).unwrap();
        assert!(block_on(generation.next()).unwrap().is_ok());
    }
    assert_eq!(model.generate("a >b b >b ?a", Params { max_tokens: Some(200), ..Params::default() }).err().unwrap().code(), "context");
    let steps = block_on(model.answer("a >b b >b ?a", Params::default())).unwrap();
    assert_eq!(steps.last().unwrap().next.text, "b");
    assert_eq!(steps.last().unwrap().loops, 2, "one hop takes two loops");
}

/// A shipped model with another `generation_config.json`.
fn with_defaults(name: &str, defaults: &'static str) -> Model {
    let Source::Memory { name, mut files } = shipped::source(name).unwrap() else { panic!("in memory") };
    files.retain(|(file, _)| file != "generation_config.json");
    files.push(("generation_config.json".into(), defaults.as_bytes().into()));
    block_on(Model::open(&Source::Memory { name, files }, &Options::default(), &mut |_| {})).unwrap()
}

/// The text of a generation, and how many steps it took.
fn text_of(model: &mut Model, prompt: &str, params: Params) -> (String, usize) {
    let mut generation = model.generate(prompt, params).unwrap();
    let (mut text, mut steps) = (String::new(), 0);
    while let Some(step) = block_on(generation.next()) {
        text.push_str(&step.unwrap().text);
        steps += 1;
    }
    (text, steps)
}

#[test]
fn a_generation_ends_where_it_should() {
    let params = || Params { max_tokens: Some(12), ..Params::default() };
    let mut model = with_defaults("follow", "{}");
    assert_eq!(model.engine().max_loops(), 8, "the trained number, where the folder says nothing");
    let prompt = "a >b b >c c >c ?a";
    let (whole, steps) = text_of(&mut model, prompt, params());
    assert_eq!(steps, 12);
    let words: Vec<&str> = whole.split(' ').collect();

    // A stop text that spans two tokens: nothing of it is shown, not even its beginning.
    let stop = format!("{} {}", words[3], words[4]);
    let at = whole.find(&stop).unwrap();
    let (text, _) = text_of(&mut model, prompt, Params { stop: vec![stop], ..params() });
    assert_eq!(text, whole[..at]);

    // What may be the beginning of a stop text is held back, and comes at the end where it is none after all.
    let stop = format!("{} nothing", words[11]);
    let (text, _) = text_of(&mut model, prompt, Params { stop: vec![stop], ..params() });
    assert_eq!(text, whole, "nothing is held back for ever");

    // A token that ends the output is not part of it.
    let end = model.encode(words[5]).unwrap()[0];
    let first = words.iter().position(|word| *word == words[5]).unwrap();
    let defaults = format!("{{\"eos_token_id\": {end}}}");
    let mut model = with_defaults("follow", Box::leak(defaults.into_boxed_str()));
    let (text, steps) = text_of(&mut model, prompt, params());
    assert_eq!((text, steps), (words[..first].join(" "), first));

    // Without a number the context is the end.
    let mut model = with_defaults("follow", "{}");
    let (_, steps) = text_of(&mut model, prompt, Params::default());
    assert_eq!(steps, 128 - 7);
}

#[test]
fn passes_that_nobody_needs_are_counted_as_empty() {
    let case = Case::open("gqa_odd");
    let device = devices::all().swap_remove(0).1;
    let options = Options { device, loops: Some(9), pace: Some(Pace { group: 8, ahead: 0 }), ..Options::default() };
    let mut engine = block_on(Engine::load(&Source::folder(&case.folder).unwrap(), &options, &mut |_| {})).unwrap();
    let depth = Depth { loops: 9, ..case.depth() };
    for token in 0..30 {
        let mut one = sequences(&engine, 1);
        feed(&mut engine, &mut one, &[&[token]], depth, Logits::GREEDY);
    }
    let counters = engine.counters();
    assert!(counters.empty_dispatches > 0 && counters.empty_dispatches < counters.dispatches, "{counters:?}");
}

#[test]
fn the_bytes_of_a_file_are_known_from_its_configuration() {
    for name in ["gqa_tiny", "mla_bias"] {
        let case = Case::open(name);
        let (config, _) = refrain::model::read_config(&Source::folder(&case.folder).unwrap()).unwrap();
        let file = std::fs::read(case.folder.join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let specs = config.tensors();
        let needed = specs.iter().filter(|spec| !spec.optional);
        let bytes: usize = needed.map(|spec| tensors.tensor(&spec.name).unwrap().data().len()).sum();
        assert_eq!(config.stored_bytes(Precision::F32), bytes as u64, "{name}");
        assert!(config.stored_bytes(Precision::Q8) < bytes as u64 / 2, "{name}");
    }
}

#[test]
fn a_generation_is_a_stream() {
    let mut model = block_on(Model::open(&shipped::source("follow").unwrap(), &Options::default(), &mut |_| {})).unwrap();
    let params = || Params { max_tokens: Some(5), ..Params::default() };
    let mut generation = model.generate("a >b b >c ?a", params()).unwrap();
    let one_by_one = std::iter::from_fn(|| block_on(generation.next())).map(|step| step.unwrap().token).collect::<Vec<_>>();
    drop(generation);
    let stream = model.generate("a >b b >c ?a", params()).unwrap();
    let collected = block_on(stream.map(|step| step.unwrap().token).collect::<Vec<_>>());
    assert_eq!((one_by_one.len(), collected), (5, one_by_one));
}

#[test]
fn what_is_worth_knowing_of_the_files_is_kept() {
    let Source::Memory { name, mut files } = shipped::source("follow").unwrap() else { panic!("in memory") };
    let weights = &mut files.iter_mut().find(|(file, _)| file.ends_with("safetensors")).unwrap().1;
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let data = &weights[8 + header..];
    let mut tensors: serde_json::Value = serde_json::from_slice(&weights[8..8 + header]).unwrap();
    tensors["freqs_cis"] = serde_json::json!({"dtype": "C64", "shape": [1], "data_offsets": [data.len(), data.len() + 8]});
    let tensors = tensors.to_string().into_bytes();
    *weights = [&(tensors.len() as u64).to_le_bytes()[..], &tensors, data, &[0; 8]].concat().into();
    let (source, options) = (Source::Memory { name, files }, Options::default());
    let notes = ["skipped freqs_cis (C64): RoPE tables are computed"];
    assert_eq!(block_on(Engine::load(&source, &options, &mut |_| {})).unwrap().notes(), notes);
    let cpu = devices::open(&devices::all().swap_remove(0).1);
    assert_eq!(Engine::load_on(cpu, &source, &options, &mut |_| {}).unwrap().notes(), notes);
}

#[test]
fn the_best_of_equals_is_the_first() {
    let best = |log_probabilities: &[f32]| Observed { log_probabilities: log_probabilities.to_vec(), loops: 1, experts: Vec::new() }.best();
    assert_eq!([best(&[-3.0, -1.0, -2.0, -1.0]), best(&[-1.0]), best(&[f32::NEG_INFINITY, -9.0])], [1, 0, 1]);
}

#[test]
fn who_observes_sees_the_experts_of_every_loop() {
    let case = Case::open("gqa_tiny");
    let mut engine = case.engine(devices::all().swap_remove(0).1, None);
    let observed = block_on(engine.observe(&case.tokens()[..1], case.depth())).unwrap();
    let each = engine.config().n_experts_per_tok;
    for token in &observed {
        assert_eq!(token.experts.iter().map(Vec::len).collect::<Vec<_>>(), vec![each; token.loops]);
    }
    assert_eq!(observed.len(), case.tokens()[0].len());
}

#[test]
fn a_decoded_token_allocates_nothing_and_waits_once() {
    for (device, options) in devices::all() {
        let case = Case::open("mla_tiny");
        let mut engine = case.engine(options, None);
        let mut one = sequences(&engine, 1);
        feed(&mut engine, &mut one, &[&case.tokens()[0][..case.prompt]], case.depth(), Logits::GREEDY);
        let mut per_token = Vec::new();
        for token in [3, 1, 4, 1, 5] {
            let (bytes, before) = (engine.allocated_bytes(), engine.counters());
            feed(&mut engine, &mut one, &[&[token]], case.depth(), Logits::GREEDY);
            let after = engine.counters();
            assert_eq!(engine.allocated_bytes(), bytes, "{device}");
            assert_eq!(after.read_backs - before.read_backs, 1, "{device}");
            // Each pass has the same kernels, whoever is in it.
            let kernels = (after.dispatches - before.dispatches) - (after.empty_dispatches - before.empty_dispatches);
            per_token.push((after.passes - before.passes, kernels));
        }
        let per_pass = |a: &(u64, u64), b: &(u64, u64)| (a.1 as i64 - b.1 as i64, a.0 as i64 - b.0 as i64);
        let (kernels, passes) = per_token.windows(2).map(|pair| per_pass(&pair[0], &pair[1])).find(|(_, passes)| *passes != 0).unwrap();
        let same = per_token.windows(2).map(|pair| per_pass(&pair[0], &pair[1])).all(|(k, p)| k * passes == p * kernels);
        assert!(same, "{device}: passes and kernels {per_token:?}");
    }
}
