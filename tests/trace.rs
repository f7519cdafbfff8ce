//! Traces: what they say of a token is what a run that stops there gives, and watching changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use pollster::block_on;
use refrain::generate::{Model, Params};
use refrain::model::defaults::Exit;
use refrain::model::{Depth, Detail, Engine, Feed, Logits, Options, Output, Sequence, Trace};
use refrain::shipped;

use crate::devices;
use crate::goldens::Case;

const BEST: Logits = Logits { every: true, best: 3, all: true };
const ALL: Detail = Detail { states: true, experts: true, lens: 3 };

fn traced(engine: &mut Engine, sequence: &mut Sequence, tokens: &[u32], depth: Depth) -> (Output, Trace) {
    block_on(engine.forward_traced(&mut [Feed { sequence, tokens }], depth, BEST, ALL)).unwrap()
}

fn plain(engine: &mut Engine, sequence: &mut Sequence, tokens: &[u32], depth: Depth) -> Output {
    block_on(engine.forward(&mut [Feed { sequence, tokens }], depth, BEST)).unwrap()
}

#[test]
fn the_lens_shows_what_a_token_would_predict_if_it_stopped_there() {
    for (device, options) in devices::all() {
        // The drivers run what the CPU runs; one case on each shows that nothing is in the way.
        let cases = if device == "cpu" { &["gqa_tiny", "gqa_odd", "mla_tiny"][..] } else { &["mla_tiny"] };
        for name in cases {
            let case = Case::open(name);
            let tokens = case.tokens().swap_remove(0);
            // The tokens before come in one chunk with it, in a chunk of their own, or in several.
            let chunks = if device == "cpu" { &[(0, Some(3)), (6, None), (0, None)][..] } else { &[(5, Some(3))] };
            for &(before, chunk) in chunks {
                let mut engine = case.engine(options.clone(), chunk);
                let mut sequence = engine.sequence().unwrap();
                if before > 0 {
                    plain(&mut engine, &mut sequence, &tokens[..before], case.depth());
                }
                let (_, trace) = traced(&mut engine, &mut sequence, &tokens[before..9], case.depth());
                for (token, position) in trace.tokens.iter().zip(before..) {
                    for (t, at) in token.loops.iter().enumerate() {
                        sequence.truncate(position);
                        let stops = Depth { loops: t + 1, min_loops: 0, exit: Exit::Fixed };
                        let expected = plain(&mut engine, &mut sequence, &tokens[position..=position], stops).predictions.swap_remove(0);
                        for ((id, p), (expected_id, logit)) in at.lens.iter().zip(&expected.best) {
                            let place = format!("{name} on {device}, position {position}, loop {}", t + 1);
                            assert!((p - (logit - expected.log_sum_exp).exp()).abs() < 1e-4, "{place}: {:?}, {expected:?}", at.lens);
                            assert_eq!(id, expected_id, "{place}");
                        }
                        assert_eq!(at.lens.len(), 3);
                    }
                    // The tokens after it need it as it was.
                    sequence.truncate(position);
                    plain(&mut engine, &mut sequence, &tokens[position..=position], case.depth());
                }
            }
        }
    }
}

/// The same but for rounding: a GPU adds up few rows in another order than many, and an unwatched pass may have other rows beside.
fn same(a: &Output, b: &Output, what: &str) {
    assert_eq!(a.rows, b.rows, "{what}");
    assert_eq!(a.predictions.len(), b.predictions.len(), "{what}");
    for (a, b) in a.predictions.iter().zip(&b.predictions) {
        assert_eq!((a.row, a.best[0].0), (b.row, b.best[0].0), "{what}");
        let largest = a.logits.iter().fold(0f32, |max, x| max.max(x.abs()));
        let apart = a.logits.iter().zip(&b.logits).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(!a.logits.is_empty() && apart <= 1e-5 * largest, "{what}: {apart} of {largest}");
    }
}

#[test]
fn watching_changes_nothing_and_its_numbers_hang_together() {
    for (device, options) in devices::all() {
        for name in ["gqa_tiny", "mla_bias"] {
            let case = Case::open(name);
            let tokens = case.tokens().swap_remove(0);
            let (mut one, mut other) = (case.engine(options.clone(), Some(5)), case.engine(options.clone(), Some(5)));
            let (mut watched, mut alone) = (one.sequence().unwrap(), other.sequence().unwrap());
            for piece in [&tokens[..7], &tokens[7..8], &tokens[8..]] {
                let before = one.counters();
                let (output, trace) = traced(&mut one, &mut watched, piece, case.depth());
                let work = one.counters().since(&before);
                same(&output, &plain(&mut other, &mut alone, piece, case.depth()), &format!("{name} on {device}"));

                for (token, row) in trace.tokens.iter().zip(&output.rows) {
                    assert!(token.loops.len() >= row.loops, "{name} on {device}: all loops that it took are there");
                    let weights: Vec<f32> = token.loops.iter().map(|at| at.weight).collect();
                    assert!(weights[row.loops..].iter().all(|weight| *weight == 0.0), "{name} on {device}: {weights:?}");
                    assert!(!row.halted || (weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{name} on {device}: {weights:?}");
                    for (i, out) in token.recurrent.iter().enumerate() {
                        let sum: f32 = token.loops.iter().map(|at| at.weight * at.h[i]).sum();
                        assert!((sum - out).abs() < 1e-4, "{name} on {device}: {sum} and {out}");
                    }
                    let start = token.prelude.last().unwrap();
                    let states = std::iter::once(start).chain(token.loops.iter().map(|at| &at.h));
                    let states: Vec<&Vec<f32>> = states.collect();
                    for (at, pair) in token.loops.iter().zip(states.windows(2)) {
                        let norm = |x: Vec<f32>| x.iter().map(|x| x * x).sum::<f32>().sqrt();
                        let change = norm(pair[1].iter().zip(pair[0]).map(|(new, old)| new - old).collect()) / norm(pair[0].clone());
                        assert!((change - at.delta).abs() < 1e-4 * change.max(1.0), "{name} on {device}: {change} and {}", at.delta);
                        assert!((at.experts.iter().map(|(_, gate)| gate).sum::<f32>() - 1.0).abs() < 1e-5);
                        assert!(at.router_margin >= 0.0, "{name} on {device}: {}", at.router_margin);
                    }
                }
                let sum = |take: fn(&refrain::model::PassTrace) -> usize| trace.passes.iter().map(take).sum::<usize>() as u64;
                assert_eq!(trace.passes.len() as u64, work.passes, "{name} on {device}");
                assert_eq!(sum(|pass| pass.rows), work.rows, "{name} on {device}");
                assert_eq!(sum(|pass| pass.rows_catching_up), work.rows_catching_up, "{name} on {device}");
                assert_eq!(sum(|pass| pass.weight_bytes as usize), work.weight_bytes, "{name} on {device}");
                assert!(trace.passes.iter().all(|pass| pass.loops.iter().map(|(_, rows)| rows).sum::<usize>() == pass.rows));
                assert_eq!(work.empty_dispatches, 0, "{name} on {device}: a watched pass is handed over when it is needed");
            }
            let [ledger, same] = [block_on(one.ledger(&watched)).unwrap(), block_on(other.ledger(&alone)).unwrap()];
            assert_eq!(ledger, same, "{name} on {device}");
        }
    }
}

#[test]
fn a_generation_carries_its_traces() {
    let mut model = block_on(Model::open(&shipped::source("follow").unwrap(), &Options::default(), &mut |_| {})).unwrap();
    let detail = Some(Detail { experts: true, lens: 2, ..Detail::default() });
    let steps = block_on(model.answer("a >b b >c c >d d >d ?a", Params { trace: detail, ..Params::default() })).unwrap();
    let last = steps.last().unwrap();
    let trace = last.trace.as_ref().unwrap();
    // Three arrows on: each loop finds the next, one more to be sure.
    let ends: Vec<String> =
        trace.loops.iter().map(|at| model.tokenizer().unwrap().text(at.lens[0].0).unwrap().trim().to_string()).collect();
    assert_eq!(ends.last().map(String::as_str), Some("d"), "{ends:?}");
    assert_ne!(ends[0], "d", "one loop is not enough: {ends:?}");
    assert_eq!(trace.loops.len(), last.loops);
    assert_eq!(steps.iter().map(|step| step.passes.len()).sum::<usize>(), last.loops, "a pass a loop of the deepest token");
    assert_eq!(steps[0].work.passes as usize, last.loops);
    let plain = block_on(model.answer("a >b b >c c >d d >d ?a", Params::default())).unwrap();
    assert!(plain.iter().all(|step| step.trace.is_none() && step.passes.is_empty() && step.reached.is_empty()));
    assert_eq!(last.reached, vec![steps.len(); last.loops], "the deepest token came last, and took everybody along");
    // One that goes less deep puts off what the others have run.
    let params = Params { trace: detail, max_tokens: Some(1), ..Params::default() };
    let mut generation = model.generate("a >b b >c c >d d >d ?a", params).unwrap();
    let next = block_on(generation.next()).unwrap().unwrap();
    let staircase = (0..last.loops).map(|t| steps.len() + usize::from(t < next.loops)).collect::<Vec<_>>();
    assert!(next.loops < last.loops && next.debt > 0, "{} loops", next.loops);
    assert_eq!(next.reached, staircase);
    assert_eq!(plain.last().unwrap().next, last.next);
    assert_eq!(plain.last().unwrap().debt, last.debt);
}
