//! `refrain quantize` as a process, and the other commands on what it wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::{Parts, file, folder_of, golden};
use crate::convert::{check_error, names};

fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/models").join(name)
}

fn refrain(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_refrain")).args(args).output().unwrap()
}

/// Runs it and expects success; what it printed, and said.
fn succeeds(args: &[&str]) -> (String, String) {
    let output = refrain(args);
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{args:?}: {err}");
    (out, err)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_quantised_folder_does_what_the_original_does() {
    let temp = TempDir::new().unwrap();
    let (model, out) = (shipped("follow"), temp.path().join("m"));
    let (printed, said) = succeeds(&["quantize", text(&model), text(&out), "--dtype", "q4"]);
    let parts = Parts::read(&file(&out));
    let bytes: usize = parts.tensors.values().map(|raw| raw.data.len()).sum();
    assert!(printed.starts_with(&format!("wrote {}: ", out.display())) && printed.contains(" tensors, F32 and Q4, "), "{printed}");
    assert!(printed.replace(',', "").ends_with(&format!(" {bytes} bytes\n")), "{printed}");
    assert_eq!(said, format!("next: refrain inspect {}\n", out.display()));
    assert_eq!(names(temp.path()), ["m"]);
    let companions = ["README.md", "generation_config.json", "loops.svg", "problems.jsonl", "tokenizer.json"];
    let mut all: Vec<&str> = companions.into_iter().chain(["config.json", "model.safetensors"]).collect();
    all.sort_unstable();
    assert_eq!(names(&out), all);
    for name in companions {
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(model.join(name)).unwrap(), "{name}");
    }
    // The same answers.
    for prompt in ["a >b b >c c >d d >d ?a ?b", "c >d a >b d >e b >c e >e ?a"] {
        let ask = |model: &Path| succeeds(&["run", "-m", text(model), "-p", prompt, "--device", "cpu", "-q"]).0;
        // Only what is said at the questions means anything.
        let answers = |text: String| {
            text.split_whitespace().map(str::to_string).skip(prompt.split(' ').count() - prompt.matches('?').count()).collect::<Vec<_>>()
        };
        let (expected, found) = (answers(ask(&model)), answers(ask(&out)));
        assert!(!expected.is_empty() && expected == found, "{expected:?} {found:?}");
    }
    let sweep =
        |model: &Path| succeeds(&["sweep", text(model), "--loops", "32", "--format", "jsonl", "--limit", "20", "--device", "cpu", "-q"]).0;
    let answers = |text: String| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["predicted"].clone()).collect()
    };
    let (expected, found) = (answers(sweep(&model)), answers(sweep(&out)));
    assert!(expected.len() >= 20 && expected.iter().all(|answer| !answer.is_null()), "{expected:?}");
    assert_eq!(expected, found);
    // What it is, and that all of it is right.
    let (page, _) = succeeds(&["inspect", text(&out), "--check", "--device", "cpu"]);
    for words in ["Q4: ", " of scales\n", "checked: every number is finite", "matrices in q4"] {
        assert!(page.contains(words), "no {words:?} in {page}");
    }
    let (page, _) = succeeds(&["doctor", text(&out), "--device", "cpu"]);
    assert!(page.contains("are finite") && page.contains("one token on"), "{page}");
    let json: Value = serde_json::from_str(&succeeds(&["inspect", text(&out), "--format", "json", "--device", "cpu"]).0).unwrap();
    assert!(json["tensors"]["dtypes"]["Q4"]["bytes"].as_u64().is_some(), "{}", json["tensors"]["dtypes"]);
}

#[test]
fn forward_takes_blocks() {
    let temp = TempDir::new().unwrap();
    let model = golden("mla_tiny");
    for dtype in ["q4", "q8", "f16", "f32"] {
        let (out, plain) = (temp.path().join(dtype), temp.path().join(format!("{dtype}-f32")));
        let [given, made] = ["a", "b"].map(|name| temp.path().join(name));
        succeeds(&["quantize", text(&model), text(&out), "--dtype", dtype]);
        let inputs = model.join("golden.safetensors");
        succeeds(&["quantize", text(&out), text(&plain), "--dtype", "f32"]);
        let forward = |model: &Path, to: &Path, extra: &[&str]| {
            let args = ["forward", text(model), "--inputs", text(&inputs), "--out", text(to), "--device", "cpu"];
            succeeds(&[&args[..], extra].concat());
            Parts::read(to).tensors
        };
        let (expected, found) = (forward(&plain, &given, &[]), forward(&out, &made, &[]));
        assert!(found == forward(&model, &given, &["--dtype", dtype]), "{dtype}: as with the option");
        assert_eq!(expected["loops_used_full"], found["loops_used_full"], "{dtype}");
        let numbers = |tensors: &std::collections::BTreeMap<String, super::Raw>| -> Vec<f32> {
            tensors["logits"].data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let (expected, found) = (numbers(&expected), numbers(&found));
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        assert!(expected.iter().zip(&found).all(|(e, f)| (e - f).abs() <= 1e-5 * largest), "{dtype}");
    }
}

#[test]
fn companions_come_along_and_nothing_else() {
    let temp = TempDir::new().unwrap();
    let [model, out] = ["model", "out"].map(|name| temp.path().join(name));
    fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("gqa_bare").join(name), model.join(name)).unwrap();
    }
    let along = ["LICENSE", "LICENSE-MIT", "README.md", "notes.txt", "problems.jsonl", "run.sh", "special_tokens_map.json"];
    let not = [".hidden.json", ".gitattributes", "model.safetensors.index.json", "pytorch_model.bin", "other.safetensors", "x.pt"];
    for name in along.iter().chain(&not) {
        fs::write(model.join(name), format!("text of {name}")).unwrap();
    }
    fs::create_dir(model.join("folder.json")).unwrap();
    fs::File::create(model.join("train.jsonl")).unwrap().set_len((16 << 20) + 1).unwrap();
    let (_, said) = succeeds(&["quantize", text(&model), text(&out), "--dtype", "q8"]);
    assert!(said.contains("note: left out train.jsonl"), "{said}");
    let mut expected: Vec<&str> = along.into_iter().chain(["config.json", "model.safetensors"]).collect();
    expected.sort_unstable();
    assert_eq!(names(&out), expected);
    for name in along {
        assert_eq!(fs::read_to_string(out.join(name)).unwrap(), format!("text of {name}"));
    }
}

#[test]
#[cfg(unix)]
fn an_empty_folder_is_filled_and_stays_itself() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let temp = TempDir::new().unwrap();
    let out = temp.path().join("follow");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o700)).unwrap();
    let before = fs::metadata(&out).unwrap();
    // As the current folder, which must not be another one afterwards.
    let output = Command::new(env!("CARGO_BIN_EXE_refrain"))
        .args(["quantize", text(&golden("gqa_bare")), ".", "--dtype", "q4"])
        .current_dir(&out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let after = fs::metadata(&out).unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
    assert_eq!(names(&out), ["config.json", "model.safetensors", "run.json"]);
    // What is printed can be typed: a name of a shipped model would mean that one, a blank would part the path.
    for (name, shown) in [("cups", "./cups"), ("two words", "'two words'")] {
        let output = Command::new(env!("CARGO_BIN_EXE_refrain"))
            .args(["quantize", text(&golden("gqa_bare")), name, "--dtype", "q4"])
            .current_dir(temp.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(&format!("next: refrain inspect {shown}\n")), "{said}");
    }
}

#[test]
fn the_table_of_what_was_written() {
    let temp = TempDir::new().unwrap();
    let (model, out) = (golden("gqa_odd"), temp.path().join("m"));
    let prompts = model.join("golden.safetensors");
    let measure = ["--quality", "--prompts", text(&prompts), "--format", "jsonl", "--device", "cpu", "--quiet"];
    let (printed, _) = succeeds(&[&["quantize", text(&model), text(&out), "--dtype", "q4"][..], &measure].concat());
    let (first, rows) = printed.split_once('\n').unwrap();
    assert!(first.starts_with("wrote "), "{printed}");
    let rows = rows.to_string();
    // The same as without OUT, where the loader quantises.
    let (alone, said) = succeeds(&[&["quantize", text(&model), "--dtype", "q4"][..], &measure].concat());
    assert_eq!((rows.as_str(), said.as_str()), (alone.as_str(), ""));
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["dtype"], &rows[1]["dtype"]), (&"f32".into(), &"q4".into()));
    assert!(rows[1]["against_f32"]["kl_mean"].as_f64().unwrap() > 0.0 && rows[1]["against_f32"]["tokens"].as_u64().unwrap() > 20);
    // Several dtypes; in tables the f32 row first, f32 against itself without a difference.
    let table = [&["quantize", text(&model), "--dtype", "f32,q8,q4"][..], &measure[..3], &["--device", "cpu", "-q"]].concat();
    for (form, bar) in [("text", false), ("md", true)] {
        let (page, _) = succeeds(&[&table[..], &["--format", form]].concat());
        assert_eq!(page.starts_with('|'), bar, "{page}");
        assert_eq!(page.lines().filter(|line| line.contains("100.00%") && line.contains("0.00e0")).count(), 1, "{page}");
    }
    // No prompts: random ones, the same each time.
    let random = ["quantize", text(&model), "--dtype", "q8", "--quality", "--limit", "2", "--device", "cpu", "-q"];
    assert_eq!(succeeds(&random), succeeds(&random));
}

#[test]
fn names_from_files_cannot_command_the_terminal() {
    let temp = TempDir::new().unwrap();
    let mut parts = Parts::read(&file(&golden("gqa_bare")));
    let raw = parts.tensors.values().next().unwrap().clone();
    parts.tensors.insert("a\u{1b}[31m\nerror: evil".into(), raw);
    folder_of(&golden("gqa_bare"), &parts, &temp.path().join("m"));
    let output = refrain(&["inspect", text(&temp.path().join("m"))]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("a\\u{1b}[31m\\nerror: evil") && said.lines().count() == 2, "{said}");
}

#[test]
fn what_is_refused() {
    let temp = TempDir::new().unwrap();
    let (model, out) = (golden("gqa_bare"), temp.path().join("m"));
    let (model, to) = (text(&model), text(&out));
    let fails = |args: &[&str], code: &str, words: &[&str]| {
        check_error(&refrain(&[&["quantize"], args].concat()), code, words);
        assert!(names(temp.path()).iter().all(|name| name == "m"), "{:?}", names(temp.path()));
    };
    fails(&[model, to, "--dtype", "q8,q4"], "argument", &["--dtype", "one dtype for the one OUT", "found 2"]);
    fails(&[model, to, "--dtype", "q8,q4", "--quality"], "argument", &["--dtype", "one dtype for the one OUT"]);
    fails(&[text(temp.path()), to, "--dtype", "q8"], "file", &["config.json"]);
    let no = temp.path().join("no/m");
    fails(&[model, text(&no), "--dtype", "q8"], "file", &["cannot write", "no/m"]);
    // Prompts that cannot be read are refused before anything is written.
    fails(&[model, to, "--dtype", "q8", "--quality", "--prompts", "no.txt"], "file", &["no.txt"]);
    fails(&[model, to, "--dtype", "q8", "--quality", "--prompts", &format!("{model}/config.json")], "tokenizer", &["no such file"]);
    fails(&[model, to, "--dtype", "q8", "--quality", "--limit", "0"], "format", &["--prompts", "at least one prompt"]);
    assert!(!out.exists());
    succeeds(&["quantize", model, to, "--dtype", "q8"]);
    let before = fs::read(file(&out)).unwrap();
    fails(&[model, to, "--dtype", "q4"], "argument", &["OUT", "a folder with files in it"]);
    // Onto itself.
    fails(&[to, to, "--dtype", "q4"], "argument", &["OUT", "a folder with files in it"]);
    assert_eq!(before, fs::read(file(&out)).unwrap());
    // Those that the argument parser refuses.
    for (args, words) in [
        (&[model, to, "--dtype", "q5"][..], &["q5", "f32, f16, q8 or q4"][..]),
        (&[model, to], &["--dtype"]),
        (&[model, "--dtype", "q4"], &["OUT"]),
        (&[model, to, "--dtype", "q4", "--limit", "3"], &["--quality"]),
    ] {
        let output = refrain(&[&["quantize"], args].concat());
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        words.iter().for_each(|word| assert!(err.contains(word), "{args:?}: no {word:?} in {err}"));
    }
}
