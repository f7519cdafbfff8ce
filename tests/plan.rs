//! What a model takes on a device: counted beforehand, met when it is loaded, and what is said where it does not fit. Models without weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use pollster::block_on;
use refrain::Error;
use refrain::backend::{AdapterKind, Backend, DeviceInfo, DeviceOptions};
use refrain::error::Remedy;
use refrain::model::config::{Attention, Config};
use refrain::model::defaults::{Defaults, Exit};
use refrain::model::files::{Source, Weights};
use refrain::model::{Depth, Engine, Feed, Logits, Needs, Options, published, read_config};
use refrain::precision::Precision;

use crate::devices;
use crate::goldens::{CASES, Case};

const DTYPES: [Option<Precision>; 5] = [None, Some(Precision::F32), Some(Precision::F16), Some(Precision::Q8), Some(Precision::Q4)];

/// What is known of a device when it is open.
fn info(device: &DeviceOptions) -> DeviceInfo {
    devices::open(device).info().clone()
}

fn plan(info: &DeviceInfo, source: &Source, options: &Options) -> (Needs, Option<Error>) {
    let (config, defaults) = read_config(source).unwrap();
    Needs::of(info, &config, &defaults, options, Some(&Weights::open(source).unwrap())).unwrap()
}

/// The plan is met to the byte, and a forward pass adds next to nothing.
fn check_plan(what: &str, info: &DeviceInfo, source: &Source, options: &Options, tokens: &[u32]) {
    let (needs, fault) = plan(info, source, options);
    let mut engine = match (block_on(Engine::load(source, options, &mut |_| {})), fault) {
        (Ok(engine), None) => engine,
        (Err(found), Some(fault)) => return assert_eq!(found.to_string(), fault.to_string(), "{what}"),
        (loaded, fault) => panic!("{what}: planned {fault:?}, found {:?}", loaded.err()),
    };
    assert_eq!(engine.needs(), &needs, "{what}");
    let sizes = (needs.context, needs.loops, needs.sequences);
    assert_eq!(sizes, (engine.context(), engine.max_loops(), options.sequences.unwrap_or(1)), "{what}");
    assert_eq!(engine.allocated_bytes(), needs.total(), "{what}");
    let mut sequence = engine.sequence().unwrap();
    let depth = Depth { loops: engine.max_loops().min(3), min_loops: 0, exit: Exit::Fixed };
    let tokens = &tokens[..tokens.len().min(engine.context())];
    block_on(engine.forward(&mut [Feed { sequence: &mut sequence, tokens }], depth, Logits::GREEDY)).unwrap();
    let (total, after) = (needs.total() as f64, engine.allocated_bytes() as f64);
    assert!((total..1.05 * total).contains(&after), "{what}: {total} bytes planned, {after} after a pass");
}

#[test]
fn a_plan_is_what_loading_takes() {
    for (device, own) in devices::all() {
        let info = info(&own);
        // GPUs differ in nothing that depends on the model: some models there, with S = 2 among them.
        let (cases, dtypes): (&[&str], &[Option<Precision>]) = match device {
            "cpu" => (&CASES, &DTYPES),
            "SwiftShader" => (&["gqa_odd"], &[None, Some(Precision::Q4)]),
            _ => (&["gqa_odd", "mla_all_experts"], &DTYPES),
        };
        for name in cases {
            let case = Case::open(name);
            let (source, tokens) = (Source::folder(&case.folder).unwrap(), case.tokens().swap_remove(0));
            for &dtype in dtypes {
                let small = DeviceOptions { max_binding: Some(32 << 10), ..own.clone() };
                let plain = Options { device: own.clone(), dtype, ..Options::default() };
                let variants = [
                    plain.clone(),
                    Options { context: Some(7), loops: Some(5), sequences: Some(3), ..plain.clone() },
                    Options { device: small, chunk: Some(5), ..plain },
                ];
                for (i, options) in variants.iter().enumerate().take(if device == "SwiftShader" { 1 } else { 3 }) {
                    check_plan(&format!("{name} in {dtype:?} on {device}, options {i}"), &info, &source, options, &tokens);
                }
            }
        }
    }
}

#[test]
fn plan_and_memory_decide_what_loads() {
    for (device, own) in devices::all() {
        let info = info(&own);
        for name in ["gqa_odd", "mla_bias"] {
            let source = Source::folder(Case::open(name).folder).unwrap();
            let with = |memory| Options { device: DeviceOptions { memory, ..own.clone() }, ..Options::default() };
            let total = plan(&info, &source, &with(None)).0.total();
            let load = |memory| block_on(Engine::load(&source, &with(Some(memory)), &mut |_| {}));
            assert_eq!(load(total).unwrap_or_else(|error| panic!("{name} on {device}: {error}")).needs().total(), total);
            let error = load(total - 1).err().unwrap_or_else(|| panic!("{name} on {device} loads into a byte too little"));
            assert_eq!(error.code(), "memory");
            let Error::Memory { needed, available, .. } = &error else { panic!("{error}") };
            assert_eq!((*needed, *available), (total, Some(total - 1)));
            assert!(error.to_string().contains("1 byte too little"), "{error}");
        }
    }
}

/// A small model with much cache, so that every option matters.
fn roomy() -> Config {
    let attention = Attention::Mla { kv_lora_rank: 24, q_lora_rank: 32, rope: 8, nope: 16, v: 16 };
    Config {
        vocab_size: 300,
        dim: 96,
        n_heads: 4,
        max_seq_len: 512,
        max_loop_iters: 16,
        expert_dim: 80,
        n_experts: 16,
        attention,
        ..small()
    }
}

fn small() -> Config {
    Config {
        vocab_size: 97,
        prelude_layers: 1,
        coda_layers: 1,
        n_shared_experts: 2,
        n_experts_per_tok: 3,
        lora_rank: 4,
        max_output_tokens: 64,
        ..published::config("mythos_1b").unwrap()
    }
}

/// All that a remedy of one option may be, the mildest first.
fn single(needs: &Needs) -> Vec<Vec<Remedy>> {
    let none = Remedy::default();
    let halves = |now: usize| std::iter::successors(Some(now / 2), |n| Some(n / 2)).take_while(|n| *n > 0);
    vec![
        [Precision::F16, Precision::Q8, Precision::Q4].map(|dtype| Remedy { dtype: Some(dtype), ..none }).to_vec(),
        halves(needs.context).filter(|n| *n >= 16).map(|n| Remedy { context: Some(n), ..none }).collect(),
        halves(needs.loops).map(|n| Remedy { loops: Some(n), ..none }).collect(),
        halves(needs.sequences).map(|n| Remedy { sequences: Some(n), ..none }).collect(),
    ]
}

/// How many options a remedy names.
fn options_of(remedy: &Remedy) -> usize {
    let Remedy { dtype, context, loops, sequences } = *remedy;
    [dtype.is_some(), context.is_some(), loops.is_some(), sequences.is_some()].into_iter().filter(|is| *is).count()
}

#[test]
fn a_remedy_changes_the_options_that_it_names() {
    let options = Options { dtype: Some(Precision::F32), context: Some(64), loops: Some(8), sequences: Some(4), ..Options::default() };
    let sizes = |remedy: &Remedy| {
        let Options { dtype, context, loops, sequences, .. } = options.remedied(remedy);
        Remedy { dtype, context, loops, sequences }
    };
    let all = Remedy { dtype: Some(Precision::Q4), context: Some(16), loops: Some(2), sequences: Some(1) };
    assert_eq!(sizes(&all), all);
    let [one, other] = [Remedy { context: None, sequences: None, ..all }, Remedy { dtype: None, loops: None, ..all }];
    assert_eq!(sizes(&one), Remedy { context: Some(64), sequences: Some(4), ..all });
    assert_eq!(sizes(&other), Remedy { dtype: Some(Precision::F32), loops: Some(8), ..all });
}

#[test]
fn advice_is_what_helps_and_nothing_else() {
    let (config, info) = (roomy(), DeviceInfo::cpu());
    let (mut seen, mut pair_seen) = ([false; 3], false);
    for sequences in [1, 6] {
        let device = devices::all().swap_remove(0).1;
        let plain = Options { device, sequences: Some(sequences), ..Options::default() };
        let of = |options: &Options| Needs::of(&info, &config, &Defaults::default(), options, None).unwrap();
        let needs = of(&plain).0;
        for percent in [2, 8, 15, 25, 35, 50, 70, 80, 90, 99] {
            let memory = Some(needs.total() * percent / 100);
            let options = Options { device: DeviceOptions { memory, ..plain.device.clone() }, ..plain.clone() };
            let fits = |remedy: &Remedy| of(&options.remedied(remedy)).1.is_none();
            let fault = of(&options).1.unwrap();
            let Error::Memory { advice, .. } = &fault else { panic!("{fault}") };
            for remedy in advice {
                let loaded = block_on(Engine::untrained(config.clone(), &options.remedied(remedy)));
                assert!(loaded.is_ok(), "{percent}% with {remedy}: {:?}", loaded.err());
                assert!(fault.hint().unwrap().contains(&format!("with {remedy}")), "{:?}", fault.hint());
            }
            // What is not advised does not help, or more of it is taken away than must be.
            let mildest: Vec<Remedy> = single(&needs).iter().filter_map(|ways| ways.iter().copied().find(fits)).collect();
            let combined = advice.iter().any(|r| options_of(r) > 1);
            if combined || advice.is_empty() {
                assert_eq!(mildest, [], "{percent}%");
                // A smaller dtype and one other option come before all of them together.
                let [dtypes, others @ ..] = &single(&needs)[..] else { panic!("four options") };
                let pairs = dtypes.iter().flat_map(|dtype| others.iter().flatten().map(|other| Remedy { dtype: dtype.dtype, ..*other }));
                if pairs.into_iter().any(|pair| fits(&pair)) {
                    pair_seen = true;
                    assert!(advice.iter().all(|r| options_of(r) == 2 && r.dtype.is_some()), "{percent}%: {advice:?}");
                }
            } else {
                assert_eq!(&mildest, advice, "{percent}%");
            }
            seen[if advice.is_empty() { 0 } else { 1 + usize::from(combined) }] = true;
        }
    }
    assert_eq!((seen, pair_seen), ([true; 3], true), "none, single and combined, a pair among those");
}

#[test]
fn the_plan_of_a_trillion_takes_no_time() {
    let config = published::config("mythos_1t").unwrap();
    for (device, own) in devices::all() {
        let mut info = info(&own);
        let start = Instant::now();
        let memory = Some(16 << 30);
        let options = Options { device: DeviceOptions { memory, ..own.clone() }, ..Options::default() };
        let (needs, fault) = Needs::of(&info, &config, &Defaults::default(), &options, None).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{device}: {:?}", start.elapsed());
        assert!(needs.total() > 4 * 999_326_352_386, "{device}: {needs:?}");
        let fault = fault.unwrap_or_else(|| panic!("{device} takes a trillion"));
        assert!(["memory", "too_small"].contains(&fault.code()) && fault.hint().is_some(), "{device}: {fault}");
        // A card that does not tell how much it has.
        if let Some(adapter) = &mut info.adapter {
            (adapter.kind, adapter.max_binding, adapter.max_rounds) = (AdapterKind::Discrete, (2 << 30) - 4, None);
            assert_eq!(Backend::imagined(&info, &own).memory(), None);
            let options = Options { device: own, dtype: Some(Precision::Q4), ..Options::default() };
            let q4 = Needs::of(&info, &config, &Defaults::default(), &options, None).unwrap().0;
            let weights = 999_326_352_386f64 * 4.5 / 8.0;
            assert!((q4.weights() as f64 / weights - 1.0).abs() < 0.01, "{device}: {} bytes of weights, {weights} expected", q4.weights());
        }
    }
}

/// The best tokens and the largest logit of a few passes of an untrained model.
fn run_untrained(config: &Config, options: &Options, loops: usize) -> (Vec<u32>, f32) {
    let mut engine = block_on(Engine::untrained(config.clone(), options)).unwrap();
    let mut sequence = engine.sequence().unwrap();
    let depth = Depth { loops, min_loops: 0, exit: Exit::Fixed };
    let tokens: Vec<u32> = (0..24).map(|i| i * 37 % config.vocab_size as u32).collect();
    let all = Logits { every: true, best: 1, all: true };
    let mut output = block_on(engine.forward(&mut [Feed { sequence: &mut sequence, tokens: &tokens }], depth, all)).unwrap();
    let next = output.predictions.last().unwrap().best[0].0;
    let step = block_on(engine.forward(&mut [Feed { sequence: &mut sequence, tokens: &[next] }], depth, all)).unwrap();
    output.predictions.extend(step.predictions);
    let logits = || output.predictions.iter().flat_map(|prediction| prediction.logits.iter());
    assert!(logits().all(|x| x.is_finite()), "{:?}", options.dtype);
    (output.predictions.iter().map(|p| p.best[0].0).collect(), logits().fold(0f32, |max, x| max.max(x.abs())))
}

#[test]
fn untrained_models_run_alike_on_all_devices() {
    let config = Config { max_seq_len: 64, ..roomy() };
    for dtype in Precision::ALL {
        let options = |device| Options { device, dtype: Some(dtype), ..Options::default() };
        let runs: Vec<_> =
            devices::all().into_iter().map(|(name, device)| (name, run_untrained(&config, &options(device), 16).0)).collect();
        for (name, best) in &runs {
            assert_eq!(best, &runs[0].1, "{dtype} on {name}");
        }
        // Not one answer to everything.
        let mut different = runs[0].1.clone();
        different.sort_unstable();
        different.dedup();
        assert!(different.len() > 8, "{dtype}: {different:?}");
    }
}

/// The shapes of mythos_1b with fewer and narrower experts: logits neither vanish nor grow over 16 loops.
#[test]
fn untrained_logits_keep_their_size() {
    let config = Config { vocab_size: 500, n_experts: 16, expert_dim: 256, max_seq_len: 64, ..published::config("mythos_1b").unwrap() };
    for dtype in Precision::ALL {
        let options = |context| Options { device: devices::all().swap_remove(0).1, dtype: Some(dtype), context, ..Options::default() };
        for loops in [1, 16] {
            let largest = run_untrained(&config, &options(Some(32)), loops).1;
            assert!((0.5..50.0).contains(&largest), "{dtype} after {loops} loops: {largest}");
        }
    }
}
