//! Model folders in f16, q8 and q4: what is written, that the engine computes with it as with the same numbers in f32, what is refused,
//! and `refrain quantize`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod cli;
mod pieces;
mod quality;
mod refusals;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pollster::block_on;
use refrain::backend::{DeviceChoice, DeviceOptions};
use refrain::model::config::{Config, TensorSpec};
use refrain::model::files::{Exported, Source, Weights, export};
use refrain::model::{Detail, Engine, Feed, Logits, Options, read_config};
use refrain::precision::{Packed, Precision};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::devices;
use crate::goldens::{CASES, Case, sequences};

use Precision::{F16, F32, Q4, Q8};

/// A tensor of a file: dtype, shape, bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// A safetensors file taken apart.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    pub metadata: BTreeMap<String, String>,
    pub tensors: BTreeMap<String, Raw>,
}

impl Parts {
    /// By the crate of the format's makers.
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap_or_default().into_iter().collect();
        let raw = |view: safetensors::tensor::TensorView| Raw {
            dtype: format!("{:?}", view.dtype()),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().map(|(name, view)| (name, raw(view))).collect();
        Self { metadata, tensors }
    }

    pub fn write(&self, path: &Path) {
        let (mut header, mut data) = (Map::new(), Vec::new());
        if !self.metadata.is_empty() {
            header.insert("__metadata__".into(), json!(self.metadata));
        }
        for (name, raw) in &self.tensors {
            let begin = data.len();
            data.extend(&raw.data);
            header.insert(name.clone(), json!({"dtype": raw.dtype, "shape": raw.shape, "data_offsets": [begin, data.len()]}));
        }
        let header = Value::Object(header).to_string();
        fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
    }
}

pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub fn config(folder: &Path) -> Config {
    Config::parse("config.json", &fs::read(folder.join("config.json")).unwrap()).unwrap()
}

/// The tensors that a file must hold.
fn specs(folder: &Path) -> impl Iterator<Item = TensorSpec> {
    config(folder).tensors().into_iter().filter(|spec| !spec.optional)
}

/// Writes `out` in a precision with the library.
pub fn quantize(folder: &Path, out: &Path, precision: Precision) -> refrain::Result<Exported> {
    let source = Source::folder(folder)?;
    let weights = Weights::open(&source)?;
    let config = source.read_small("config.json")?.unwrap();
    export(&weights, ("config.json", &config), Some(precision), out, &mut |_| Ok(()), &mut |_, _| Ok(()))
}

/// A folder with this model's config and these tensors.
pub fn folder_of(model: &Path, parts: &Parts, out: &Path) {
    fs::create_dir_all(out).unwrap();
    fs::copy(model.join("config.json"), out.join("config.json")).unwrap();
    parts.write(&out.join("model.safetensors"));
}

/// `parts`, the matrices stored in a precision and read back, all in f32.
fn dequantised(model: &Path, parts: &Parts, precision: Precision) -> Parts {
    let mut parts = parts.clone();
    for spec in specs(model).filter(|spec| spec.matrix) {
        let raw = parts.tensors.get_mut(&spec.name).unwrap();
        let cols = *spec.shape.last().unwrap();
        let numbers = F32.unpack(cols, &Packed { data: std::mem::take(&mut raw.data), scales: Vec::new() });
        raw.data = F32.pack(cols, &precision.unpack(cols, &precision.pack(cols, &numbers))).data;
    }
    parts
}

/// What a model makes of a golden case: all logits, loops, experts by id and gate.
#[derive(PartialEq)]
struct Made {
    logits: Vec<f32>,
    loops: Vec<usize>,
    experts: Vec<Vec<u32>>,
    needs: BTreeMap<Precision, u64>,
}

fn run(case: &Case, folder: &Path, dtype: Option<Precision>, device: &DeviceOptions) -> Made {
    let options = Options { device: device.clone(), dtype, loops: Some(case.loops), sequences: Some(case.batch), ..Options::default() };
    let source = Source::folder(folder).unwrap();
    let mut engine = block_on(Engine::load(&source, &options, &mut |_| {})).unwrap();
    let (tokens, mut all) = (case.tokens(), sequences(&engine, case.batch));
    let mut feeds: Vec<Feed> = all.iter_mut().zip(&tokens).map(|(sequence, tokens)| Feed { sequence, tokens }).collect();
    let detail = Detail { experts: true, ..Detail::default() };
    let logits = Logits { every: true, best: 1, all: true };
    let (output, trace) = block_on(engine.forward_traced(&mut feeds, case.depth(), logits, detail)).unwrap();
    let loops: Vec<usize> = output.rows.iter().map(|row| row.loops).collect();
    let experts = trace.tokens.iter().zip(&loops).flat_map(|(token, loops)| {
        token.loops[..*loops].iter().map(|at| {
            let mut ids: Vec<u32> = at.experts.iter().map(|(id, _)| *id).collect();
            ids.sort_unstable();
            ids
        })
    });
    let experts = experts.collect();
    Made {
        logits: output.predictions.iter().flat_map(|p| p.logits.iter().copied()).collect(),
        loops,
        experts,
        needs: engine.needs().matrices.clone(),
    }
}

fn cpu() -> DeviceOptions {
    DeviceOptions { device: DeviceChoice::Cpu, ..DeviceOptions::default() }
}

/// How far two runs are apart, as a share of the largest logit; loops and experts must be equal.
fn apart(what: &str, expected: &Made, found: &Made) -> f32 {
    assert_eq!((&expected.loops, &expected.experts), (&found.loops, &found.experts), "{what}");
    assert_eq!(expected.logits.len(), found.logits.len(), "{what}");
    let scale = expected.logits.iter().fold(0f32, |max, x| max.max(x.abs()));
    expected.logits.iter().zip(&found.logits).map(|(e, f)| (e - f).abs()).fold(0f32, f32::max) / scale
}

// ---- what is written ------------------------------------------------------------------------------------------------

#[test]
fn the_file_is_as_the_page_says() {
    for name in CASES {
        for precision in Precision::ALL {
            let temp = TempDir::new().unwrap();
            let (model, out) = (golden(name), temp.path().join("m"));
            let exported = quantize(&model, &out, precision).unwrap();
            let what = format!("{name} in {precision}");
            assert_eq!(fs::read(model.join("config.json")).unwrap(), fs::read(out.join("config.json")).unwrap());
            let file = out.join("model.safetensors");
            let bytes = fs::read(&file).unwrap();
            assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0, "{what}: the numbers start at a multiple of 8");
            let (found, given) = (Parts::read(&file), Parts::read(&model.join("model.safetensors")));
            let (mut count, mut total, mut large) = (0, 0, 0);
            for spec in specs(&model) {
                let (raw, own) = (&found.tensors[&spec.name], &given.tensors[&spec.name]);
                assert_eq!((own.dtype.as_str(), &own.shape), ("F32", &spec.shape));
                let (cols, mut tensors) = (*spec.shape.last().unwrap(), vec![raw]);
                if spec.matrix && precision != F32 {
                    large += 1;
                    let rows: usize = spec.shape[..spec.shape.len() - 1].iter().product();
                    let expected = precision.pack(cols, &F32.unpack(cols, &Packed { data: own.data.clone(), scales: Vec::new() }));
                    assert_eq!(raw.data, expected.data, "{what}: {}", spec.name);
                    let (dtype, shape) = match precision {
                        F16 => ("F16", spec.shape.clone()),
                        Q8 => ("I8", vec![rows, cols.div_ceil(32) * 32]),
                        _ => ("U8", vec![rows, cols.div_ceil(32) * 16]),
                    };
                    assert_eq!((raw.dtype.as_str(), &raw.shape), (dtype, &shape), "{what}: {}", spec.name);
                    if precision.is_quantized() {
                        let scales = &found.tensors[&format!("{}.scales", spec.name)];
                        assert_eq!(
                            (scales.dtype.as_str(), &scales.shape),
                            ("F16", &vec![rows, cols.div_ceil(32)]),
                            "{what}: {}",
                            spec.name
                        );
                        assert_eq!(scales.data, expected.scales, "{what}: {}", spec.name);
                        tensors.push(scales);
                    }
                } else {
                    assert_eq!(raw, own, "{what}: {}", spec.name);
                }
                (count, total) = (count + 1, total + tensors.iter().map(|raw| raw.data.len() as u64).sum::<u64>());
            }
            let scales = if precision.is_quantized() { large } else { 0 };
            assert_eq!((found.tensors.len(), exported.tensors, exported.bytes), (count + scales, count, total), "{what}: nothing else");
            assert_eq!(exported.parameters, config(&model).parameters());
            let kinds: &[&str] = match precision {
                F32 => &["F32"],
                F16 => &["F16", "F32"],
                Q8 => &["F32", "Q8"],
                Q4 => &["F32", "Q4"],
            };
            assert_eq!(exported.dtypes, kinds, "{what}");
            if precision.is_quantized() {
                let keys: Vec<&str> = found.metadata.keys().map(String::as_str).collect();
                assert_eq!(keys, ["refrain.blocks", "refrain.format", "refrain.q4", "refrain.q8", "refrain.scales"]);
                assert_eq!(found.metadata["refrain.format"], "1");
                assert_eq!(found.metadata["refrain.scales"], "NAME.scales: F16, (rows, blocks of a row)");
            } else {
                assert_eq!(found.metadata, BTreeMap::from([("format".to_string(), "pt".to_string())]), "{what}");
            }
        }
    }
}

/// What must stay f32: a choice that flips, or a small vector.
#[test]
fn what_stays_f32() {
    for name in CASES {
        for spec in specs(&golden(name)) {
            let keeps = ["router", "halt", "norm", "injection", "lora"].iter().any(|part| spec.name.contains(part));
            assert_eq!(spec.matrix, !keeps && spec.shape.len() >= 2, "{name}: {}", spec.name);
        }
    }
}

#[test]
fn the_tied_head_is_left_out() {
    let temp = TempDir::new().unwrap();
    let (model, with, out) = (golden("gqa_bare"), temp.path().join("h"), temp.path().join("m"));
    let mut parts = Parts::read(&model.join("model.safetensors"));
    let embed = parts.tensors["embed.weight"].clone();
    parts.tensors.insert("head.weight".into(), embed);
    folder_of(&model, &parts, &with);
    for precision in Precision::ALL {
        let exported = quantize(&with, &out, precision).unwrap();
        assert_eq!(exported.notes, ["left out head.weight: it is tied to embed.weight"]);
        let found = Parts::read(&out.join("model.safetensors"));
        assert!(!found.tensors.keys().any(|name| name.starts_with("head")));
        // And a head in blocks, which others may write, is read if it is the same.
        let mut tied = found.clone();
        for suffix in ["", ".scales"] {
            if let Some(raw) = found.tensors.get(&format!("embed.weight{suffix}")) {
                tied.tensors.insert(format!("head.weight{suffix}"), raw.clone());
            }
        }
        let both = temp.path().join("tied");
        folder_of(&model, &tied, &both);
        let (source, specs) = (Source::folder(&both).unwrap(), config(&both).tensors());
        assert_eq!(Weights::open(&source).unwrap().check(&specs).unwrap(), Vec::<String>::new(), "{precision}");
        let last = if precision.is_quantized() { "head.weight.scales" } else { "head.weight" };
        *tied.tensors.get_mut(last).unwrap().data.last_mut().unwrap() ^= 1;
        folder_of(&model, &tied, &both);
        let error = Weights::open(&source).unwrap().check(&specs).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor {last}: expected the same numbers as embed.weight")), "{error}");
        fs::remove_dir_all(&out).unwrap();
    }
}

// ---- what the engine makes of it ------------------------------------------------------------------------------------

/// All matrices are in this precision, but the second halves of the experts where pieces of shared ones would cut through blocks.
fn check_precisions(run: &Made, case: &Case, precision: Precision, what: &str) {
    let (config, _) = read_config(&Source::folder(&case.folder).unwrap()).unwrap();
    let cut = config.n_shared_experts > 0 && config.n_experts_per_tok > 1 && config.expert_dim % 32 != 0;
    let mut expected = BTreeSet::from([precision]);
    expected.extend((cut && precision.is_quantized()).then_some(F32));
    assert_eq!(run.needs.keys().copied().collect::<BTreeSet<_>>(), expected, "{what}");
}

/// Every golden case in every precision on this device: from the folder that `export` wrote exactly as from the original with
/// `Options::dtype`, and near to f32 weights of the same numbers.
fn check_engine(device: &str, options: &DeviceOptions, cases: &[&'static str], precisions: &[Precision], bound: f32) {
    let mut worst = 0f32;
    for name in cases {
        let case = Case::open(name);
        let parts = Parts::read(&case.folder.join("model.safetensors"));
        for precision in precisions {
            let temp = TempDir::new().unwrap();
            let (out, plain) = (temp.path().join("m"), temp.path().join("plain"));
            let what = format!("{name} in {precision} on {device}");
            quantize(&case.folder, &out, *precision).unwrap();
            let written = run(&case, &out, None, options);
            check_precisions(&written, &case, *precision, &what);
            let asked = run(&case, &case.folder, Some(*precision), options);
            assert!(written == asked, "{what}: the folder and the option differ");
            folder_of(&case.folder, &dequantised(&case.folder, &parts, *precision), &plain);
            let expected = run(&case, &plain, None, options);
            assert_eq!(expected.needs.keys().collect::<Vec<_>>(), [&F32]);
            let apart = apart(&what, &expected, &written);
            assert!(apart <= bound, "{what}: {apart} of the largest logit apart");
            worst = worst.max(apart);
        }
    }
    println!("{device}: at most {worst:.1e} of the largest logit from f32 weights of the same numbers");
}

#[test]
fn the_engine_computes_with_what_is_stored_on_the_cpu() {
    check_engine("cpu", &cpu(), &CASES, &Precision::ALL, 1e-5);
}

#[test]
fn the_engine_computes_with_what_is_stored_on_lavapipe() {
    if let Some(options) = devices::gpu("llvmpipe") {
        check_engine("lavapipe", &options, &CASES, &Precision::ALL, 1e-5);
    }
}

#[test]
fn the_engine_computes_with_what_is_stored_on_swiftshader() {
    if let Some(options) = devices::gpu("SwiftShader") {
        check_engine("SwiftShader", &options, &["gqa_tiny", "mla_tiny"], &[Q4], 1e-5);
    }
}

// ---- from other dtypes, and twice -----------------------------------------------------------------------------------

/// A file of a folder, the file it lists.
fn file(folder: &Path) -> PathBuf {
    folder.join("model.safetensors")
}

#[test]
fn what_is_quantised_can_be_quantised_again() {
    let temp = TempDir::new().unwrap();
    let at = |name: &str| temp.path().join(name);
    let model = golden("mla_tiny");
    let given = Parts::read(&file(&model));
    for (first, second) in [(Q8, Q4), (Q4, Q8), (F16, Q4), (Q8, F16), (Q4, F32), (Q8, F32), (Q4, Q4), (Q8, Q8), (F16, F16), (F32, F32)] {
        let [one, two] = ["one", "two"].map(at);
        quantize(&model, &one, first).unwrap();
        quantize(&one, &two, second).unwrap();
        let (one_parts, two_parts) = (Parts::read(&file(&one)), Parts::read(&file(&two)));
        if first == second {
            assert_eq!(fs::read(file(&one)).unwrap(), fs::read(file(&two)).unwrap(), "{first}: byte for byte");
        }
        // What the first holds, in the second's precision.
        let through = dequantised(&model, &given, first);
        for spec in specs(&model) {
            let cols = *spec.shape.last().unwrap();
            let raw = &two_parts.tensors[&spec.name];
            if spec.matrix && first != second {
                let numbers = F32.unpack(cols, &Packed { data: through.tensors[&spec.name].data.clone(), scales: Vec::new() });
                let expected = second.pack(cols, &numbers);
                assert_eq!(raw.data, expected.data, "{first} to {second}: {}", spec.name);
                let scales = two_parts.tensors.get(&format!("{}.scales", spec.name)).map_or(&[][..], |raw| &raw.data);
                assert_eq!(scales, expected.scales);
            } else {
                assert_eq!(raw, &one_parts.tensors[&spec.name]);
            }
        }
        [one, two].iter().for_each(|folder| fs::remove_dir_all(folder).unwrap());
    }
}

/// The parts with numbers of f32 in another plain dtype.
fn narrowed(parts: &Parts, dtype: &str) -> Parts {
    let mut parts = parts.clone();
    for raw in parts.tensors.values_mut() {
        let numbers = raw.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        raw.data = match dtype {
            "F16" => numbers.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
            _ => numbers.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        };
        raw.dtype = dtype.into();
    }
    parts
}

#[test]
fn halves_are_quantised_and_loaded_as_f16() {
    let temp = TempDir::new().unwrap();
    let case = Case::open("gqa_odd");
    let given = Parts::read(&file(&case.folder));
    for dtype in ["F16", "BF16"] {
        let [halves, wide, out] = ["halves", "wide", "out"].map(|name| temp.path().join(format!("{name}{dtype}")));
        let narrow = narrowed(&given, dtype);
        folder_of(&case.folder, &narrow, &halves);
        // The same numbers in f32.
        let mut widened = narrow.clone();
        for raw in widened.tensors.values_mut() {
            let bits = raw.data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
            let wide = |bits| if dtype == "F16" { half::f16::from_bits(bits).to_f32() } else { half::bf16::from_bits(bits).to_f32() };
            (raw.data, raw.dtype) = (bits.flat_map(|bits| wide(bits).to_le_bytes()).collect(), "F32".into());
        }
        folder_of(&case.folder, &widened, &wide);
        let own = run(&case, &halves, None, &cpu());
        check_precisions(&own, &case, F16, dtype);
        for precision in Precision::ALL {
            let (a, b) = (run(&case, &halves, Some(precision), &cpu()), run(&case, &wide, Some(precision), &cpu()));
            assert!(a == b, "{dtype} in {precision}");
            let both = [&halves, &wide].map(|folder| {
                quantize(folder, &out, precision).unwrap();
                let bytes = fs::read(file(&out)).unwrap();
                fs::remove_dir_all(&out).unwrap();
                bytes
            });
            assert!(both[0] == both[1], "{dtype} in {precision}: other bytes");
        }
        // bf16 of this size loses nothing in f16.
        assert!(own == run(&case, &wide, Some(F16), &cpu()));
    }
}

/// Tensors dealt out to shards by `shard`, with their index.
pub fn shards(model: &Path, parts: &Parts, out: &Path, shard: impl Fn(&str) -> usize) {
    let (mut files, mut map): (BTreeMap<String, Parts>, Map<String, Value>) = Default::default();
    for (name, raw) in &parts.tensors {
        let file = format!("model-{:05}.safetensors", shard(name));
        map.insert(name.clone(), file.clone().into());
        let part = files.entry(file).or_insert_with(|| Parts { metadata: parts.metadata.clone(), tensors: BTreeMap::new() });
        part.tensors.insert(name.clone(), raw.clone());
    }
    fs::create_dir_all(out).unwrap();
    fs::copy(model.join("config.json"), out.join("config.json")).unwrap();
    files.iter().for_each(|(name, part)| part.write(&out.join(name)));
    fs::write(out.join("model.safetensors.index.json"), json!({"metadata": {"total_size": 0}, "weight_map": map}).to_string()).unwrap();
}

#[test]
fn shards_are_as_one_file() {
    for name in ["gqa_odd", "mla_tiny"] {
        let case = Case::open(name);
        for precision in Precision::ALL {
            let temp = TempDir::new().unwrap();
            let [out, sharded, again] = ["out", "sharded", "again"].map(|name| temp.path().join(name));
            quantize(&case.folder, &out, precision).unwrap();
            let parts = Parts::read(&file(&out));
            // Every matrix's scales lie in another shard than the matrix.
            let number = |name: &str| parts.tensors.keys().position(|other| other == name.trim_end_matches(".scales")).unwrap();
            shards(&case.folder, &parts, &sharded, |name| (number(name) + usize::from(name.ends_with(".scales"))) % 3);
            assert_eq!(fs::read_dir(&sharded).unwrap().count(), 5);
            assert!(run(&case, &sharded, None, &cpu()) == run(&case, &out, None, &cpu()), "{name} in {precision}");
            quantize(&sharded, &again, precision).unwrap();
            assert!(fs::read(file(&again)).unwrap() == fs::read(file(&out)).unwrap(), "{name} in {precision}");
        }
    }
}

/// The dtype of the format's makers for what we call it.
#[test]
fn their_crate_knows_the_dtypes() {
    let temp = TempDir::new().unwrap();
    for (precision, dtype) in [(Q8, Dtype::I8), (Q4, Dtype::U8), (F16, Dtype::F16)] {
        let out = temp.path().join(precision.name());
        quantize(&golden("gqa_bare"), &out, precision).unwrap();
        let bytes = fs::read(file(&out)).unwrap();
        assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("embed.weight").unwrap().dtype(), dtype);
    }
}

#[test]
fn matrices_of_mixed_dtypes_share_the_largest() {
    for name in ["gqa_tiny", "mla_all_experts"] {
        let (model, case) = (golden(name), Case::open(name));
        let parts = Parts::read(&model.join("model.safetensors"));
        let rounded = dequantised(&model, &parts, F16);
        // One kind of matrix in f16, though what lies beside it on the device is f32 and stands before or after it.
        for kind in ["wk", "down.weight", "routed_experts.0.gate", "routed_experts.1.up", "shared_experts.0", "kv_down"] {
            let (mut mixed, mut plain) = (parts.clone(), parts.clone());
            for spec in specs(&model).filter(|spec| spec.matrix && spec.name.contains(kind)) {
                let raw = &rounded.tensors[&spec.name];
                let cols = *spec.shape.last().unwrap();
                let numbers = F32.unpack(cols, &Packed { data: raw.data.clone(), scales: Vec::new() });
                let half = Raw { dtype: "F16".into(), shape: raw.shape.clone(), data: F16.pack(cols, &numbers).data };
                mixed.tensors.insert(spec.name.clone(), half);
                plain.tensors.insert(spec.name.clone(), raw.clone());
            }
            let folder = tempfile::tempdir().unwrap();
            let (a, b) = (folder.path().join("mixed"), folder.path().join("plain"));
            folder_of(&model, &mixed, &a);
            folder_of(&model, &plain, &b);
            let (mixed, plain) = (run(&case, &a, None, &cpu()), run(&case, &b, None, &cpu()));
            // Sums in another order, where a whole matrix is in F16; weights rounded once more would be off by 1e-4.
            let scale = plain.logits.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            let worst = mixed.logits.iter().zip(&plain.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale;
            assert!(worst < 1e-5 && mixed.loops == plain.loops, "{name}: {kind} in F16 among F32: {worst:e}");
        }
    }
}
