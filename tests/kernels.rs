//! Every kernel on every test device under every tier against its CPU twin (`cases` × devices × tiers), and every twin against a
//! formula written out in f64 (`reference`). Between them stands the chain that the engine relies on.
#![allow(clippy::panic, clippy::expect_used, clippy::print_stdout)]

pub mod bench;
mod cases;
mod reference;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bench::{Bench, MAX_WORDS, Made};
use cases::{Case, large, table};
use refrain::backend::{Backend, DeviceChoice, DeviceOptions, Span};
use refrain::error::Error;
use refrain::kernel::{Kernel, Tier, Twin};
use refrain::kernels::inject::{Gating, inject};
use refrain::kernels::{ALL, RowList, States, rmsnorm, swiglu};
use refrain::precision::Precision;
use refrain::tensor::Dtype;

use crate::devices;

/// How far an `f32` may be from its twin's, relative to the largest that the twin wrote to the argument. The worst seen on either
/// driver and any tier is 4e-6 where thousands of exponentials are summed in another order (top; attention 3e-6, with its spans put
/// together too) and 1e-6 elsewhere.
fn tolerance(kernel: &str) -> f32 {
    if ["attention", "attention_merge", "merge", "top"].contains(&kernel) { 1e-5 } else { 2e-6 }
}

fn small_bindings(options: DeviceOptions, tier: Option<Tier>) -> Backend {
    devices::open(&DeviceOptions { max_binding: Some(4 * MAX_WORDS as u64), tier, ..options })
}

fn on_cpu() -> DeviceOptions {
    DeviceOptions { device: DeviceChoice::Cpu, ..Default::default() }
}

fn cpu() -> Backend {
    small_bindings(on_cpu(), None)
}

/// Runs a case and returns its tensors.
fn run(case: &Case, backend: &mut Backend, tier: Tier) -> Vec<Made> {
    let mut bench = Bench::new(backend, tier);
    let built = (case.build)(&mut bench);
    built.and_then(|()| bench.run()).unwrap_or_else(|error| panic!("{} ({}): {error}", case.kernel, case.what))
}

/// The largest relative error of an argument, or what is wrong. Words that the twin left alone must be the same to the bit.
fn compare(expected: &Made, found: &Made, tolerance: f32) -> Result<f32, String> {
    let words = || (0..expected.after.len()).filter(|i| expected.judged.contains(&(i % expected.tensor.stride)));
    let written = |i: usize| expected.after[i].to_bits() != expected.before[i].to_bits();
    let scale = words().filter(|i| written(*i)).map(|i| expected.after[i].abs()).fold(f32::MIN_POSITIVE, f32::max);
    let mut worst = 0.0;
    for i in words() {
        let (e, f) = (expected.after[i], found.after[i]);
        let exact = expected.tensor.dtype == Dtype::U32 || !written(i);
        let error = match e.to_bits() == f.to_bits() {
            true => 0.0,
            false if exact => f32::INFINITY,
            false => (e - f).abs() / scale,
        };
        if error.is_nan() || error > tolerance {
            let (row, col) = (i / expected.tensor.stride, i % expected.tensor.stride);
            let values = if expected.tensor.dtype == Dtype::U32 {
                format!("{} on the CPU, {} on the GPU", e.to_bits(), f.to_bits())
            } else {
                format!("{e} on the CPU, {f} on the GPU")
            };
            return Err(format!("{}[{row}, {col}]: {values}, relative error {error:e}", expected.what));
        }
        worst = error.max(worst);
    }
    Ok(worst)
}

/// Runs the table on a device under each of its tiers and fails with a list of all that is wrong.
fn every_kernel_on(name: &'static str) {
    agree_on(name, &table(), &small_bindings);
    agree_on(name, &large(), &|options, tier| devices::open(&DeviceOptions { tier, ..options }));
}

fn agree_on(name: &'static str, table: &[Case], open: &dyn Fn(DeviceOptions, Option<Tier>) -> Backend) {
    let Some(options) = devices::gpu(name) else { return };
    let subgroup = devices::adapter(name).filter(|adapter| adapter.subgroups).map_or(0, |adapter| adapter.subgroup.0);
    let natural = open(options.clone(), None).tier();
    let mut tiers = vec![natural];
    tiers.extend(Tier::ALL.into_iter().filter(|tier| *tier != natural && subgroup >= tier.least_subgroup()));
    let (mut failures, mut worst) = (Vec::new(), BTreeMap::new());
    for tier in tiers {
        let started = Instant::now();
        let mut gpu = open(options.clone(), Some(tier));
        for case in table {
            let (expected, found) = (run(case, &mut open(on_cpu(), None), tier), run(case, &mut gpu, tier));
            for (expected, found) in expected.iter().zip(&found) {
                let worst: &mut f32 = worst.entry(case.kernel).or_default();
                match compare(expected, found, tolerance(case.kernel)) {
                    Ok(error) => *worst = worst.max(error),
                    Err(reason) => failures.push(format!("{} ({}) on {name}, {tier:?}: {reason}", case.kernel, case.what)),
                }
            }
        }
        println!("{name}, {tier:?}: {} cases in {:?}", table.len(), started.elapsed());
    }
    let worst: Vec<String> = worst.iter().map(|(kernel, error)| format!("{kernel} {error:.1e}")).collect();
    println!("{name}, worst relative error of each kernel: {}", worst.join(", "));
    assert!(failures.is_empty(), "{} arguments differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_kernel_agrees_with_its_twin_on_lavapipe() {
    every_kernel_on("llvmpipe");
}

#[test]
fn every_kernel_agrees_with_its_twin_on_swiftshader() {
    every_kernel_on("SwiftShader");
}

#[test]
fn the_table_has_every_kernel_and_every_case_writes_something() {
    let table = table();
    let covered: BTreeSet<&str> = table.iter().map(|case| case.kernel).collect();
    assert_eq!(covered, ALL.iter().map(|kernel| kernel.name()).collect(), "kernels of the table and of ALL");
    for case in table.iter().filter(|case| !case.what.starts_with("0 ")) {
        let made = run(case, &mut cpu(), Tier::BASELINE);
        let same = |made: &Made| made.after.iter().zip(&made.before).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(!made.iter().all(same), "{} ({}) writes nothing", case.kernel, case.what);
    }
}

#[test]
fn a_closed_gate_keeps_out_what_depends_on_it() {
    for (name, options) in devices::all() {
        let mut backend = devices::open(&options);
        let gate = *backend.gate();
        let mut tensor = |what, rows, cols| backend.tensor(what, Dtype::F32, rows, cols).expect("a small tensor");
        let (act, x, y, one) = (tensor("act", 1, 8), tensor("x", 1, 4), tensor("y", 1, 4), tensor("one", 3, 4));
        let normed = tensor("normed", 1, 4);
        let states = States { h: tensor("h", 1, 4), e: tensor("e", 1, 4), context: 1 };
        let table = backend.tensor("list", Dtype::U32, 1, 4).expect("a small tensor");
        let mut pass = backend.pass();
        pass.gated();
        let (list, gating) = (RowList { table, first: 0, rows: 1 }, Gating { act: &act, gate: &gate, pass_index: 5 });
        inject(&mut pass, list, &states, &one, gating, &x, &normed).expect("recorded");
        rmsnorm::rmsnorm(&mut pass, &one, &one, &y, 1).expect("recorded");
        let plan = backend.plan(pass).expect("a plan");
        backend.write(&one, 0, &[1.0; 12]).expect("written");
        for (running, found) in [(0.0, 0.0), (1.0, 1.0), (0.0, 2.0)] {
            // What y holds beforehand stays where the gate is closed.
            backend.write(&act, 7, &[running]).expect("written");
            backend.write(&y, 0, &[found; 4]).expect("written");
            let read = pollster::block_on(async {
                backend.run(&plan).await?;
                backend.read(&[Span::rows(&y, 0, 1), Span::words(&gate, 128 + 5, 1)]).await
            });
            let read = read.expect("read");
            assert!((read[0][0] - found).abs() < 1e-5, "{name}: {read:?}, expected {found}");
            assert_eq!(read[1][0].to_bits(), running as u32, "{name}: the mark of a pass that ran");
        }
    }
}

/// A kernel whose twin is not what its shader computes.
static WRONG: Kernel<swiglu::Params, 1, 1> = Kernel { name: "wrong", twin: Twin::Plain(|_, _, [y]| y.fill(0.5)), ..swiglu::SWIGLU };

#[test]
fn the_shadow_backend_names_a_wrong_kernel() {
    if devices::gpus().is_empty() {
        return;
    }
    let mut backend = devices::open(&DeviceOptions { device: DeviceChoice::Shadow, ..Default::default() });
    let x = backend.tensor("x", Dtype::F32, 3, 10).expect("a small tensor");
    let y = backend.tensor("y", Dtype::F32, 3, 5).expect("a small tensor");
    let mut pass = backend.pass();
    swiglu::swiglu(&mut pass, &x, &y, 3).expect("the right kernel can be recorded");
    pass.dispatch(&WRONG, swiglu::Params { rows: 3, dim: 5, x_stride: 12, y_stride: 8 }, [&x], [&y]).expect("so can the wrong one");
    let plan = backend.plan(pass).expect("a plan");
    match pollster::block_on(backend.run(&plan)) {
        Err(Error::Mismatch { kernel, detail }) => {
            assert_eq!(kernel, "wrong");
            assert!(detail.contains("dispatch 1") && detail.contains("argument y"), "{detail}");
        }
        other => panic!("expected a mismatch, found {other:?}"),
    }
}

#[test]
fn a_buffer_that_is_written_is_bound_once() {
    let mut backend = cpu();
    let x = backend.tensor("x", Dtype::F32, 3, 8).expect("a small tensor");
    let ids = backend.tensor("ids", Dtype::U32, 3, 8).expect("a small tensor");
    let mut pass = backend.pass();
    let twice = rmsnorm::rmsnorm(&mut pass, &x, &x, &x, 3).expect_err("x is read and written").to_string();
    assert!(twice.contains("kernel rmsnorm: y is written and bound a second time"), "{twice}");
    let wrong = swiglu::Params { rows: 1, dim: 1, x_stride: 8, y_stride: 8 };
    let dtype = pass.dispatch(&swiglu::SWIGLU, wrong, [&x], [&ids]).expect_err("ids are no f32").to_string();
    assert!(dtype.contains("y should hold F32 and holds U32"), "{dtype}");
}

#[test]
fn a_tensor_above_the_binding_limit_is_refused_and_a_matrix_is_cut() {
    for (name, options) in devices::all() {
        let mut backend = small_bindings(options, None);
        assert_eq!(backend.max_words(), MAX_WORDS, "{name}");
        assert!(backend.tensor("x", Dtype::F32, MAX_WORDS / 8, 8).is_ok(), "{name}");
        for (rows, cols) in [(MAX_WORDS / 8 + 1, 8), (1, MAX_WORDS + 1), (usize::MAX / 2, 4)] {
            let refused = backend.tensor("x", Dtype::F32, rows, cols);
            assert!(matches!(refused, Err(Error::TooSmall { .. })), "{name}: {rows} × {cols}: {refused:?}");
        }
        let cut = backend.segmented("cache", 301, 37, 7).expect("parts fit");
        let rows: Vec<usize> = cut.parts.iter().map(|part| part.rows).collect();
        assert_eq!(rows, [203, 98], "{name}: parts of whole units of 7 rows of 40 words");
        assert!(matches!(backend.segmented("w", 3, MAX_WORDS + 1, 1), Err(Error::TooSmall { .. })), "{name}: a row that does not fit");
        // Words of a row of 130: rows start at multiples of 16 bytes, and of 64 numbers where they come in blocks.
        for (precision, words) in [(Precision::F32, 132), (Precision::F16, 68), (Precision::Q8, 48), (Precision::Q4, 24)] {
            let cut = backend.matrix("w", precision, 700, 130, 7).expect("parts fit");
            let rows: Vec<usize> = cut.parts.iter().map(|part| part.data.rows).collect();
            let first = MAX_WORDS / (7 * words) * 7;
            assert_eq!((rows[0], rows.iter().sum::<usize>()), (first, 700), "{name}: {precision}");
            assert!(cut.parts.iter().all(|part| part.data.words() == part.data.rows * words), "{name}: {precision}");
        }
    }
}
