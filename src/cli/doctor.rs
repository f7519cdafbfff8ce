//! `refrain doctor`: what is wrong with this machine or a model folder, and how to mend it.
//!
//! The kernels of a GPU are tried by solving a problem with each shipped model while every dispatch is compared with its CPU twin:
//! between them (GQA and MLA, many rows and one, a copied sequence) they run the kernels that small models need.

mod list;

use std::collections::BTreeSet;
use std::time::Instant;

use pollster::block_on;

use self::list::{Fault, List};
use super::common::{self, Common, thousands};
use crate::backend::{AdapterInfo, AdapterKind, Backend, DeviceChoice, DeviceInfo, DeviceOptions, adapters, choose};
use crate::error::{Error, Result};
use crate::generate::{Model, Params};
use crate::kernels;
use crate::model::config::{Attention, Config};
use crate::model::files::{Source, Weights};
use crate::model::{Engine, Feed, Logits, Options, Sequence, read_config, spectral_radius};
use crate::shipped;
use crate::tokenizer::Tokenizer;

/// Options of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also check a model: a shipped one, hf:owner/repo[@revision] or the path of a folder
    #[arg(value_name = "MODEL")]
    model: Option<String>,
}

/// How to come by a GPU.
const DRIVERS: &str = "if this machine has a GPU, install its Vulkan driver. Linux: the packages libvulkan1 and mesa-vulkan-drivers \
                       (names of Debian and Ubuntu) for AMD and Intel, the vendor's own driver for NVIDIA; into a container, pass \
                       the GPU. Windows and macOS: update the system's graphics driver.";

/// The shortest problem of each model is solved, of those with so many words: fewer would not use the kernels for many rows.
const WORDS: usize = 8;

/// Loops and positions of those problems: more than they need.
const LOOPS: usize = 12;
const CONTEXT: usize = 32;

/// Prints the list; the answer is whether nothing failed.
pub(super) fn main(args: &Args, common: &Common) -> Result<bool> {
    let mut list = List::new(common.colored(true));
    list.heading("This machine")?;
    machine(&mut list, common)?;
    if let Some(model) = &args.model {
        list.heading(&format!("\nThe model {model}"))?;
        check_model(&mut list, model, common)?;
    }
    Ok(list.good())
}

fn machine(list: &mut List, common: &Common) -> Result<()> {
    let found = block_on(adapters());
    let names: Vec<String> = found.iter().enumerate().map(|(i, a)| format!("{i}: {} ({}, {})", a.name, a.kind, a.api)).collect();
    if found.is_empty() {
        list.note("GPUs", "none found: models run on the CPU", Some(DRIVERS))?;
    } else {
        list.well("GPUs", &names.join("; "))?;
    }
    if !found.is_empty() && found.iter().all(|adapter| adapter.kind == AdapterKind::Software) {
        list.note("hardware", "every GPU found is simulated on the CPU; the CPU backend is faster and is taken instead", Some(DRIVERS))?;
    }
    let chosen = list.check("device", open(common, &found), |(_, name)| format!("{name} is taken"))?;
    match chosen {
        // A GPU was chosen: it has to work.
        Some((Some(index), _)) => {
            list.check("kernels", try_kernels(DeviceChoice::Index(index)), String::clone)?;
        }
        // The CPU was chosen because there is only a software GPU: it is tried, and its faults stand in nobody's way.
        Some((None, _)) if common.device != DeviceChoice::Cpu && !found.is_empty() => match try_kernels(DeviceChoice::Shadow) {
            Ok(text) => list.well("kernels", &text)?,
            Err(fault) => list.excuse("kernels", fault)?,
        },
        _ => {}
    }
    list.check("CPU", try_cpu(), String::clone)?;
    Ok(())
}

/// Opens the device that the options choose; its index among the adapters, `None` for the CPU.
fn open(common: &Common, found: &[AdapterInfo]) -> Result<(Option<usize>, String)> {
    let index = choose(&common.device(), found)?;
    let backend = block_on(Backend::open(&common.device()))?;
    Ok((index, backend.info().name.clone()))
}

/// Runs every kernel on a GPU and on the CPU.
fn try_kernels(device: DeviceChoice) -> std::result::Result<String, Fault> {
    let device = DeviceOptions { device, shadow: true, ..Default::default() };
    let (mut dispatches, mut name, mut run) = (0, String::new(), BTreeSet::new());
    for model in shipped::NAMES {
        let mut shipped = load_shipped(model, device.clone())?;
        solve(&mut shipped)?;
        // What many rows do not use: the products of one row and, for a copy of a sequence, the kernel that copies.
        let engine = shipped.model.engine_mut();
        let mut sequence = engine.sequence()?;
        one_token(engine, &mut sequence)?;
        block_on(engine.fork(&sequence))?;
        dispatches += engine.counters().dispatches;
        run.extend(engine.kernels().iter().copied());
        name = engine.device().adapter.as_ref().map_or_else(String::new, |adapter| adapter.name.clone());
    }
    let missed: Vec<&str> = kernels::ALL.iter().map(|kernel| kernel.name()).filter(|name| !run.contains(name)).collect();
    let missed = if missed.is_empty() { String::new() } else { format!("; not needed here: {}", missed.join(", ")) };
    let (ran, all, dispatches) = (run.len(), kernels::ALL.len(), thousands(dispatches));
    Ok(format!("{ran} of {all} ran on {name} and agree with the CPU, in {dispatches} dispatches{missed}"))
}

fn try_cpu() -> std::result::Result<String, Fault> {
    let started = Instant::now();
    let device = DeviceOptions { device: DeviceChoice::Cpu, ..Default::default() };
    for name in shipped::NAMES {
        solve(&mut load_shipped(name, device.clone())?)?;
    }
    let (name, seconds) = (DeviceInfo::cpu().name, started.elapsed().as_secs_f64());
    Ok(format!("{name} solves a problem of each shipped model ({}) in {seconds:.2} s", shipped::NAMES.join(", ")))
}

/// A shipped model with one of its problems.
struct Shipped {
    name: &'static str,
    model: Model,
    problem: Problem,
}

/// One line of `problems.jsonl`.
#[derive(serde::Deserialize)]
struct Problem {
    prompt: String,
    answers: Vec<String>,
}

fn load_shipped(name: &'static str, device: DeviceOptions) -> Result<Shipped> {
    let damaged = |found: String| Error::Format { path: name.into(), expected: "a shipped model with problems".into(), found };
    let source = shipped::source(name).ok_or_else(|| damaged("none of this name".into()))?;
    let problems = source.read_small("problems.jsonl")?.unwrap_or_default();
    let mut problem: Option<Problem> = None;
    for line in problems.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let next: Problem = serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))?;
        let words = |problem: &Problem| problem.prompt.split(' ').count();
        if words(&next) >= WORDS && problem.as_ref().is_none_or(|least| words(&next) < words(least)) {
            problem = Some(next);
        }
    }
    let problem = problem.ok_or_else(|| damaged("no problem that is long enough".into()))?;
    let options = Options { device, context: Some(CONTEXT), loops: Some(LOOPS), sequences: Some(2), ..Default::default() };
    Ok(Shipped { name, model: block_on(Model::open(&source, &options, &mut |_| {}))?, problem })
}

/// Solves the problem: a fault unless every answer is right.
fn solve(shipped: &mut Shipped) -> std::result::Result<(), Fault> {
    let steps = block_on(shipped.model.answer(shipped.problem.prompt.as_str(), Params::default()))?;
    let answers = &shipped.problem.answers;
    let last = &steps[steps.len().saturating_sub(answers.len())..];
    let found: Vec<&str> = last.iter().map(|step| step.next.text.trim()).collect();
    if found.iter().eq(answers.iter()) {
        return Ok(());
    }
    let reason = format!("{}: expected {}, found {}", shipped.name, answers.join(" "), found.join(" "));
    Err(Fault::new(reason, "please report it with the output of `refrain devices`"))
}

/// One pass over one token, the first of the vocabulary.
fn one_token(engine: &mut Engine, sequence: &mut Sequence) -> Result<()> {
    let depth = engine.default_depth();
    block_on(engine.forward(&mut [Feed { sequence, tokens: &[0] }], depth, Logits::GREEDY)).map(|_| ())
}

/// The files of a model, in the order in which they build on each other; the first fault of those ends it.
fn check_model(list: &mut List, model: &str, common: &Common) -> Result<()> {
    let Some(source) = list.check("files", common::source(model, common), |_| "found".into())? else { return Ok(()) };
    let Some((config, _)) = list.check("config", read_config(&source), |(config, _)| describe(config))? else { return Ok(()) };
    let opened = Weights::open(&source).and_then(|weights| Ok((weights.check(&config.tensors())?, weights)));
    let count = |(_, weights): &(_, Weights)| format!("{} tensors of the right shapes", thousands(weights.tensors().count() as u64));
    let Some((notes, weights)) = list.check("weights", opened, count)? else { return Ok(()) };
    for note in notes {
        list.note("", &note, None)?;
    }
    let numbers = config.parameters().total + config.parameters().buffers;
    let read = read_all(&weights, &config);
    if list.check("numbers", read, |()| format!("all {} are finite", thousands(numbers)))?.is_none() {
        return Ok(());
    }
    match spectral_radius(&weights, &config)? {
        radius if radius < 1.0 => list.well("stability", &format!("ρ(A) = {radius}, below 1: the loop is stable"))?,
        radius => list.note("stability", &format!("ρ(A) = {radius}, not below 1: the loop may not settle"), None)?,
    }
    let good = match tokenizer(&source, &config) {
        Ok(None) => list.note("tokenizer", "none: the model takes token ids, not text", None).map(|()| true)?,
        Ok(Some(tokenizer)) => list.well("tokenizer", &format!("{} tokens", thousands(tokenizer.vocab_size() as u64))).map(|()| true)?,
        Err(error) => list.check("tokenizer", Err::<(), _>(error), |()| String::new())?.is_some(),
    };
    if good {
        list.check("pass", pass(&source, common), |name| format!("one token on {name}"))?;
    }
    Ok(())
}

/// "gqa, dim 96, 4 experts, 2 a token".
fn describe(config: &Config) -> String {
    let attention = match config.attention {
        Attention::Gqa { .. } => "gqa",
        Attention::Mla { .. } => "mla",
    };
    format!("{attention}, dim {}, {} experts, {} a token", config.dim, config.n_experts, config.n_experts_per_tok)
}

fn read_all(weights: &Weights, config: &Config) -> Result<()> {
    let specs = config.tensors();
    let there = specs.iter().filter(|spec| weights.tensors().any(|tensor| tensor.name == spec.name));
    there.map(|spec| weights.read(&spec.name, &spec.shape)).try_for_each(|numbers| numbers.map(|_| ()))
}

fn tokenizer(source: &Source, config: &Config) -> Result<Option<Tokenizer>> {
    let Some(json) = source.read_small("tokenizer.json")? else { return Ok(None) };
    Tokenizer::parse(&source.path("tokenizer.json"), &json, config.vocab_size).map(Some)
}

/// Loads a model onto the device and runs one token; the device's name.
fn pass(source: &Source, common: &Common) -> Result<String> {
    let options = Options { device: common.device(), context: Some(1), chunk: Some(1), ..Default::default() };
    let mut engine = block_on(Engine::load(source, &options, &mut |_| {}))?;
    let mut sequence = engine.sequence()?;
    one_token(&mut engine, &mut sequence)?;
    Ok(engine.device().name.clone())
}
