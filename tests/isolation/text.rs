//! A sequence in a place that another has used, or beside others in a batch, is what it is alone. The others leave poison: token
//! `OVERFLOWS` turns all that is computed of it into NaN or infinity, in every slot of the cache, in the states and in the work tensors.

use pollster::block_on;
use refrain::Result;
use refrain::backend::DeviceOptions;
use refrain::generate::{Model, Params, Prompt};
use refrain::model::defaults::Exit;
use refrain::model::{Batch, Depth, Engine, Feed, Logits, Options, Output, Sequence};
use refrain::sampler::Sampling;
use serde_json::{Value, json};

use crate::cli_run::{json_lines, said};
use crate::devices;
use crate::random::{OVERFLOWS, mla, overflowing};

const ALL: Logits = Logits { every: true, best: 3, all: true };
const CONTEXT: usize = 48;
/// As the sequence under test runs.
const DEPTH: Depth = Depth { loops: 3, min_loops: 0, exit: Exit::Model };
/// As those run that fill the memory: every token every loop.
const FULL: Depth = Depth { loops: 5, min_loops: 0, exit: Exit::Fixed };
/// The sequence under test: a prompt, then token by token.
const PROMPT: &[u32] = &[5, 39, 17, 12, 0, 3, 3];
const DECODED: &[u32] = &[21, 4, 4, 38];

fn load(changes: &Value, device: &DeviceOptions, chunk: Option<usize>) -> Engine {
    let options = Options { device: device.clone(), loops: Some(5), sequences: Some(3), chunk, ..Options::default() };
    block_on(Engine::load(&overflowing(changes), &options, &mut |_| {})).unwrap()
}

fn feed(engine: &mut Engine, sequence: &mut Sequence, tokens: &[u32], depth: Depth) -> Result<Output> {
    block_on(engine.forward(&mut [Feed { sequence, tokens }], depth, ALL))
}

/// All that can be known of an output, to the bit.
fn bits(output: &Output) -> Vec<u32> {
    let rows = output.rows.iter().flat_map(|row| [row.loops as u32, row.halted.into()]);
    let predictions = output.predictions.iter().flat_map(|p| p.logits.iter().chain([&p.log_sum_exp]).map(|x| x.to_bits()));
    rows.chain(predictions).collect()
}

/// What is told of the sequence under test from position `first` of its prompt on.
fn told(engine: &mut Engine, sequence: &mut Sequence, first: usize) -> Vec<Vec<u32>> {
    let pieces = std::iter::once(&PROMPT[first..]).chain(DECODED.chunks(1));
    pieces.map(|tokens| bits(&feed(engine, sequence, tokens, DEPTH).unwrap())).collect()
}

/// Fills every place of the cache with what was never finite, and frees them.
fn poison(engine: &mut Engine) {
    let mut all = [0, 1, 2].map(|_| engine.sequence().unwrap());
    for sequence in &mut all {
        let error = feed(engine, sequence, &[OVERFLOWS; CONTEXT], FULL).unwrap_err();
        assert_eq!(error.code(), "non_finite", "it is poison");
    }
}

/// A number below `below`, from a seed that moves on.
fn draw(seed: &mut u64, below: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize % below
}

/// Random text, which has nothing to do with anything.
fn junk(seed: &mut u64, len: usize) -> Vec<u32> {
    (0..len).map(|_| (8 + draw(seed, 32)) as u32).collect()
}

fn models() -> [(&'static str, Value); 2] {
    [("gqa", json!({})), ("mla", mla())]
}

#[test]
fn a_used_place_tells_nothing() {
    for (device, options) in devices::all() {
        // The drivers take seconds to make the kernels of an engine.
        let [gqa, mla] = models();
        let all = vec![(gqa.clone(), None), (mla.clone(), Some(4)), (gqa, Some(4)), (mla, None)];
        for ((kind, changes), chunk) in all.into_iter().take(if device == "cpu" { 4 } else { 2 }) {
            let what = format!("{kind} on {device}, chunk {chunk:?}");
            let mut fresh = load(&changes, &options, chunk);
            let mut sequence = fresh.sequence().unwrap();
            let alone = told(&mut fresh, &mut sequence, 0);

            let mut engine = load(&changes, &options, chunk);
            let again = |engine: &mut Engine| {
                let mut sequence = engine.sequence().unwrap();
                told(engine, &mut sequence, 0)
            };
            // Junk in the same place, and longer.
            let mut seed = 1;
            for round in 0..3 {
                let mut sequence = engine.sequence().unwrap();
                let junk = junk(&mut seed, CONTEXT);
                feed(&mut engine, &mut sequence, &junk[..30], FULL).unwrap();
                feed(&mut engine, &mut sequence, &junk[30..], DEPTH).unwrap();
                drop(sequence);
                assert_eq!(again(&mut engine), alone, "{what}: after junk, round {round}");
            }
            poison(&mut engine);
            assert_eq!(again(&mut engine), alone, "{what}: after poison");

            // What was cut off, or failed, is as if it had never been.
            poison(&mut engine);
            let mut sequence = engine.sequence().unwrap();
            feed(&mut engine, &mut sequence, &PROMPT[..4], DEPTH).unwrap();
            feed(&mut engine, &mut sequence, &junk(&mut seed, 20), FULL).unwrap();
            sequence.truncate(3);
            assert_eq!(feed(&mut engine, &mut sequence, &[OVERFLOWS; 9], FULL).unwrap_err().code(), "non_finite");
            sequence.truncate(0);
            assert_eq!(told(&mut engine, &mut sequence, 0), alone, "{what}: cut off");
            drop(sequence);

            // A copy in a poisoned place, beside a poisoned one.
            poison(&mut engine);
            let [mut first, mut beside] = [0, 1].map(|_| engine.sequence().unwrap());
            feed(&mut engine, &mut first, &PROMPT[..4], DEPTH).unwrap();
            let mut one = fresh.sequence().unwrap();
            feed(&mut fresh, &mut one, &PROMPT[..4], DEPTH).unwrap();
            let mut copy = block_on(engine.fork(&first)).unwrap();
            feed(&mut engine, &mut beside, &[OVERFLOWS; CONTEXT], FULL).unwrap_err();
            assert_eq!(told(&mut engine, &mut copy, 4), told(&mut fresh, &mut one, 4), "{what}: a copy");
        }
    }
}

/// Largest difference of logits, as a share of the largest; none where loops differ.
fn apart(found: &[Output], alone: &[Output]) -> Option<f32> {
    let rows = |outputs: &[Output]| outputs.iter().flat_map(|output| output.rows.clone()).collect::<Vec<_>>();
    let logits = |outputs: &[Output]| -> Vec<f32> {
        outputs.iter().flat_map(|output| output.predictions.iter().flat_map(|p| p.logits.clone())).collect()
    };
    let (found_logits, logits) = (logits(found), logits(alone));
    let scale = logits.iter().fold(0f32, |max, x| max.max(x.abs()));
    let worst =
        found_logits.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0f32, |max, x| if x > max || x.is_nan() { x } else { max });
    (rows(found) == rows(alone) && found_logits.len() == logits.len()).then_some(worst / scale)
}

/// Others come and go around the sequence of this key: with junk or poison, a few tokens or many, waited for or not.
fn stir(batch: &mut Batch, others: &mut Vec<usize>, seed: &mut u64) {
    match draw(seed, 4) {
        0 | 1 if others.len() < 2 => {
            let sequence = batch.engine().sequence().unwrap();
            let key = batch.insert(sequence).unwrap();
            let tokens = match draw(seed, 3) {
                0 => vec![OVERFLOWS; 1 + draw(seed, CONTEXT)],
                _ => {
                    let len = 1 + draw(seed, CONTEXT);
                    junk(seed, len)
                }
            };
            batch.feed(key, &tokens, if draw(seed, 2) == 0 { FULL } else { DEPTH }, ALL).unwrap();
            others.push(key);
        }
        2 if !others.is_empty() => {
            // It may be in the middle of its tokens.
            let gone = others.swap_remove(draw(seed, others.len()));
            block_on(batch.remove(gone)).unwrap();
        }
        _ => {}
    }
}

#[test]
fn others_that_join_and_leave_change_nothing() {
    for (device, options) in devices::all() {
        let rounds = if device == "cpu" { 40 } else { 4 };
        for (kind, changes) in models() {
            let pieces: Vec<&[u32]> = std::iter::once(PROMPT).chain(DECODED.chunks(1)).collect();
            let mut fresh = load(&changes, &options, Some(6));
            let mut sequence = fresh.sequence().unwrap();
            let alone: Vec<Output> = pieces.iter().map(|tokens| feed(&mut fresh, &mut sequence, tokens, DEPTH).unwrap()).collect();
            let (mut engine, mut seed, mut together) = (load(&changes, &options, Some(6)), 3, 0);
            for round in 0..rounds {
                let what = format!("{kind} on {device}, round {round}");
                let mut batch = block_on(engine.batch()).unwrap();
                let mut others = Vec::new();
                stir(&mut batch, &mut others, &mut seed);
                let sequence = batch.engine().sequence().unwrap();
                let key = batch.insert(sequence).unwrap();
                let mut found = Vec::new();
                for tokens in &pieces {
                    stir(&mut batch, &mut others, &mut seed);
                    batch.feed(key, tokens, DEPTH, ALL).unwrap();
                    together += others.len();
                    let pieces = found.len();
                    while found.len() == pieces {
                        for finished in block_on(batch.next()).unwrap().into_iter().filter(|finished| finished.key == key) {
                            found.push(finished.output.unwrap_or_else(|error| panic!("{what}: {error}")));
                        }
                        if found.len() == pieces {
                            stir(&mut batch, &mut others, &mut seed);
                        }
                    }
                }
                // Other numbers of rows in a pass are other orders of summing.
                let apart = apart(&found, &alone);
                assert!(apart.is_some_and(|apart| apart < 1e-4), "{what}: {apart:?} apart");
            }
            assert!(together > rounds, "{kind} on {device}: others were there {together} times");
        }
    }
}

/// Ids that there are not are refused, and nobody notices.
#[test]
fn wrong_ids_are_errors_and_change_nobody() {
    for (device, options) in devices::all() {
        let mut fresh = load(&json!({}), &options, None);
        let mut alone = fresh.sequence().unwrap();
        feed(&mut fresh, &mut alone, &PROMPT[..4], DEPTH).unwrap();
        let mut engine = load(&json!({}), &options, None);
        let mut strange = fresh.sequence().unwrap();
        let mut sequence = engine.sequence().unwrap();
        feed(&mut engine, &mut sequence, &PROMPT[..4], DEPTH).unwrap();
        let mut other = engine.sequence().unwrap();
        let full = junk(&mut 5, CONTEXT);
        let cases: [(&[u32], Depth, &str); 6] = [
            (&[1, 40], DEPTH, "token"),
            (&[u32::MAX], DEPTH, "token"),
            (&[full.as_slice(), &[1]].concat(), DEPTH, "context"),
            (&[1], Depth { loops: 6, ..DEPTH }, "loops"),
            (&[1], Depth { loops: 0, ..DEPTH }, "loops"),
            (&[], DEPTH, "empty_prompt"),
        ];
        for (tokens, depth, code) in cases {
            let mut feeds = [Feed { sequence: &mut sequence, tokens: &PROMPT[4..] }, Feed { sequence: &mut other, tokens }];
            let error = block_on(engine.forward(&mut feeds, depth, ALL)).unwrap_err();
            assert_eq!(error.code(), code, "{device}: {error}");
        }
        assert_eq!(feed(&mut engine, &mut strange, &[1], DEPTH).unwrap_err().code(), "usage", "{device}: of another engine");
        assert_eq!(block_on(engine.fork(&strange)).unwrap_err().code(), "usage", "{device}");
        assert_eq!(block_on(engine.ledger(&strange)).unwrap_err().code(), "usage", "{device}");
        assert_eq!(block_on(engine.catch_up(&strange, 9)).unwrap_err().code(), "usage", "{device}");
        let mut batch = block_on(engine.batch()).unwrap();
        assert_eq!(batch.insert(strange).unwrap_err().code(), "usage", "{device}");
        assert_eq!(batch.feed(0, &[1], DEPTH, ALL).unwrap_err().code(), "usage", "{device}: a key that there is not");
        assert_eq!(block_on(batch.remove(u32::MAX as usize)).unwrap_err().code(), "usage", "{device}");
        let key = batch.insert(other).unwrap();
        assert_eq!(batch.feed(key, &[99], DEPTH, ALL).unwrap_err().code(), "token", "{device}");
        drop(batch);
        assert_eq!(told(&mut engine, &mut sequence, 4), told(&mut fresh, &mut alone, 4), "{device}");
    }
}

/// The text of a shipped model after others in the same place, against that of a process that has seen nothing else.
#[test]
fn a_later_text_is_that_of_a_fresh_process() {
    let prompt = "c >a a >b b >d d >d ?c e >f";
    let args = ["run", "--format", "jsonl", "-m", "follow", "--no-in-place", "-n", "12", "--temp", "2", "-s", "7"];
    let fresh = json_lines(&said(&args, prompt));
    let source = refrain::shipped::source("follow").unwrap();
    let device = devices::all().swap_remove(0).1;
    let mut model = block_on(Model::open(&source, &Options { device, ..Options::default() }, &mut |_| {})).unwrap();
    let (mut seed, vocabulary) = (9, model.config().vocab_size);
    let mut generate = |prompt: Prompt, seed| {
        let sampling = Some(Sampling { temperature: 2.0, seed, ..Sampling::default() });
        let params = Params { max_tokens: Some(12), sampling, echo: seed == 7, ..Params::default() };
        let mut generation = model.generate(prompt, params).unwrap();
        let mut steps = Vec::new();
        while let Some(step) = block_on(generation.next()) {
            steps.push(step.unwrap());
        }
        steps
    };
    for round in 0..5 {
        let junk: Vec<u32> = (0..100).map(|_| draw(&mut seed, vocabulary) as u32).collect();
        assert_eq!(generate(junk.into(), 100 + round).len(), 12);
    }
    let steps: Vec<_> = generate(prompt.into(), 7).into_iter().filter(|step| step.role == refrain::generate::Role::Output).collect();
    assert_eq!(steps.len(), 12);
    assert_eq!(fresh.len(), steps.len());
    for (fresh, step) in fresh.iter().zip(&steps) {
        assert_eq!((&fresh["token"], &fresh["text"], &fresh["loops"]), (&json!(step.token), &json!(step.text), &json!(step.loops)));
        assert_eq!(fresh["logprob"].as_f64().map(|x| (x as f32).to_bits()), step.logprob.map(f32::to_bits));
    }
}
