//! `refrain convert`: checkpoints that real PyTorch saved, against the golden cases; and a folder that is there whole or not at all,
//! whatever ends the run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use refrain::Error;
use refrain::model::Logits;
use refrain::model::config::Config;
use refrain::model::files::{Checkpoint, Dtype, Entry, FolderWriter, Source, Weights, export};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::convert_by_hand::{dict, int, pack, pickle, storage, tensor_of, text};
use crate::devices;
use crate::goldens::{Case, feed, sequences};

pub const NONE: [&str; 0] = [];

pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn saved(name: &str) -> PathBuf {
    golden("checkpoints").join(name)
}

pub fn refrain(args: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_refrain")).arg("convert").args(args).output().unwrap()
}

/// Runs it and expects success; what it printed, and said.
fn succeeds(args: &[&Path]) -> (String, String) {
    let output = refrain(args);
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{args:?}: {err}");
    (out, err)
}

/// Runs it and expects one error of this code with these words.
pub fn fails(args: &[&Path], code: &str, words: &[&str]) {
    check_error(&refrain(args), code, words);
}

pub fn check_error(output: &Output, code: &str, words: &[&str]) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), out.as_ref()), (Some(1), ""), "{err}");
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error[")).collect();
    assert_eq!(errors.len(), 1, "{err}");
    assert!(errors[0].starts_with(&format!("error[{code}]: ")), "{err}");
    for word in words {
        assert!(errors[0].contains(word), "no {word:?} in {err}");
    }
}

/// The names in a folder, hidden ones too.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

// ---- what PyTorch saved ---------------------------------------------------------------------------------------------

#[test]
fn a_training_checkpoint_gives_the_golden_numbers() {
    for name in ["gqa_bare.pt", "gqa_bare_f64.pt"] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model");
        let (printed, said) = succeeds(&[&saved(name), &out]);
        assert_eq!(printed, format!("wrote {}: 10,034 parameters in 31 tensors, F32, 40,152 bytes\n", out.display()));
        assert!(said.contains("note: left out head.weight") && said.contains(&format!("refrain inspect {}", out.display())), "{said}");
        assert_eq!(names(folder.path()), ["model"]);
        assert_eq!(names(&out), ["config.json", "model.safetensors"]);
        let mut case = Case::open("gqa_bare");
        assert_eq!(json(&out.join("config.json")), json(&case.folder.join("config.json")));
        // Bit for bit, and in the model's order.
        let (found, expected) = [&out, &case.folder].map(|folder| fs::read(folder.join("model.safetensors")).unwrap()).into();
        let (found, expected) = (SafeTensors::deserialize(&found).unwrap(), SafeTensors::deserialize(&expected).unwrap());
        assert_eq!(found.len(), 31);
        for (name, expected) in expected.tensors() {
            assert_eq!(found.tensor(&name).unwrap(), expected, "{name}");
        }
        let config = Config::parse("c", &fs::read(out.join("config.json")).unwrap()).unwrap();
        let specs = config.tensors();
        let order: Vec<&str> = specs.iter().filter(|spec| !spec.optional).map(|spec| spec.name.as_str()).collect();
        let mut places: Vec<(usize, String)> = Vec::new();
        for (name, view) in found.tensors() {
            places.push((view.data().as_ptr() as usize, name));
        }
        places.sort();
        assert_eq!(places.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), order);

        case.folder = out;
        let (device, options) = devices::all().swap_remove(0);
        let mut engine = case.engine(options, None);
        let tokens = case.tokens();
        let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
        let mut all = sequences(&engine, case.batch);
        let (logits, _) = feed(&mut engine, &mut all, &tokens, case.depth(), Logits { every: true, best: 1, all: true });
        case.close(device, "logits", &logits, 5e-4);
    }
}

#[test]
fn a_bare_state_dict_needs_a_config_and_keeps_its_dtypes() {
    let folder = tempfile::tempdir().unwrap();
    let (pt, out, golden) = (saved("mla_bare.pt"), folder.path().join("m"), golden("mla_bare"));
    fails(&[&pt, &out], "checkpoint", &["mla_bare.pt", "config.json", "cfg"]);
    assert_eq!(names(folder.path()), NONE);
    let config = golden.join("config.json");
    let (printed, said) = succeeds(&[&pt, &out, Path::new("--config"), &config]);
    assert!(printed.contains("9,334 parameters in 35 tensors, BF16 and F16"), "{printed}");
    assert!(said.contains("skipped freqs_cis (C64)"), "{said}");
    assert_eq!(fs::read(&config).unwrap(), fs::read(out.join("config.json")).unwrap());
    let (found, expected) = (Source::folder(&out).unwrap(), Source::folder(&golden).unwrap());
    let (found, expected) = (Weights::open(&found).unwrap(), Weights::open(&expected).unwrap());
    let checkpoint = Checkpoint::open(&pt).unwrap();
    for info in expected.tensors() {
        let here = found.tensors().find(|tensor| tensor.name == info.name).unwrap();
        let round = |x: &f32| match here.dtype {
            Dtype::F16 => half::f16::from_f32(*x).to_f32(),
            Dtype::Bf16 => half::bf16::from_f32(*x).to_f32(),
            ref other => panic!("{other}"),
        };
        let rounded: Vec<f32> = expected.read(&info.name, &info.shape).unwrap().iter().map(round).collect();
        assert_eq!(found.read(&info.name, &info.shape).unwrap(), rounded, "{}", info.name);
        // A checkpoint is read as safetensors are.
        assert_eq!(checkpoint.weights().read(&info.name, &info.shape).unwrap(), rounded, "{}", info.name);
    }
    // A config that does not fit names the tensor.
    let other = self::golden("gqa_bare").join("config.json");
    fails(&[&pt, &folder.path().join("n"), Path::new("--config"), &other], "tensor", &["no such tensor"]);
    assert_eq!(names(folder.path()), ["m"]);
}

#[test]
fn tokenizer_and_defaults_come_along_if_they_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let [tokenizer, defaults, out] = ["t.json", "g.json", "m"].map(|name| folder.path().join(name));
    let model = serde_json::json!({"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"});
    fs::write(&tokenizer, serde_json::json!({"version": "1.0", "model": model}).to_string()).unwrap();
    fs::write(&defaults, r#"{"n_loops": 0}"#).unwrap();
    let (pt, option) = (saved("gqa_bare.pt"), Path::new("--generation-config"));
    let args: [&Path; 6] = [&pt, &out, Path::new("--tokenizer"), &tokenizer, option, &defaults];
    fails(&args, "config", &["g.json", "n_loops"]);
    fs::write(&defaults, r#"{"n_loops": 3}"#).unwrap();
    succeeds(&args);
    assert_eq!(names(&out), ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(&tokenizer).unwrap(), fs::read(out.join("tokenizer.json")).unwrap());
    fs::write(&tokenizer, "{}").unwrap();
    fails(&[&pt, &folder.path().join("n"), Path::new("--tokenizer"), &tokenizer], "tokenizer", &["t.json"]);
    fails(&[&pt, &folder.path().join("n"), Path::new("--tokenizer"), Path::new("no.json")], "file", &["no.json"]);
    assert_eq!(names(folder.path()), ["g.json", "m", "t.json"]);
}

// ---- the folder -----------------------------------------------------------------------------------------------------

/// A checkpoint of gqa_bare's sizes but for this vocabulary; every tensor is a view of one storage of zeros.
fn zeros(path: &Path, vocabulary: usize) -> Config {
    let mut fields = json(&golden("gqa_bare/config.json"));
    fields["vocab_size"] = vocabulary.into();
    let config = Config::parse("c", fields.to_string().as_bytes()).unwrap();
    let numbers = (vocabulary * config.dim) as i64;
    let entries: Vec<(String, Vec<u8>)> = config
        .tensors()
        .into_iter()
        .map(|spec| {
            let shape: Vec<i64> = spec.shape.iter().map(|size| *size as i64).collect();
            let strides: Vec<i64> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
            (spec.name, tensor_of(storage("FloatStorage", "0", numbers), 0, &shape, &strides))
        })
        .collect();
    let entries: Vec<(&str, Vec<u8>)> = entries.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let cfg: Vec<(&str, Vec<u8>)> = fields
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| {
            let value = match value {
                Value::String(word) => text(word),
                number => [b"G".as_slice(), &number.as_f64().unwrap().to_be_bytes()].concat(),
            };
            let whole = fields[name].as_i64().map(int);
            (name.as_str(), whole.unwrap_or(value))
        })
        .collect();
    let pickle = pickle(&dict(&[("model", dict(&entries)), ("cfg", dict(&cfg))]));
    fs::write(path, pack(&[("a/data.pkl", &pickle), ("a/data/0", &vec![0; 4 * numbers as usize])])).unwrap();
    config
}

#[test]
fn out_must_be_new_or_empty() {
    let folder = tempfile::tempdir().unwrap();
    let (pt, out) = (saved("gqa_bare.pt"), folder.path().join("m"));
    fs::write(&out, "mine").unwrap();
    fails(&[&pt, &out], "argument", &["OUT", "a file"]);
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    fs::remove_file(&out).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("notes"), "mine").unwrap();
    fails(&[&pt, &out], "argument", &["OUT", "a folder with files in it"]);
    assert_eq!((names(folder.path()), names(&out)), (vec!["m".to_string()], vec!["notes".to_string()]));
    fs::remove_file(out.join("notes")).unwrap();
    succeeds(&[&pt, &out]);
    assert_eq!((names(folder.path()), names(&out).len()), (vec!["m".to_string()], 2));
    fails(&[&pt, &folder.path().join("no/m")], "file", &["cannot write", "no/m"]);
    fails(&[&pt, Path::new("/")], "argument", &["OUT"]);
}

#[test]
fn numbers_that_are_not_finite_are_named_and_nothing_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (pt, out) = (folder.path().join("c.pt"), folder.path().join("m"));
    zeros(&pt, 40);
    let mut file = fs::read(&pt).unwrap();
    let at = (0..file.len()).find(|&at| file[at..].starts_with(b"a/data/0")).unwrap() + 8 + 4 * 7;
    file[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&pt, file).unwrap();
    fails(&[&pt, &out], "tensor", &["c.pt", "embed.weight", "finite numbers", "inf at index 7 of 1200"]);
    assert_eq!(names(folder.path()), ["c.pt"]);
}

#[test]
fn an_error_or_a_stop_part_way_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (pt, out) = (folder.path().join("c.pt"), folder.path().join("m"));
    zeros(&pt, 100_000);
    // The library: progress grows from 0 to the end, and its error ends all.
    let checkpoint = Checkpoint::open(&pt).unwrap();
    let (path, config) = checkpoint.config_json().unwrap();
    let run = |progress: &mut dyn FnMut(u64, u64) -> refrain::Result<()>| {
        export(checkpoint.weights(), (&path, &config), None, &out, &mut |_| Ok(()), progress)
    };
    let mut told = Vec::new();
    let stopped = run(&mut |done, total| {
        told.push((done, total));
        assert_eq!(names(folder.path()).len(), 2);
        if done > 3 << 20 { Err(Error::Cancelled) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let steps: Vec<u64> = told.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(told[0].0 == 0 && steps.len() == 4 && steps.iter().all(|step| (1 << 19..=1 << 20).contains(step)), "{told:?}");
    assert_eq!(names(folder.path()), ["c.pt"]);
    // A file that may not grow so large stands for a full disk.
    #[cfg(unix)]
    {
        let script = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" convert \"$1\" \"$2\"";
        let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_refrain")]).args([&pt, &out]).output().unwrap();
        check_error(&output, "file", &["cannot write", out.join("model.safetensors").to_str().unwrap()]);
        assert_eq!(names(folder.path()), ["c.pt"]);
    }
    let mut last = (0, 1);
    run(&mut |done, total| {
        assert!(done >= last.0);
        last = (done, total);
        Ok(())
    })
    .unwrap();
    assert_eq!(last.0, last.1);
    assert_eq!(names(folder.path()), ["c.pt", "m"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (pt, out) = (folder.path().join("c.pt"), folder.path().join("m"));
    zeros(&pt, 1_500_000);
    let mut child = Command::new(env!("CARGO_BIN_EXE_refrain")).arg("convert").args([&pt, &out]).stdout(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let written = || {
        let part = names(folder.path()).into_iter().find(|name| name.ends_with(".part"))?;
        Some(fs::metadata(folder.path().join(part).join("model.safetensors")).ok()?.len())
    };
    while written().is_none_or(|bytes| bytes < 1 << 20) {
        assert!(started.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "no file grows");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(folder.path()), ["c.pt"]);
}

#[test]
fn the_writer_holds_to_what_its_header_says() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m");
    let entries = [Entry { name: "b", dtype: "U8", shape: &[3] }, Entry { name: "a", dtype: "F32", shape: &[1, 2] }];
    let usage = |result: refrain::Result<()>, word: &str| match result {
        Err(Error::Usage { reason }) => assert!(reason.contains(word), "{reason}"),
        other => panic!("{other:?}"),
    };
    let mut writer = FolderWriter::create(&out).unwrap();
    writer.write_small("config.json", b"{}").unwrap();
    assert_eq!(writer.write_small("config.json", b"{}").unwrap_err().code(), "file");
    let mut file = writer.tensors("w.safetensors", &[("format", "pt".into())], &entries).unwrap();
    file.write(&[7, 8, 9]).unwrap();
    usage(file.write(&[0; 9]), "1 more were written");
    file.write(bytemuck::cast_slice(&[1.5f32, -2.0])).unwrap();
    file.finish().unwrap();
    assert!(!out.exists());
    writer.finish().unwrap();
    let bytes = fs::read(out.join("w.safetensors")).unwrap();
    assert_eq!((bytes.len() - 11) % 8, 0);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!((tensors.tensor("b").unwrap().data(), tensors.tensor("a").unwrap().shape()), (&[7u8, 8, 9][..], &[1, 2][..]));
    assert_eq!(SafeTensors::read_metadata(&bytes).unwrap().1.metadata().as_ref().unwrap()["format"], "pt");

    let mut writer = FolderWriter::create(&folder.path().join("n")).unwrap();
    usage(writer.tensors("x", &[], &entries).unwrap().finish(), "11 of them were not written");
    usage(writer.finish(), "not finished");
    let mut writer = FolderWriter::create(&folder.path().join("n")).unwrap();
    for (name, dtype, shape) in [("a", "F33", &[1][..]), ("a", "F32", &[usize::MAX, 2]), ("a", "F4", &[3]), ("__metadata__", "U8", &[1])] {
        assert_eq!(writer.tensors("y", &[], &[Entry { name, dtype, shape }]).unwrap_err().code(), "tensor");
    }
    assert_eq!(writer.tensors("y", &[], &[entries[0], entries[0]]).unwrap_err().code(), "tensor");
    drop(writer);
    assert_eq!(names(folder.path()), ["m"]);
}
