//! What is given up in the middle costs those after it nothing.

use pollster::block_on;
use refrain::model::defaults::Exit;
use refrain::model::files::Source;
use refrain::model::{Depth, Engine, Feed, Options, Pace};

use super::play::ALL;
use crate::devices;
use crate::goldens::{Case, feed, sequences};

#[test]
fn tokens_that_were_given_up_keep_no_pass_from_running_empty() {
    let case = Case::open("gqa_odd");
    let depth = case.depth();
    let mut engine = case.engine(devices::all().swap_remove(0).1, None);
    let mut loops = |token| {
        let mut one = sequences(&engine, 1);
        feed(&mut engine, &mut one, &[&[token]], depth, ALL).1[0]
    };
    let token = (0..30).map(&mut loops).position(|loops| loops < 5).expect("a token that halts early") as u32;
    let pace = Some(Pace { group: 8, ahead: 0 });
    for (device, options) in devices::all() {
        let options = Options { device: options, loops: Some(9), sequences: Some(2), pace, ..Options::default() };
        // How many passes ran for one token that stops early, handed over with some that nobody needs.
        let passes = |give_up: &dyn Fn(&mut Engine) -> Option<u64>| {
            let mut engine = block_on(Engine::load(&Source::folder(&case.folder).unwrap(), &options, &mut |_| {})).unwrap();
            give_up(&mut engine).unwrap_or_else(|| {
                let (before, mut one) = (engine.counters().passes, engine.sequence().unwrap());
                block_on(engine.forward(&mut [Feed { sequence: &mut one, tokens: &[token] }], depth, ALL)).unwrap();
                engine.counters().passes - before
            })
        };
        let alone = passes(&|_| None);
        assert!(alone < 5, "{device}: the token halts before its cap");
        let dropped = passes(&|engine| {
            let (one, two) = (engine.sequence().unwrap(), engine.sequence().unwrap());
            let mut batch = block_on(engine.batch()).unwrap();
            for (sequence, loops) in [(one, 9), (two, 1)] {
                let key = batch.insert(sequence).unwrap();
                batch.feed(key, &[1, 2], Depth { loops, min_loops: 0, exit: Exit::Fixed }, ALL).unwrap();
            }
            assert_eq!(block_on(batch.next()).unwrap().len(), 1);
            None
        });
        assert_eq!(dropped, alone, "{device}: after a batch was dropped");
        let removed = passes(&|engine| {
            let (one, two) = (engine.sequence().unwrap(), engine.sequence().unwrap());
            let mut batch = block_on(engine.batch()).unwrap();
            let (long, short) = (batch.insert(one).unwrap(), batch.insert(two).unwrap());
            batch.feed(long, &[1, 2], Depth { loops: 9, min_loops: 0, exit: Exit::Fixed }, ALL).unwrap();
            batch.feed(short, &[1], Depth { loops: 1, min_loops: 0, exit: Exit::Fixed }, ALL).unwrap();
            assert_eq!(block_on(batch.next()).unwrap().len(), 1);
            block_on(batch.remove(long)).unwrap();
            block_on(batch.remove(short)).unwrap();
            let fresh = batch.insert(batch.engine().sequence().unwrap()).unwrap();
            let before = batch.engine().counters().passes;
            batch.feed(fresh, &[token], depth, ALL).unwrap();
            block_on(batch.next()).unwrap();
            Some(batch.engine().counters().passes - before)
        });
        assert_eq!(removed, alone, "{device}: after a sequence was removed");
    }
}

#[test]
fn nobody_in_a_batch_waits_for_ever() {
    let case = Case::open("gqa_tiny");
    let cpu = || devices::all().swap_remove(0).1;
    let load = |catch_up| {
        let options =
            Options { device: cpu(), sequences: Some(4), chunk: Some(4), catch_up: Some(catch_up), loops: Some(8), ..Options::default() };
        block_on(Engine::load(&Source::folder(&case.folder).unwrap(), &options, &mut |_| {})).unwrap()
    };
    let depth = |loops| Depth { loops, min_loops: 0, exit: Exit::Fixed };

    // A long prompt that came first takes what the others leave.
    let mut engine = load(64);
    let mut batch = block_on(engine.batch()).unwrap();
    let [long, short] = [0, 1].map(|_| {
        let sequence = batch.engine().sequence().unwrap();
        batch.insert(sequence).unwrap()
    });
    batch.feed(long, &[1; 40], depth(4), ALL).unwrap();
    batch.feed(short, &[1], depth(4), ALL).unwrap();
    let first: Vec<usize> = block_on(batch.next()).unwrap().iter().map(|finished| finished.key).collect();
    assert_eq!(first, [short]);
    drop(batch);

    // One row may catch up in a pass. Three sequences are always in debt, and the fourth deeper than they are.
    let mut engine = load(1);
    let mut batch = block_on(engine.batch()).unwrap();
    let keys = [0, 1, 2, 3].map(|_| {
        let sequence = batch.engine().sequence().unwrap();
        batch.insert(sequence).unwrap()
    });
    batch.feed(keys[3], &[1; 8], depth(1), ALL).unwrap();
    block_on(batch.next()).unwrap();
    batch.feed(keys[3], &[1], depth(8), ALL).unwrap();
    let mut turns = [0; 3];
    keys[..3].iter().for_each(|key| batch.feed(*key, &[1], depth(1), ALL).unwrap());
    for _ in 0..500 {
        for finished in block_on(batch.next()).unwrap() {
            let Some(turn) = turns.get_mut(finished.key) else {
                return assert!(turns.iter().all(|turn| (3..60).contains(turn)), "the others went on: {turns:?}");
            };
            *turn += 1;
            if *turn < 60 {
                batch.feed(finished.key, &[1], depth(if *turn % 2 == 0 { 1 } else { 8 }), ALL).unwrap();
            }
        }
    }
    panic!("the deep one never got its turn: {turns:?}");
}
