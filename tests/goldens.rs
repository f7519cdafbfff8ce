//! The golden cases, computed by the published PyTorch package: the whole engine against them, on every device, stage by stage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::path::PathBuf;

use pollster::block_on;
use refrain::backend::DeviceOptions;
use refrain::model::defaults::Exit;
use refrain::model::files::Source;
use refrain::model::{Depth, Detail, Engine, Feed, Logits, LoopTrace, Options, Schedule, Sequence, TokenTrace};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::devices;

/// Every golden case.
pub const CASES: [&str; 7] = ["gqa_tiny", "mla_tiny", "gqa_odd", "mla_bias", "gqa_bare", "mla_bare", "mla_all_experts"];

/// Logits may be off by this share of the largest logit.
const LOGITS: f32 = 5e-4;
/// Stage tensors may be off by this share of their largest value.
const STAGES: f32 = 1e-3;

/// All logits of every token.
const ALL: Logits = Logits { every: true, best: 1, all: true };

/// One case: the folder, the tensors, the run.
pub struct Case {
    pub name: &'static str,
    pub folder: PathBuf,
    floats: HashMap<String, Vec<f32>>,
    ints: HashMap<String, Vec<i64>>,
    pub prompt: usize,
    pub decode: usize,
    pub loops: usize,
    pub batch: usize,
}

impl Case {
    pub fn open(name: &'static str) -> Self {
        Self::read(name, "golden.safetensors")
    }

    /// A case with the tensors of this file.
    fn read(name: &'static str, file: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let (mut floats, mut ints) = (HashMap::new(), HashMap::new());
        for (name, view) in tensors.tensors() {
            match view.dtype() {
                Dtype::F32 => {
                    floats.insert(name, view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect());
                }
                Dtype::I64 => {
                    ints.insert(name, view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect());
                }
                Dtype::I32 => {
                    let widen = |b: &[u8]| i64::from(i32::from_le_bytes(b.try_into().unwrap()));
                    ints.insert(name, view.data().chunks_exact(4).map(widen).collect());
                }
                other => panic!("{name} is {other:?}"),
            }
        }
        let run: Value = serde_json::from_slice(&std::fs::read(folder.join("run.json")).unwrap()).unwrap();
        let number = |key: &str| run[key].as_u64().unwrap() as usize;
        let (prompt, decode, loops, batch) = (number("prompt_len"), number("decode_steps"), number("n_loops"), number("batch"));
        Self { name, folder, floats, ints, prompt, decode, loops, batch }
    }

    pub fn depth(&self) -> Depth {
        Depth { loops: self.loops, min_loops: 0, exit: Exit::Model }
    }

    pub fn engine(&self, device: DeviceOptions, chunk: Option<usize>) -> Engine {
        let options = Options { device, loops: Some(self.loops), sequences: Some(self.batch), chunk, ..Default::default() };
        let source = Source::folder(&self.folder).unwrap();
        block_on(Engine::load(&source, &options, &mut |_| {})).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// The tokens of each sequence of the batch: prompt, then what the decode steps are fed.
    pub fn tokens(&self) -> Vec<Vec<u32>> {
        let ids = &self.ints["input_ids"];
        ids.chunks_exact(self.prompt + self.decode).map(|row| row.iter().map(|id| *id as u32).collect()).collect()
    }

    /// An assertion that `found` is the golden tensor `name`, but for `tolerance` of its largest value.
    pub fn close(&self, device: &str, name: &str, found: &[f32], tolerance: f32) {
        let expected = &self.floats[name];
        assert_eq!(expected.len(), found.len(), "{} on {device}: {name} has another size", self.name);
        let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        for (i, (e, f)) in expected.iter().zip(found).enumerate() {
            assert!((e - f).abs() <= tolerance * scale, "{} on {device}: {name}[{i}]: expected {e}, found {f}, largest {scale}", self.name);
        }
    }

    fn equal(&self, device: &str, name: &str, found: impl Iterator<Item = i64>) {
        assert_eq!(self.ints[name], found.collect::<Vec<_>>(), "{} on {device}: {name}", self.name);
    }
}

/// Feeds a slice of every sequence's tokens; the predictions' logits, the loops of every row.
pub fn feed(engine: &mut Engine, sequences: &mut [Sequence], tokens: &[&[u32]], depth: Depth, logits: Logits) -> (Vec<f32>, Vec<i64>) {
    let mut feeds: Vec<Feed> = sequences.iter_mut().zip(tokens).map(|(sequence, tokens)| Feed { sequence, tokens }).collect();
    let output = block_on(engine.forward(&mut feeds, depth, logits)).unwrap();
    let logits = output.predictions.iter().flat_map(|p| p.logits.iter().copied()).collect();
    (logits, output.rows.iter().map(|row| row.loops as i64).collect())
}

pub fn sequences(engine: &Engine, count: usize) -> Vec<Sequence> {
    (0..count).map(|_| engine.sequence().unwrap()).collect()
}

/// One pass over everything, the prompt stage by stage, and single steps with the cache: all that the golden file holds.
fn check_case(case: &Case, device: &str, engine: &mut Engine) {
    let tokens = case.tokens();
    let whole: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let mut all = sequences(engine, case.batch);
    let (logits, loops) = feed(engine, &mut all, &whole, case.depth(), ALL);
    case.close(device, "logits", &logits, LOGITS);
    case.equal(device, "loops_used_full", loops.into_iter());
    drop(all);

    let mut all = sequences(engine, case.batch);
    let mut feeds: Vec<Feed> =
        all.iter_mut().zip(&tokens).map(|(sequence, tokens)| Feed { sequence, tokens: &tokens[..case.prompt] }).collect();
    // The golden file holds every token at every loop.
    engine.set_schedule(Schedule::Full);
    let detail = Detail { states: true, experts: true, lens: 0 };
    let (output, trace) = block_on(engine.forward_traced(&mut feeds, case.depth(), ALL, detail)).unwrap();
    engine.set_schedule(Schedule::Lazy);
    let stage = |name: &str, take: &dyn Fn(&TokenTrace) -> &Vec<f32>| {
        case.close(device, name, &trace.tokens.iter().flat_map(take).copied().collect::<Vec<f32>>(), STAGES);
    };
    stage("embed", &|token| &token.embed);
    (0..engine.config().prelude_layers).for_each(|i| stage(&format!("prelude.{i}"), &|token| &token.prelude[i]));
    stage("recurrent", &|token| &token.recurrent);
    (0..engine.config().coda_layers).for_each(|i| stage(&format!("coda.{i}"), &|token| &token.coda[i]));
    // (L, B, T, …)
    let at = |t: usize| trace.tokens.iter().map(move |token| &token.loops[t]);
    let loops = || (0..case.loops).flat_map(at);
    let each = |name: &str, take: fn(&LoopTrace) -> Vec<f32>| case.close(device, name, &loops().flat_map(take).collect::<Vec<_>>(), STAGES);
    each("loop.h", |at| at.h.clone());
    each("loop.halt_p", |at| vec![at.halt_p]);
    each("loop.weight", |at| vec![at.weight]);
    each("loop.gates", |at| at.experts.iter().map(|(_, gate)| *gate).collect());
    case.equal(device, "loop.experts", loops().flat_map(|at| &at.experts).map(|(id, _)| i64::from(*id)));
    case.equal(device, "loops_used", output.rows.iter().map(|row| row.loops as i64));
    let logits: Vec<f32> = output.predictions.iter().flat_map(|p| p.logits.iter().copied()).collect();
    case.close(device, "logits_prompt", &logits, LOGITS);

    // logits_decode is (B, N + 1, V): the last prompt position, then every step.
    let vocabulary = engine.config().vocab_size;
    let mut decoded: Vec<Vec<f32>> =
        (0..case.batch).map(|b| logits[((b + 1) * case.prompt - 1) * vocabulary..][..vocabulary].to_vec()).collect();
    for step in 0..case.decode {
        let next: Vec<&[u32]> = tokens.iter().map(|tokens| &tokens[case.prompt + step..][..1]).collect();
        let (logits, _) = feed(engine, &mut all, &next, case.depth(), ALL);
        for (decoded, logits) in decoded.iter_mut().zip(logits.chunks_exact(vocabulary)) {
            decoded.extend(logits);
        }
    }
    case.close(device, "logits_decode", &decoded.concat(), LOGITS);
}

fn check_device(device: &str, options: &DeviceOptions) {
    for name in CASES {
        let case = Case::open(name);
        check_case(&case, device, &mut case.engine(options.clone(), None));
    }
}

/// The package knows one depth for all tokens; tests/golden/depths.py works out what it would give if each piece of a conversation had
/// a depth of its own.
#[test]
fn a_conversation_that_changes_its_depth_is_as_the_package_would_have_it() {
    for (device, options) in devices::all() {
        for name in ["gqa_tiny", "mla_tiny", "gqa_odd", "mla_bias"] {
            let (case, tokens) = (Case::read(name, "depths.safetensors"), Case::open(name).tokens());
            // Full differs from lazy in what the host asks for, not in what a driver does.
            for schedule in if device == "cpu" { &[Schedule::Lazy, Schedule::Full][..] } else { &[Schedule::Lazy] } {
                let mut engine = case.engine(options.clone(), None);
                engine.set_schedule(*schedule);
                let vocabulary = engine.config().vocab_size;
                let mut all = sequences(&engine, case.batch);
                let (mut logits, mut loops) = (vec![Vec::new(); case.batch], vec![Vec::new(); case.batch]);
                for piece in case.ints["pieces"].chunks_exact(5) {
                    let [first, count, cap, min_loops, fixed] = [0, 1, 2, 3, 4].map(|i| piece[i] as usize);
                    let exit = if fixed == 1 { Exit::Fixed } else { Exit::Model };
                    let piece: Vec<&[u32]> = tokens.iter().map(|tokens| &tokens[first..first + count]).collect();
                    let found = feed(&mut engine, &mut all, &piece, Depth { loops: cap, min_loops, exit }, ALL);
                    for b in 0..case.batch {
                        logits[b].extend(&found.0[b * count * vocabulary..][..count * vocabulary]);
                        loops[b].extend(&found.1[b * count..][..count]);
                    }
                }
                let device = format!("{device}, {schedule:?}");
                case.close(&device, "logits", &logits.concat(), LOGITS);
                case.equal(&device, "loops_used", loops.concat().into_iter());
            }
        }
    }
}

#[test]
fn goldens_on_the_cpu() {
    let (name, options) = devices::all().swap_remove(0);
    check_device(name, &options);
}

#[test]
fn goldens_on_lavapipe() {
    devices::gpu("llvmpipe").into_iter().for_each(|options| check_device("lavapipe", &options));
}

#[test]
fn goldens_on_swiftshader() {
    devices::gpu("SwiftShader").into_iter().for_each(|options| check_device("SwiftShader", &options));
}
