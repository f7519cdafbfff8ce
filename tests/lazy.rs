//! The schedule `lazy` gives the logits of the schedule `full`: on the golden cases, and on random models under random scripts of
//! prompts, single steps, forks, truncations, batches and changes of depth. `REFRAIN_CASES` asks for more random cases than usual.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod batch;
pub mod case;
pub mod check;
mod given_up;
mod judge;
mod ledger;
mod play;

use std::cell::RefCell;
use std::time::Instant;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use refrain::backend::DeviceOptions;
use refrain::model::{Engine, Schedule};

use crate::devices;
use crate::goldens::{self, CASES, feed, sequences};
use check::{ON_DRIVERS, ON_THE_CPU, check};
use judge::close;
use play::{ALL, Seen};

/// What was seen of all cases together, and in how many.
#[derive(Debug, Default)]
struct Report {
    cases: u32,
    redrawn: u32,
    /// Cases in which `lazy` ran fewer rows; in which rows caught up; in which passes ran empty.
    saved: u32,
    caught_up: u32,
    empty: u32,
    sum: Seen,
    /// How far logits were apart at most, as a share of the largest.
    worst: f32,
}

impl Report {
    fn add(&mut self, seen: &Seen, worst: f32) {
        self.worst = self.worst.max(worst);
        self.cases += 1;
        self.saved += u32::from(seen.rows < seen.rows_full);
        self.caught_up += u32::from(seen.rows_catching_up > 0);
        self.empty += u32::from(seen.empty_dispatches > 0);
        let sum = &mut self.sum;
        for (sum, seen) in [
            (&mut sum.tokens, seen.tokens),
            (&mut sum.rows, seen.rows),
            (&mut sum.rows_full, seen.rows_full),
            (&mut sum.rows_catching_up, seen.rows_catching_up),
            (&mut sum.empty_dispatches, seen.empty_dispatches),
            (&mut sum.mixed_passes, seen.mixed_passes),
            (&mut sum.forks, seen.forks),
            (&mut sum.truncations, seen.truncations),
            (&mut sum.called_up, seen.called_up),
            (&mut sum.left_in_flight, seen.left_in_flight),
        ] {
            *sum += seen;
        }
    }
}

/// Checks random cases on a device: always the same ones, and the first of more where `REFRAIN_CASES` says a number for the CPU.
fn check_device(name: &str, device: &DeviceOptions, cases: u32) -> Report {
    let times = std::env::var("REFRAIN_CASES").ok().and_then(|cases| cases.parse::<u32>().ok()).map_or(1, |asked| asked.div_ceil(1000));
    let cases = cases * times.max(1);
    let config = Config { cases, max_global_rejects: cases / 4, max_shrink_iters: 1000, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[1; 32]));
    let (report, start) = (RefCell::new(Report::default()), Instant::now());
    let result = runner.run(&case::case(), |case| match check(&case, device) {
        Ok(Some((seen, worst))) => {
            report.borrow_mut().add(&seen, worst);
            Ok(())
        }
        Ok(None) => {
            report.borrow_mut().redrawn += 1;
            Err(TestCaseError::reject("a margin is too small"))
        }
        Err(reason) => Err(TestCaseError::fail(reason)),
    });
    let report = report.into_inner();
    println!("{name}, {:.1} s: {report:?}", start.elapsed().as_secs_f32());
    match result {
        Ok(()) => report,
        Err(TestError::Fail(reason, case)) => panic!("{name}: {reason}\nthe smallest case that fails: {case:#?}"),
        Err(TestError::Abort(reason)) => panic!("{name}: {reason}; {report:?}"),
    }
}

#[test]
fn random_models_on_the_cpu() {
    let (name, device) = devices::all().swap_remove(0);
    let report = check_device(name, &device, 1000);
    let (cases, sum) = (report.cases, report.sum);
    // What the cases are for did happen.
    assert!(report.saved > cases / 2 && sum.rows * 10 < sum.rows_full * 9, "{report:?}");
    assert!(report.caught_up > cases / 2 && sum.mixed_passes > 50 && sum.called_up > 50, "{report:?}");
    assert!(sum.forks > 50 && sum.truncations > 50 && sum.left_in_flight > 50, "{report:?}");
}

fn check_driver(name: &'static str) {
    let Some(device) = devices::gpu(name) else { return };
    let report = check_device(name, &device, 20);
    assert!(report.saved > report.cases / 3 && report.caught_up > report.cases / 3 && report.empty > report.cases / 4, "{report:?}");
}

#[test]
fn random_models_on_lavapipe() {
    check_driver("llvmpipe");
}

#[test]
fn random_models_on_swiftshader() {
    check_driver("SwiftShader");
}

/// A golden case by both schedules: in one pass, in pieces, step by step, and in chunks that the engine cuts.
fn check_golden(name: &'static str, device: &str, options: &DeviceOptions) {
    let case = goldens::Case::open(name);
    let tokens = case.tokens();
    let same = |what: &str, found: &(Vec<f32>, Vec<i64>), expected: &(Vec<f32>, Vec<i64>)| {
        let tolerance = if device == "cpu" { ON_THE_CPU } else { ON_DRIVERS };
        close(&found.0, &expected.0, tolerance).unwrap_or_else(|error| panic!("{name} on {device}, {what}: {error}"));
        assert_eq!(found.1, expected.1, "{name} on {device}, {what}");
    };
    // Every sequence of the batch alone, so that pieces come in the order of the whole.
    let run = |engine: &mut Engine, first: usize, piece: usize| {
        let (mut logits, mut loops) = (Vec::new(), Vec::new());
        for tokens in &tokens {
            let mut one = sequences(engine, 1);
            let pieces = std::iter::once(&tokens[..first]).chain(tokens[first..].chunks(piece)).filter(|piece| !piece.is_empty());
            for piece in pieces {
                let found = feed(engine, &mut one, &[piece], case.depth(), ALL);
                logits.extend(found.0);
                loops.extend(found.1);
            }
        }
        (logits, loops)
    };
    let mut engine = case.engine(options.clone(), None);
    engine.set_schedule(Schedule::Full);
    let full = run(&mut engine, tokens[0].len(), 1);
    let rows = engine.counters().rows;
    engine.set_schedule(Schedule::Lazy);
    same("one pass", &run(&mut engine, tokens[0].len(), 1), &full);
    assert!(engine.counters().rows - rows <= rows, "{name} on {device}: lazy runs no more rows than full");
    same("decoding", &run(&mut engine, case.prompt, 1), &full);
    for piece in [1, 7] {
        same(&format!("pieces of {piece}"), &run(&mut engine, 0, piece), &full);
        // SwiftShader takes seconds to make its kernels, for every engine.
        if device == "SwiftShader" && !["gqa_odd", "mla_bias"].contains(&name) {
            continue;
        }
        let mut engine = case.engine(options.clone(), Some(piece));
        same(&format!("chunks of {piece}"), &run(&mut engine, tokens[0].len(), 1), &full);
    }
}

#[test]
fn goldens_on_the_cpu() {
    let (device, options) = devices::all().swap_remove(0);
    CASES.iter().for_each(|name| check_golden(name, device, &options));
}

#[test]
fn goldens_on_lavapipe() {
    devices::gpu("llvmpipe").iter().for_each(|options| CASES.iter().for_each(|name| check_golden(name, "lavapipe", options)));
}

#[test]
fn goldens_on_swiftshader() {
    devices::gpu("SwiftShader").iter().for_each(|options| CASES.iter().for_each(|name| check_golden(name, "SwiftShader", options)));
}
