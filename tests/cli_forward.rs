//! `refrain forward`, `inspect`, `devices` and `doctor` as processes: the golden cases through the binary, and bad input of every
//! kind, which must end in one clear error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::devices;
use crate::goldens::{CASES, Case};

/// Runs the binary, which writes nothing but what it is told to.
pub fn refrain(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_refrain")).args(args).env("REFRAIN_PIPELINE_CACHE", "off").output().unwrap()
}

/// Runs it and expects success; what it printed.
pub fn succeeds(args: &[&str]) -> String {
    let output = refrain(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it and expects exit status 1, nothing on stdout, and exactly one error, of this code and with these words.
pub fn fails(args: &[&str], code: &str, words: &[&str]) {
    let output = refrain(args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{args:?}: {err}");
    assert_eq!(out, "", "{args:?}");
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error[")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {err}");
    assert!(errors[0].starts_with(&format!("error[{code}]: ")), "{args:?}: {err}");
    for word in words {
        assert!(errors[0].contains(word), "{args:?}: no {word:?} in {err}");
    }
    assert!(!err.contains("panicked"), "{args:?}: {err}");
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The numbers of a tensor, wide enough for both dtypes that golden files have.
fn numbers(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    let words = bytes.chunks_exact(4).map(|b| <[u8; 4]>::try_from(b).unwrap());
    match dtype {
        Dtype::F32 => words.map(|b| f32::from_le_bytes(b).into()).collect(),
        Dtype::I32 => words.map(|b| i32::from_le_bytes(b).into()).collect(),
        other => panic!("{other:?}"),
    }
}

/// `forward` gives every tensor of the golden file, of the same dtype and shape, within the bounds.
fn check_case(name: &'static str, device: &str, extra: &[&str]) {
    let case = Case::open(name);
    let folder = tempfile::tempdir().unwrap();
    let (out, golden) = (folder.path().join("out.safetensors"), case.folder.join("golden.safetensors"));
    let (loops, prompt, decode) = (case.loops.to_string(), case.prompt.to_string(), case.decode.to_string());
    let model = text(&case.folder);
    let mut args = vec!["forward", model, "--inputs", text(&golden), "--out", text(&out), "--device", device, "--trace"];
    args.extend(["--loops", &loops, "--prompt-len", &prompt, "--decode", &decode]);
    args.extend(extra);
    assert_eq!(succeeds(&args), "");
    let (found, expected) = (std::fs::read(&out).unwrap(), std::fs::read(&golden).unwrap());
    let (found, expected) = (SafeTensors::deserialize(&found).unwrap(), SafeTensors::deserialize(&expected).unwrap());
    // All but the inputs, and nothing else.
    assert_eq!(found.len() + 1, expected.len(), "{name}: {:?}", found.names());
    for (tensor, expected) in expected.tensors().into_iter().filter(|(tensor, _)| tensor != "input_ids") {
        let found = found.tensor(&tensor).unwrap_or_else(|error| panic!("{name} on {device}: {tensor}: {error}"));
        assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()), "{name}: {tensor}");
        let (e, f) = (numbers(expected.dtype(), expected.data()), numbers(found.dtype(), found.data()));
        let scale = e.iter().fold(0f64, |max, x| max.max(x.abs()));
        let tolerance = match expected.dtype() {
            Dtype::I32 => 0.0,
            _ if tensor.starts_with("logits") => 5e-4 * scale,
            _ => 1e-3 * scale,
        };
        for (i, (e, f)) in e.iter().zip(&f).enumerate() {
            assert!((e - f).abs() <= tolerance, "{name} on {device}: {tensor}[{i}]: expected {e}, found {f}, largest {scale}");
        }
    }
}

#[test]
fn forward_gives_the_goldens_on_the_cpu() {
    CASES.into_iter().for_each(|name| check_case(name, "cpu", &[]));
    check_case("mla_bias", "cpu", &["--chunk", "5", "-c", "40", "--schedule", "full"]);
}

#[test]
fn forward_gives_the_goldens_on_software_gpus() {
    for (device, _) in devices::gpus() {
        check_case("gqa_odd", device, &[]);
        check_case("mla_bias", device, &[]);
    }
}

#[test]
fn forward_writes_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (out, counters) = (folder.path().join("out"), folder.path().join("counters.json"));
    let case = golden("mla_bias");
    let inputs = case.join("golden.safetensors");
    let common = ["forward", text(&case), "--inputs", text(&inputs), "--device", "cpu", "--out", text(&out)];
    let run = |extra: &[&str]| {
        assert_eq!(succeeds(&[&common[..], extra].concat()), "");
        let bytes = std::fs::read(&out).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut list: Vec<(String, Vec<usize>)> = tensors.iter().map(|(name, view)| (name.into(), view.shape().to_vec())).collect();
        list.sort();
        list
    };
    let whole = [("logits".to_string(), vec![2, 24, 97]), ("loops_used_full".to_string(), vec![2, 24])];
    // Nothing said of the depth: the config's 6 loops. 48 tokens in two chunks.
    assert_eq!(run(&["--counters", text(&counters), "--chunk", "40"]), whole);
    let counted: Value = serde_json::from_slice(&std::fs::read(&counters).unwrap()).unwrap();
    let dispatches = counted["dispatches"].as_u64().unwrap();
    assert!(dispatches > 100, "{counted}");
    let bytes = &counted["weight_bytes"];
    // Two chunks of six loops.
    let expected = json!({"passes": 12, "rows": 48 * 6, "rows_catching_up": 0, "dispatches": dispatches, "empty_dispatches": 0,
        "submits": 0, "read_backs": 2, "polls": 0, "weight_bytes": bytes});
    assert!(bytes.as_u64().unwrap() > 0);
    assert_eq!(counted, expected);
    let decode = ("logits_decode".to_string(), vec![2, 1, 97]);
    assert_eq!(run(&["--prompt-len", "24"]), [whole[0].clone(), decode, whole[1].clone()]);
    // Every token loops as often as it is told to.
    run(&["--exit", "fixed", "--loops", "3"]);
    let bytes = std::fs::read(&out).unwrap();
    let used = SafeTensors::deserialize(&bytes).unwrap();
    let used = used.tensor("loops_used_full").unwrap();
    assert!(numbers(used.dtype(), used.data()).iter().all(|loops| *loops == 3.0));
    run(&["--min-loops", "4"]);
    let bytes = std::fs::read(&out).unwrap();
    let used = SafeTensors::deserialize(&bytes).unwrap();
    let used = used.tensor("loops_used_full").unwrap();
    assert!(numbers(used.dtype(), used.data()).iter().all(|loops| *loops >= 4.0));
    // A device takes the bytes, and stays a device.
    #[cfg(unix)]
    {
        let args = ["forward", text(&case), "--inputs", text(&inputs), "--device", "cpu", "--out", "/dev/null"];
        succeeds(&args);
        use std::os::unix::fs::FileTypeExt;
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}

/// A safetensors file from (name, dtype, shape, data).
fn pack(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend(bytes);
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

fn i64s(ids: &[i64]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

#[test]
fn forward_takes_ids_of_every_width() {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, out) = (folder.path().join("in"), folder.path().join("out"));
    let case = golden("gqa_tiny");
    let ids: [u8; 4] = [1, 5, 2, 7];
    let wide = |bytes: usize| ids.iter().flat_map(|id| [vec![*id], vec![0; bytes - 1]].concat()).collect::<Vec<u8>>();
    let mut first = None;
    for (dtype, bytes) in [("I64", 8), ("I32", 4), ("U32", 4), ("U16", 2), ("U8", 1)] {
        std::fs::write(&inputs, pack(&[("input_ids", dtype, &[2, 2], wide(bytes))])).unwrap();
        succeeds(&["forward", text(&case), "--inputs", text(&inputs), "--out", text(&out), "--device", "cpu"]);
        let written = std::fs::read(&out).unwrap();
        assert_eq!(first.get_or_insert_with(|| written.clone()), &written, "{dtype}");
    }
}

#[test]
fn forward_refuses_bad_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let (case, inputs, out) = (golden("gqa_tiny"), folder.path().join("bad.safetensors"), folder.path().join("out"));
    let golden_inputs = case.join("golden.safetensors");
    let with = |inputs: &Path, extra: &[&str], code: &str, words: &[&str]| {
        let common = ["forward", text(&case), "--inputs", text(inputs), "--out", text(&out), "--device", "cpu"];
        fails(&[&common[..], extra].concat(), code, words);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "bad.safetensors"), "left behind: {left:?}");
    };
    with(Path::new("/no/such/file"), &[], "file", &["/no/such/file"]);
    let config: Value = serde_json::from_slice(&std::fs::read(case.join("config.json")).unwrap()).unwrap();
    let (v, most) = (config["vocab_size"].as_i64().unwrap(), config["max_seq_len"].as_u64().unwrap() as usize);
    let past = format!("{v} at [1, 1]");
    let files: [(Vec<u8>, &str, &[&str]); 11] = [
        (Vec::new(), "format", &["an empty file"]),
        (b"<!DOCTYPE html><html>".to_vec(), "format", &["an HTML page"]),
        (b"just some text, no header".to_vec(), "format", &["bad.safetensors"]),
        (pack(&[("ids", "I64", &[1, 1], i64s(&[1]))]), "tensor", &["input_ids", "no such tensor"]),
        (pack(&[("input_ids", "F32", &[1, 1], vec![0; 4])]), "tensor", &["input_ids", "expected integers", "F32"]),
        (pack(&[("input_ids", "I64", &[2], i64s(&[1, 2]))]), "tensor", &["input_ids", "(sequences, tokens)", "[2]"]),
        (pack(&[("input_ids", "I64", &[1, 1, 1], i64s(&[1]))]), "tensor", &["input_ids", "[1, 1, 1]"]),
        (pack(&[("input_ids", "I64", &[3, 0], Vec::new())]), "tensor", &["input_ids", "(3, 0)"]),
        (pack(&[("input_ids", "I64", &[2, 2], i64s(&[0, 1, 2, v]))]), "tensor", &["input_ids", &past]),
        (pack(&[("input_ids", "I64", &[2, 2], i64s(&[0, 1, -1, 2]))]), "tensor", &["input_ids", "-1 at [1, 0]"]),
        (pack(&[("input_ids", "I64", &[1, most + 1], i64s(&vec![0; most + 1]))]), "context", &["max_seq_len"]),
    ];
    for (bytes, code, words) in files {
        std::fs::write(&inputs, bytes).unwrap();
        with(&inputs, &[], code, words);
    }
    std::fs::remove_file(&inputs).unwrap();
    let good = |extra: &[&str], code: &str, words: &[&str]| with(&golden_inputs, extra, code, words);
    good(&["--prompt-len", "9999"], "argument", &["--prompt-len", "9999"]);
    good(&["--prompt-len", "0"], "argument", &["--prompt-len"]);
    good(&["--prompt-len", "5", "--decode", "9999"], "argument", &["--decode", "9999"]);
    good(&["--loops", "0"], "loops", &["0 loops"]);
    good(&["--loops", "100000000"], "loops", &["100000000 loops"]);
    good(&["--loops", "2", "--min-loops", "3"], "argument", &["min-loops"]);
    good(&["--chunk", "0"], "argument", &["chunk"]);
    good(&["-c", "3"], "context", &["--ctx-size"]);
    good(&["-c", "1000000"], "context", &["max_seq_len"]);
    good(&["--counters", text(&out)], "argument", &["--counters"]);
    good(&["--counters", "/no/such/folder/counters.json"], "file", &["/no/such/folder"]);
    for (device, words) in [("99", "index 99"), ("nosuchname", "\"nosuchname\"")] {
        let common = ["forward", text(&case), "--inputs", text(&golden_inputs), "--out", text(&out)];
        fails(&[&common[..], &["--device", device]].concat(), "no_adapter", &[words]);
    }
    // Arguments that cannot be read are clap's to refuse, with its own status.
    for extra in [&["--schedule", "soon"][..], &["--decode", "1"], &["--loops", "-1"]] {
        let common = ["forward", text(&case), "--inputs", text(&golden_inputs), "--out", text(&out)];
        assert_eq!(refrain(&[&common[..], extra].concat()).status.code(), Some(2), "{extra:?}");
    }
}

#[test]
fn forward_refuses_outputs_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let case = golden("gqa_tiny");
    let inputs = case.join("golden.safetensors");
    let (missing, below) = (folder.path().join("no/out"), folder.path().join("file/out"));
    let locked = folder.path().join("locked");
    std::fs::write(folder.path().join("file"), "a file").unwrap();
    std::fs::write(&locked, "kept").unwrap();
    let mut permissions = std::fs::metadata(&locked).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&locked, permissions).unwrap();
    for out in [missing.as_path(), &below, folder.path(), &locked] {
        fails(&["forward", text(&case), "--inputs", text(&inputs), "--out", text(out)], "file", &["cannot write", text(out)]);
    }
    assert_eq!(std::fs::read(&locked).unwrap(), b"kept");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a temporary file was left");
}

/// A copy of a golden model, to be damaged.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// Rewrites the model's tensors: `change` gets and gives (name, dtype, shape, data).
fn rewrite(folder: &TempDir, change: impl Fn(&mut Vec<(String, String, Vec<usize>, Vec<u8>)>)) {
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut list: Vec<_> =
        tensors.iter().map(|(name, view)| (name.to_string(), "F32".to_string(), view.shape().to_vec(), view.data().to_vec())).collect();
    change(&mut list);
    let borrowed: Vec<_> = list.iter().map(|(n, d, s, b)| (n.as_str(), d.as_str(), s.as_slice(), b.clone())).collect();
    std::fs::write(path, pack(&borrowed)).unwrap();
}

/// Sets a field of the config; `null` removes it.
fn set(folder: &TempDir, field: &str, value: Value) {
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[field] = value;
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn damaged_models_are_refused() {
    let folder_of_inputs = tempfile::tempdir().unwrap();
    let inputs = folder_of_inputs.path().join("in");
    std::fs::write(&inputs, pack(&[("input_ids", "I64", &[1, 2], i64s(&[0, 1]))])).unwrap();
    let out = folder_of_inputs.path().join("out");
    let refused = |folder: &Path, code: &str, words: &[&str]| {
        fails(&["forward", text(folder), "--inputs", text(&inputs), "--out", text(&out), "--device", "cpu"], code, words);
        fails(&["inspect", text(folder), "--check", "--device", "cpu"], code, words);
        assert!(!out.exists());
    };
    refused(Path::new("/no/such/model"), "argument", &["/no/such/model"]);
    type Damage = fn(&TempDir);
    let files: [(Damage, &str, &[&str]); 12] = [
        (|f| std::fs::remove_file(f.path().join("config.json")).unwrap(), "file", &["config.json"]),
        (|f| std::fs::write(f.path().join("config.json"), "{\"dim\": ").unwrap(), "format", &["config.json"]),
        (|f| std::fs::remove_file(f.path().join("model.safetensors")).unwrap(), "file", &["model.safetensors"]),
        (|f| std::fs::write(f.path().join("model.safetensors"), "<!DOCTYPE html>").unwrap(), "format", &["an HTML page"]),
        (
            |f| {
                let path = f.path().join("model.safetensors");
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            },
            "format",
            &["model.safetensors"],
        ),
        (
            |f| {
                rewrite(f, |list| {
                    let norm = list.iter_mut().find(|tensor| tensor.0 == "norm.weight").unwrap();
                    norm.3[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
                });
            },
            "tensor",
            &["norm.weight", "NaN at index 1"],
        ),
        (
            |f| {
                rewrite(f, |list| {
                    let norm = list.iter_mut().find(|tensor| tensor.0 == "norm.weight").unwrap();
                    norm.2.push(1);
                });
            },
            "tensor",
            &["norm.weight", "found (64, 1)"],
        ),
        (|f| rewrite(f, |list| list.push(("extra.weight".into(), "F32".into(), vec![1], vec![0; 4]))), "tensor", &["extra.weight"]),
        (|f| rewrite(f, |list| list.retain(|tensor| tensor.0 != "norm.weight")), "tensor", &["norm.weight", "no such tensor"]),
        (
            |f| {
                rewrite(f, |list| {
                    let mut head = list.iter().find(|tensor| tensor.0 == "embed.weight").unwrap().clone();
                    head.0 = "head.weight".into();
                    head.3[0] ^= 1;
                    list.push(head);
                });
            },
            "tensor",
            &["head.weight", "embed.weight"],
        ),
        (|f| rewrite(f, |list| list[0].1 = "I32".into()), "tensor", &["I32"]),
        (|f| std::fs::write(f.path().join("tokenizer.json"), "{}").unwrap(), "tokenizer", &["tokenizer.json"]),
    ];
    for (damage, code, words) in files {
        let folder = copy("gqa_tiny");
        damage(&folder);
        refused(folder.path(), code, words);
    }
    let fields = [
        ("n_heads", json!(7)),
        ("n_kv_heads", json!(3)),
        ("n_experts_per_tok", json!(99)),
        ("dim", json!(0)),
        ("dim", json!(1e30)),
        ("vocab_size", json!(-5)),
        ("max_seq_len", json!("many")),
        ("attn_type", json!("flash")),
        ("act_threshold", json!(1.5)),
        ("lora_rank", Value::Null),
    ];
    for (field, value) in fields {
        let folder = copy("gqa_tiny");
        set(&folder, field, value);
        refused(folder.path(), "config", &["config.json", field]);
    }
}

#[test]
fn rope_tables_in_a_checkpoint_are_skipped_with_a_note() {
    let folder = copy("gqa_tiny");
    rewrite(&folder, |list| list.push(("freqs_cis".into(), "C64".into(), vec![2, 3], vec![0; 48])));
    let (inputs, out) = (golden("gqa_tiny").join("golden.safetensors"), folder.path().join("out"));
    let args = ["forward", text(folder.path()), "--inputs", text(&inputs), "--out", text(&out), "--device", "cpu"];
    let output = refrain(&args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && err.contains("note: skipped freqs_cis (C64)"), "{err}");
    assert!(succeeds(&["inspect", text(folder.path()), "--device", "cpu"]).contains("skipped freqs_cis (C64)"));
}

#[test]
fn a_gpu_that_is_asked_for_and_missing_is_an_error() {
    let hardware = pollster::block_on(refrain::backend::adapters()).iter().any(|a| a.kind != refrain::backend::AdapterKind::Software);
    if !hardware && std::env::var("WGPU_ADAPTER_NAME").is_err() {
        let (folder, case) = (tempfile::tempdir().unwrap(), golden("gqa_tiny"));
        let (inputs, out) = (case.join("golden.safetensors"), folder.path().join("out"));
        let args = ["forward", text(&case), "--inputs", text(&inputs), "--out", text(&out), "--device", "gpu"];
        fails(&args, "no_adapter", &["no hardware GPU"]);
        fails(&["inspect", "follow", "--device", "gpu"], "no_adapter", &["no hardware GPU"]);
    }
}

/// What `inspect` should say, from the files alone: tensors counted, and the formulas of the documentation.
#[test]
fn inspect_counts_right() {
    for name in CASES {
        let folder = golden(name);
        let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let size = |field: &str| config[field].as_u64().unwrap();
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let elements = |wanted: &dyn Fn(&str) -> bool| -> u64 {
            tensors.iter().filter(|(name, _)| wanted(name)).map(|(_, view)| view.shape().iter().product::<usize>() as u64).sum()
        };
        let total = elements(&|name| name != "head.weight");
        let bias = elements(&|name| name.ends_with("router_bias"));
        // Of E experts a token meets K.
        let experts = elements(&|name| name.contains("routed_experts"));
        let active = total - bias - experts / size("n_experts") * (size("n_experts") - size("n_experts_per_tok"));
        let loops = 11;
        let width = match config["attn_type"].as_str().unwrap() {
            "gqa" => 2 * size("n_kv_heads") * (size("dim") / size("n_heads")),
            _ => size("kv_lora_rank") + size("qk_rope_head_dim"),
        };
        let slots = size("prelude_layers") + size("coda_layers") + loops;
        let a = |tensor: &str| numbers(Dtype::F32, tensors.tensor(tensor).unwrap().data());
        let dt = a("recurrent.injection.log_dt")[0];
        let radius = a("recurrent.injection.log_A").iter().map(|log_a| (-(log_a + dt).clamp(-20.0, 20.0).exp()).exp()).fold(0.0, f64::max);

        let args = ["inspect", text(&folder), "--loops", "11", "--device", "cpu", "--check"];
        let found: Value = serde_json::from_str(&succeeds(&[&args[..], &["--format", "json", "--tensors"]].concat())).unwrap();
        assert_eq!(found["parameters"], json!({"total": total, "trained": total - bias, "active": active}), "{name}");
        let context = size("max_seq_len").min(4096);
        let bytes_per_token = slots * width * 4;
        let cache = json!({"slots": slots, "numbers": width, "bytes_per_token": bytes_per_token, "loops": loops, "context": context,
            "sequences": 1, "bytes": slots * width.next_multiple_of(4) * 4 * context});
        assert_eq!(found["cache"], cache, "{name}");
        assert!((found["spectral_radius"].as_f64().unwrap() - radius).abs() < 1e-6, "{name}: {radius} {}", found["spectral_radius"]);
        assert_eq!(found["tensors"]["count"], tensors.len());
        assert_eq!(found["tensors"]["list"].as_array().unwrap().len(), tensors.len());
        let stored: usize = tensors.iter().map(|(_, view)| view.data().len()).sum();
        assert_eq!(found["tensors"]["dtypes"], json!({"F32": {"tensors": tensors.len(), "bytes": stored}}));
        for (field, value) in found["config"].as_object().unwrap() {
            assert_eq!(value, &config[field], "{name}: {field}");
        }
        assert_eq!((&found["tokenizer"], &found["device"]["fits"]), (&Value::Null, &json!(true)));
        let page = succeeds(&args);
        assert!(page.contains(&format!("slots {slots} = {} + {} + 11 loops", size("prelude_layers"), size("coda_layers"))), "{page}");
        check_plan(name, &found["device"]);
    }
    let page = succeeds(&["inspect", "follow", "--device", "cpu"]);
    for words in ["277,798 (277,794 trained + 4 router biases)", "13,056 bytes", "78 tokens", "n_loops           32"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    fails(&["inspect", "follow", "--loops", "0"], "loops", &["0 loops"]);
    fails(&["inspect", "follow", "-c", "129"], "context", &["max_seq_len"]);
}

/// A model takes just what was said, and loads into just that much memory.
fn check_plan(name: &str, device: &Value) {
    let bytes = |part: &str| device[format!("{part}_bytes")].as_u64().unwrap();
    let total = bytes("total");
    assert_eq!(bytes("weights") + bytes("cache") + bytes("state") + bytes("work"), total, "{name}");
    assert_eq!(bytes("weights") - bytes("tables"), device["matrices_bytes"]["f32"].as_u64().unwrap(), "{name}");
    for (memory, fits) in [(total, true), (total - 1, false)] {
        let device = refrain::backend::DeviceOptions { memory: Some(memory), ..devices::all().swap_remove(0).1 };
        let options = refrain::model::Options { device, loops: Some(11), ..Default::default() };
        let source = refrain::model::files::Source::folder(golden(name)).unwrap();
        match pollster::block_on(refrain::model::Engine::load(&source, &options, &mut |_| {})) {
            Ok(engine) => assert!(fits && engine.allocated_bytes() == total, "{name}: loads with less than {total}"),
            Err(error) => assert!(!fits && error.code() == "memory", "{name}: {error}"),
        }
    }
}

#[test]
fn devices_and_doctor_name_the_devices() {
    let page = succeeds(&["devices"]);
    assert!(page.contains("cpu  CPU ("), "{page}");
    let list: Value = serde_json::from_str(&succeeds(&["devices", "--format", "json"])).unwrap();
    assert!(list["cpu"]["name"].as_str().unwrap().starts_with("CPU ("));
    for (name, _) in devices::gpus() {
        assert!(page.contains(name), "{page}");
        let adapters = list["adapters"].as_array().unwrap();
        assert!(adapters.iter().any(|adapter| adapter["name"].as_str().unwrap().contains(name) && adapter["kind"] == "software"));
        let chosen = serde_json::from_str::<Value>(&succeeds(&["devices", "--format", "json", "--device", name])).unwrap();
        let index = chosen["chosen"].as_u64().unwrap() as usize;
        assert!(chosen["adapters"][index]["name"].as_str().unwrap().contains(name));
    }
    // The list is of use just where the device that is asked for is not there.
    let output = refrain(&["devices", "--device", "nosuchname"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("cpu  CPU ("));

    let device = if devices::gpu("llvmpipe").is_some() { "llvmpipe" } else { "cpu" };
    let page = succeeds(&["doctor", "cups", "--device", device]);
    let lines = ["✓ device", "✓ CPU", "✓ config", "✓ weights", "✓ numbers", "✓ stability", "✓ tokenizer", "✓ pass"];
    for line in lines.into_iter().chain((device != "cpu").then_some("ran on llvmpipe")) {
        assert!(page.contains(line), "{line}: {page}");
    }
    assert!(devices::gpus().iter().all(|(name, _)| page.contains(name)) && !page.contains('✗'), "{page}");
    let folder = copy("gqa_tiny");
    rewrite(&folder, |list| list[0].3[..4].copy_from_slice(&f32::INFINITY.to_le_bytes()));
    let output = refrain(&["doctor", text(folder.path()), "--device", "cpu"]);
    // Lines are broken between words.
    let page = String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(output.status.code() == Some(1) && page.contains("✗ numbers") && page.contains("inf at index 0"), "{page}");
}
