//! What is refused: blocks that are not as they should be, numbers that a precision cannot hold, files that change under the reader; and
//! that nothing is left behind where writing stops.

use std::fs;
use std::path::Path;

use pollster::block_on;
use refrain::Error;
use refrain::model::files::{Entry, Source, Weights, safetensors_header};
use refrain::model::{Engine, Options};
use refrain::precision::Precision;
use serde_json::Value;
use tempfile::TempDir;

use super::{Parts, Raw, config, cpu, file, folder_of, golden, quantize, shards};
use crate::convert::{check_error, names};

use Precision::{F16, Q4, Q8};

const MATRIX: &str = "prelude.0.attn.wq.weight";
const SCALES: &str = "prelude.0.attn.wq.weight.scales";
const MODEL: &str = "gqa_odd";

/// The parts of a golden model in a precision.
fn parts(precision: Precision) -> Parts {
    let temp = TempDir::new().unwrap();
    let out = temp.path().join("m");
    quantize(&golden(MODEL), &out, precision).unwrap();
    Parts::read(&file(&out))
}

fn load(folder: &Path, dtype: Option<Precision>) -> refrain::Result<()> {
    let source = Source::folder(folder)?;
    let options = Options { device: cpu(), dtype, ..Options::default() };
    block_on(Engine::load(&source, &options, &mut |_| {})).map(drop)
}

/// Loading and quantising refuse these parts with this code and these words.
fn refused(parts: &Parts, code: &str, words: &[&str]) {
    let temp = TempDir::new().unwrap();
    let [model, out] = ["model", "out"].map(|name| temp.path().join(name));
    folder_of(&golden(MODEL), parts, &model);
    for error in [load(&model, None).unwrap_err(), quantize(&model, &out, Q8).unwrap_err()] {
        let message = error.to_string();
        assert_eq!(error.code(), code, "{message}");
        assert!(message.starts_with(model.to_str().unwrap()), "the file is named: {message}");
        words.iter().for_each(|word| assert!(message.contains(word), "no {word:?} in {message}"));
    }
    assert_eq!(names(temp.path()), ["model"]);
    // And by those who only look, as far as they look.
    let args = ["inspect", model.to_str().unwrap(), "--check", "--device", "cpu"];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_refrain")).args(args).output().unwrap();
    check_error(&output, code, words);
}

#[test]
fn blocks_that_are_not_as_they_should_be() {
    for (precision, dtype, name) in [(Q4, "U8", "q4"), (Q8, "I8", "q8")] {
        let good = parts(precision);
        let change = |change: &dyn Fn(&mut Parts)| {
            let mut parts = good.clone();
            change(&mut parts);
            parts
        };
        let raw = |tensor: &str, change: &dyn Fn(&mut Raw)| {
            let mut parts = good.clone();
            change(parts.tensors.get_mut(tensor).unwrap());
            parts
        };
        let matrix = good.tensors[MATRIX].clone();
        let scales = good.tensors[SCALES].clone();
        let shape = |raw: &Raw| format!("({}, {})", raw.shape[0], raw.shape[1]);

        let version = change(&|parts| drop(parts.metadata.insert("refrain.format".into(), "2".into())));
        refused(&version, "format", &["refrain.format: 1", "found refrain.format: 2, of another version of this program"]);
        let none = change(&|parts| parts.metadata.clear());
        refused(&none, "tensor", &["embed.weight", "expected F32, F16 or BF16, or weights in blocks with refrain.format: 1", dtype]);
        let no_scales = change(&|parts| drop(parts.tensors.remove(SCALES)));
        refused(&no_scales, "tensor", &[SCALES, &shape(&scales), "no such tensor"]);
        // The rows are right, the blocks too few.
        let short = raw(SCALES, &|raw| {
            raw.shape[1] -= 1;
            raw.data.truncate(2 * raw.shape[0] * raw.shape[1]);
        });
        refused(
            &short,
            "tensor",
            &[SCALES, &format!("expected {}", shape(&scales)), &format!("found ({}, {})", scales.shape[0], scales.shape[1] - 1)],
        );
        refused(&raw(SCALES, &|raw| raw.dtype = "BF16".into()), "tensor", &[SCALES, "expected F16, found BF16"]);
        let longer = raw(MATRIX, &|raw| {
            raw.shape[1] += 1;
            raw.data.resize(raw.shape[0] * raw.shape[1], 0);
        });
        let expected = format!("expected {name} {}", shape(&matrix));
        refused(&longer, "tensor", &[MATRIX, &expected, &format!("found ({}, {})", matrix.shape[0], matrix.shape[1] + 1)]);
        // The shape of the weights, one byte a weight.
        let plain = config(&golden(MODEL)).tensors().into_iter().find(|spec| spec.name == MATRIX).unwrap().shape;
        if plain != matrix.shape {
            let bytes = raw(MATRIX, &|raw| (raw.shape, raw.data) = (plain.clone(), vec![0; plain.iter().product()]));
            refused(&bytes, "tensor", &[MATRIX, &expected]);
        }
        for (bits, shown) in [(0x7c00u16, "inf"), (0xfc00, "-inf"), (0x7e00, "NaN")] {
            let last = raw(SCALES, &|raw| {
                let end = raw.data.len() - 2;
                raw.data[end..].copy_from_slice(&bits.to_le_bytes());
            });
            refused(&last, "tensor", &[MATRIX, "finite numbers", &format!("{shown} as the scale of")]);
        }
        // The other dtype of blocks has other rows.
        refused(&raw(MATRIX, &|raw| raw.dtype = if dtype == "U8" { "I8".into() } else { "U8".into() }), "tensor", &[MATRIX]);
    }
}

/// Small tensors are never in blocks, and scales belong to blocks.
#[test]
fn blocks_only_for_matrices() {
    let good = parts(Q4);
    let router = "recurrent.block.ffn.router.weight";
    let own = &good.tensors[router];
    let (rows, cols) = (own.shape[0], own.shape[1]);
    let mut parts = good.clone();
    let packed = Q4.pack(cols, &vec![0.5; rows * cols]);
    let shape = vec![rows, Q4.row_bytes(cols)];
    parts.tensors.insert(router.into(), Raw { dtype: "U8".into(), shape: shape.clone(), data: packed.data });
    let scales = Raw { dtype: "F16".into(), shape: vec![rows, Q4.blocks(cols)], data: packed.scales };
    parts.tensors.insert(format!("{router}.scales"), scales.clone());
    refused(&parts, "tensor", &[router]);
    // Scales without blocks: of a matrix that is plain, of a small tensor.
    let plain = Parts::read(&file(&golden(MODEL)));
    for name in [MATRIX, router] {
        let mut parts = plain.clone();
        parts.tensors.insert(format!("{name}.scales"), scales.clone());
        refused(&parts, "tensor", &[&format!("{name}.scales"), "no such tensor in this model"]);
    }
}

/// A folder of a golden model with one number of a matrix changed.
fn with_number(temp: &TempDir, number: f32) -> std::path::PathBuf {
    let mut parts = Parts::read(&file(&golden(MODEL)));
    parts.tensors.get_mut(MATRIX).unwrap().data[4 * 70..][..4].copy_from_slice(&number.to_le_bytes());
    let model = temp.path().join("model");
    folder_of(&golden(MODEL), &parts, &model);
    model
}

#[test]
fn numbers_too_large_for_a_precision() {
    let temp = TempDir::new().unwrap();
    for (number, shown, precision, most, fits) in [
        (70_000.0, "70000", F16, "65504", &[Q8, Q4][..]),
        (-600_000.0, "-600000", Q4, "524032", &[Q8]),
        (1e7, "10000000", Q8, "8319008", &[]),
        (1e7, "10000000", Q4, "524032", &[]),
    ] {
        let model = with_number(&temp, number);
        let out = temp.path().join("out");
        for error in [load(&model, Some(precision)).unwrap_err(), quantize(&model, &out, precision).unwrap_err()] {
            let message = error.to_string();
            assert_eq!(error.code(), "tensor", "{message}");
            let words = [MATRIX, &format!("numbers of at most {most} for {precision}"), &format!("found {shown} at index 70")];
            words.iter().for_each(|word| assert!(message.contains(word), "no {word:?} in {message}"));
            let hint = error.hint().unwrap();
            assert!(hint.contains("another dtype") && hint.contains("f32"), "{hint}");
        }
        for other in fits.iter().chain(&[Precision::F32]) {
            load(&model, Some(*other)).unwrap();
        }
        assert_eq!(names(temp.path()), ["model"]);
    }
    // NaN is damage in every precision.
    let model = with_number(&temp, f32::NAN);
    for precision in Precision::ALL {
        let error = load(&model, Some(precision)).unwrap_err();
        assert!(error.to_string().contains("finite numbers, found NaN at index 70"), "{error}");
        assert!(error.hint().unwrap().contains("damaged"), "{:?}", error.hint());
    }
}

#[test]
fn shards_of_blocks_that_do_not_fit_together() {
    let (temp, good) = (TempDir::new().unwrap(), parts(Q4));
    let model = temp.path().join("m");
    let deal = |name: &str| usize::from(name.ends_with(".scales"));
    shards(&golden(MODEL), &good, &model, deal);
    load(&model, None).unwrap();
    // Metadata is each shard's own: the one with scales needs none, the one with blocks does.
    let [blocks, scales] = [0, 1].map(|n| model.join(format!("model-{n:05}.safetensors")));
    let (mut first, mut second) = (Parts::read(&blocks), Parts::read(&scales));
    second.metadata.clear();
    second.write(&scales);
    load(&model, None).unwrap();
    // A scale in the shard but not in the index; and in the index but in no shard.
    let fails = |code: &str, words: &[&str]| {
        let error = load(&model, None).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        words.iter().for_each(|word| assert!(error.to_string().contains(word), "no {word:?} in {error}"));
    };
    let lost = second.tensors.remove(SCALES).unwrap();
    second.write(&scales);
    fails("tensor", &["model-00001.safetensors", SCALES, "found no such tensor"]);
    // It is in both shards: the index says one.
    first.tensors.insert(SCALES.into(), lost.clone());
    second.tensors.insert(SCALES.into(), lost);
    first.write(&blocks);
    second.write(&scales);
    fails("tensor", &["index.json", SCALES, "expected the shard that holds it, model-00000.safetensors, found model-00001.safetensors"]);
    first.tensors.remove(SCALES);
    first.metadata.clear();
    first.write(&blocks);
    fails("tensor", &["model-00000.safetensors", "embed.weight", "refrain.format: 1"]);
    fs::remove_file(&scales).unwrap();
    fails("file", &["model-00001.safetensors", "no such file, though"]);
}

#[test]
fn a_file_that_shrinks_while_it_is_read() {
    for precision in Precision::ALL {
        let temp = TempDir::new().unwrap();
        let out = temp.path().join("m");
        quantize(&golden(MODEL), &out, precision).unwrap();
        let source = Source::folder(&out).unwrap();
        let weights = Weights::open(&source).unwrap();
        let length = fs::metadata(file(&out)).unwrap().len();
        fs::OpenOptions::new().write(true).open(file(&out)).unwrap().set_len(length - 1).unwrap();
        let shape = config(&out).tensors().into_iter().find(|spec| spec.name == "norm.weight").unwrap().shape;
        let error = weights.read("norm.weight", &shape).unwrap_err();
        assert_eq!(error.code(), "file", "{error}");
        assert!(error.to_string().contains("the file became shorter while it was read"), "{error}");
        let text = fs::read(golden(MODEL).join("config.json")).unwrap();
        let again = temp.path().join("again");
        let written = refrain::model::files::export(&weights, ("c", &text), Some(precision), &again, &mut |_| Ok(()), &mut |_, _| Ok(()));
        assert_eq!(written.unwrap_err().code(), "file");
        assert_eq!(names(temp.path()), ["m"]);
    }
}

/// gqa_bare with so large a vocabulary, all zeros, most of it not on the disk.
fn zeros(folder: &Path, vocabulary: usize) {
    fs::create_dir(folder).unwrap();
    let mut fields: Value = serde_json::from_slice(&fs::read(golden("gqa_bare").join("config.json")).unwrap()).unwrap();
    fields["vocab_size"] = vocabulary.into();
    fs::write(folder.join("config.json"), fields.to_string()).unwrap();
    let specs: Vec<_> = config(folder).tensors().into_iter().filter(|spec| !spec.optional).collect();
    let entries: Vec<Entry> = specs.iter().map(|spec| Entry { name: &spec.name, dtype: "F32", shape: &spec.shape }).collect();
    let (header, bytes) = safetensors_header("m", &[], &entries).unwrap();
    fs::write(file(folder), &header).unwrap();
    let sparse = fs::OpenOptions::new().write(true).open(file(folder)).unwrap();
    sparse.set_len(header.len() as u64 + bytes).unwrap();
}

#[test]
fn an_error_or_a_full_disk_part_way_leaves_nothing() {
    let temp = TempDir::new().unwrap();
    let [model, out] = ["model", "out"].map(|name| temp.path().join(name));
    zeros(&model, 300_000);
    let source = Source::folder(&model).unwrap();
    let (weights, text) = (Weights::open(&source).unwrap(), fs::read(model.join("config.json")).unwrap());
    let mut told = Vec::new();
    let stopped = refrain::model::files::export(&weights, ("c", &text), Some(Q4), &out, &mut |_| Ok(()), &mut |done, total| {
        told.push((done, total));
        assert_eq!(names(temp.path()).len(), 2);
        if done > 3 << 20 { Err(Error::Cancelled) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let steps: Vec<u64> = told.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(told[0].0 == 0 && steps.len() == 4 && steps.iter().all(|step| (1 << 19..=1 << 20).contains(step)), "{told:?}");
    assert_eq!(names(temp.path()), ["model"]);
    #[cfg(unix)]
    {
        // A file that may not grow so large stands for a full disk.
        let script = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" quantize \"$1\" \"$2\" --dtype q4";
        let mut command = std::process::Command::new("sh");
        let output = command.args(["-c", script, env!("CARGO_BIN_EXE_refrain")]).args([&model, &out]).output().unwrap();
        check_error(&output, "file", &["cannot write", out.join("model.safetensors").to_str().unwrap()]);
        assert_eq!(names(temp.path()), ["model"]);
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let temp = TempDir::new().unwrap();
    let [model, out] = ["model", "out"].map(|name| temp.path().join(name));
    zeros(&model, 4_000_000);
    let mut command = Command::new(env!("CARGO_BIN_EXE_refrain"));
    let args = command.arg("quantize").args([&model, &out]).args(["--dtype", "q4"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = args.spawn().unwrap();
    let started = Instant::now();
    let written = || {
        let part = names(temp.path()).into_iter().find(|name| name.ends_with(".part"))?;
        Some(fs::metadata(temp.path().join(part).join("model.safetensors")).ok()?.len())
    };
    while written().is_none_or(|bytes| bytes < 1 << 20) {
        assert!(started.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "no file grows");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(temp.path()), ["model"]);
}
