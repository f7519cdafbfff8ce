//! The ledger by itself, against a list of how many loops each position has run; and what passes hold, seen in traces.

use std::ops::Range;

use pollster::block_on;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use refrain::model::defaults::Exit;
use refrain::model::files::Source;
use refrain::model::{Depth, Detail, Engine, Feed, Ledger, Options, PassTrace};

use super::play::ALL;
use crate::devices;
use crate::goldens::Case;

/// The loops that each position has run, as the ledger has it.
fn reached(ledger: &Ledger) -> Vec<usize> {
    (0..ledger.positions()).map(|position| ledger.reached(position)).collect()
}

fn advanced(steps: &[(usize, Range<usize>)]) -> Ledger {
    let mut ledger = Ledger::default();
    steps.iter().for_each(|(t, positions)| ledger.advance(*t, positions.clone()).unwrap());
    ledger
}

#[test]
fn a_ledger_counts_loops_and_debt() {
    let mut ledger = advanced(&[(0, 0..4), (1, 0..2), (0, 4..6), (1, 2..4), (2, 0..2), (3, 0..1)]);
    assert_eq!(reached(&ledger), [4, 3, 2, 2, 1, 1]);
    assert_eq!((0..5).map(|t| ledger.done(t)).collect::<Vec<_>>(), [6, 4, 2, 1, 0]);
    assert_eq!((ledger.positions(), ledger.deepest(), ledger.reached(6)), (6, 4, 0));
    assert_eq!((0..6).map(|loops| ledger.debt(loops)).collect::<Vec<_>>(), [0, 0, 2, 6, 11, 17]);
    ledger.truncate(9);
    assert_eq!(ledger.positions(), 6);
    ledger.truncate(3);
    assert_eq!(reached(&ledger), [4, 3, 2]);
    assert_eq!(ledger.debt(4), 3);
    ledger.truncate(0);
    assert_eq!((ledger.positions(), ledger.deepest(), ledger.debt(4)), (0, 0, 0));
    ledger.advance(0, 0..1).unwrap();
}

#[test]
fn a_ledger_takes_nobody_twice_and_leaves_nobody_out() {
    let mut ledger = advanced(&[(0, 0..4), (1, 0..2)]);
    let before = ledger.clone();
    for (t, positions, why) in [
        (0, 3..5, "position 3 twice"),
        (1, 0..1, "position 0 twice"),
        (1, 3..4, "position 2 left out"),
        (0, 5..6, "position 4 left out"),
        (1, 2..5, "position 4 before its first loop"),
        (2, 0..3, "position 2 before its second loop"),
        (3, 0..1, "a loop left out"),
        (1, 2..2, "nobody"),
    ] {
        assert_eq!(ledger.advance(t, positions).unwrap_err().code(), "usage", "{why}");
        assert_eq!(ledger, before, "{why}");
    }
    ledger.advance(1, 2..4).unwrap();
    ledger.advance(2, 0..3).unwrap();
}

#[test]
fn a_ledger_is_a_list_of_loops_whatever_is_tried() {
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]));
    // Loop, offset from the next position of that loop, count; or a truncation.
    let step = (0..5usize, prop_oneof![6 => Just(0i64), 1 => -2..=2i64], 0..4usize, prop::option::weighted(0.1, 0..12usize));
    let result = runner.run(&prop::collection::vec(step, 1..60), |steps| {
        let (mut ledger, mut list) = (Ledger::default(), Vec::<usize>::new());
        for (t, offset, count, cut) in steps {
            if let Some(len) = cut {
                ledger.truncate(len);
                list.truncate(len);
            }
            let start = (ledger.done(t) as i64 + offset).max(0) as usize;
            let positions = start..start + count;
            // Everybody before them is past the loop, and they are just before it.
            let past = list.iter().filter(|loops| **loops > t).count() == start;
            let ready = positions.clone().all(|position| if t == 0 { position >= list.len() } else { list.get(position) == Some(&t) });
            prop_assert_eq!(ledger.advance(t, positions.clone()).is_ok(), past && ready && count > 0);
            if past && ready && count > 0 {
                list.resize(list.len().max(positions.end), 0);
                list[positions].iter_mut().for_each(|loops| *loops += 1);
            }
            prop_assert_eq!(reached(&ledger), list.clone());
            prop_assert_eq!(ledger.deepest(), list.iter().max().copied().unwrap_or(0));
            let debt = |loops: usize| list.iter().map(|ran| loops.saturating_sub(*ran)).sum::<usize>();
            prop_assert!((0..7).all(|loops| ledger.debt(loops) == debt(loops)));
        }
        Ok(())
    });
    result.unwrap();
}

/// An engine on the CPU that lets 4 rows catch up in a pass; a first sequence of 11 tokens and a second of 1, all fed with one loop.
fn with_debt(sequences: usize) -> (Engine, Vec<refrain::model::Sequence>) {
    let case = Case::open("gqa_odd");
    let options =
        Options { device: devices::all().swap_remove(0).1, loops: Some(4), sequences: Some(2), catch_up: Some(4), ..Options::default() };
    let mut engine = block_on(Engine::load(&Source::folder(&case.folder).unwrap(), &options, &mut |_| {})).unwrap();
    let mut all: Vec<_> = (0..sequences).map(|_| engine.sequence().unwrap()).collect();
    for (sequence, tokens) in all.iter_mut().zip([&[7; 11][..], &[5]]) {
        block_on(engine.forward(&mut [Feed { sequence, tokens }], fixed(1), ALL)).unwrap();
    }
    (engine, all)
}

fn fixed(loops: usize) -> Depth {
    Depth { loops, min_loops: 0, exit: Exit::Fixed }
}

/// Feeds one token to each sequence, to run three loops: the passes of the loop.
fn passes(engine: &mut Engine, sequences: &mut [refrain::model::Sequence]) -> Vec<PassTrace> {
    let mut feeds: Vec<Feed> = sequences.iter_mut().map(|sequence| Feed { sequence, tokens: &[3] }).collect();
    block_on(engine.forward_traced(&mut feeds, fixed(3), ALL, Detail::default())).unwrap().1.passes
}

#[test]
fn old_tokens_catch_up_in_the_order_of_their_positions_a_few_in_each_pass() {
    let (mut engine, mut one) = with_debt(1);
    let passes = passes(&mut engine, &mut one);
    let loops: Vec<&[(usize, usize)]> = passes.iter().map(|pass| &pass.loops[..]).collect();
    // The token's own row goes with the last of them.
    let expected: [&[(usize, usize)]; 7] = [&[(1, 1)], &[(2, 4)], &[(2, 4)], &[(2, 4)], &[(3, 4)], &[(3, 4)], &[(3, 4)]];
    assert_eq!(loops, expected);
    assert_eq!(passes.iter().map(|pass| pass.rows_catching_up).collect::<Vec<_>>(), [0, 4, 4, 3, 4, 4, 3]);
    assert_eq!(reached(&block_on(engine.ledger(&one[0])).unwrap()), [3; 12]);
}

#[test]
fn rows_at_different_loops_of_different_sequences_share_a_pass() {
    let (mut engine, mut two) = with_debt(2);
    let passes = passes(&mut engine, &mut two);
    let loops: Vec<&[(usize, usize)]> = passes.iter().map(|pass| &pass.loops[..]).collect();
    // The second has one old token and is through after three passes; it takes one of the four places for old tokens twice.
    let expected: [&[(usize, usize)]; 8] =
        [&[(1, 1), (1, 1)], &[(2, 2), (2, 3)], &[(3, 2), (2, 3)], &[(2, 4)], &[(2, 2)], &[(3, 4)], &[(3, 4)], &[(3, 4)]];
    assert_eq!(loops, expected);
    assert!(passes.iter().all(|pass| pass.rows_catching_up <= 4));
}

#[test]
fn tokens_in_flight_are_not_taken_for_old_ones_that_catch_up_early() {
    let case = Case::open("gqa_odd");
    let device = devices::all().swap_remove(0).1;
    let options = Options { device, loops: Some(4), sequences: Some(2), chunk: Some(4), eager: 1, ..Options::default() };
    let mut engine = block_on(Engine::load(&Source::folder(&case.folder).unwrap(), &options, &mut |_| {})).unwrap();
    let mut two = [engine.sequence().unwrap(), engine.sequence().unwrap()];
    // Both go deep at first; the second has a token that stands behind, so that an eager row of its own takes a place of the first
    // pass below. Of the three tokens of the first only two fit that pass, and they wait for the third before its second loop.
    for (who, loops) in [(0, 4), (1, 4), (1, 1)] {
        block_on(engine.forward(&mut [Feed { sequence: &mut two[who], tokens: &[7] }], fixed(loops), ALL)).unwrap();
    }
    let tokens: [&[u32]; 2] = [&[3, 1, 4], &[5]];
    let mut feeds: Vec<Feed> = two.iter_mut().zip(tokens).map(|(sequence, tokens)| Feed { sequence, tokens }).collect();
    let (output, trace) = block_on(engine.forward_traced(&mut feeds, fixed(1), ALL, Detail::default())).unwrap();
    let loops: Vec<usize> = output.rows.iter().map(|row| row.loops).collect();
    assert_eq!(loops, [1; 4], "{:?}", trace.passes);
}

#[test]
fn nobody_catches_up_who_was_cut_off() {
    let case = Case::open("gqa_odd");
    let mut engine = case.engine(devices::all().swap_remove(0).1, None);
    let mut one = engine.sequence().unwrap();
    for (tokens, loops) in [(&[7][..], 3), (&[5; 10], 1)] {
        block_on(engine.forward(&mut [Feed { sequence: &mut one, tokens }], fixed(loops), ALL)).unwrap();
    }
    one.truncate(4);
    assert_eq!(block_on(engine.catch_up(&one, 4)).unwrap(), 4);
    assert_eq!(block_on(engine.catch_up(&one, 100)).unwrap(), 2);
    assert_eq!(reached(&block_on(engine.ledger(&one)).unwrap()), [3; 4]);
    assert_eq!(block_on(engine.catch_up(&one, 100)).unwrap(), 0);
}
