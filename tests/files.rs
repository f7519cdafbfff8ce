//! Sources and weights: files that are whole, cut short, damaged or lying, sharded or missing. Nothing here may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use refrain::model::config::{Config, TensorSpec};
use refrain::model::files::{Source, Weights};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden_bytes(name: &str) -> Vec<u8> {
    std::fs::read(golden(name).join("model.safetensors")).unwrap()
}

/// A model in memory with these files.
fn memory(files: &[(&str, Vec<u8>)]) -> Source {
    Source::Memory { name: "m".into(), files: files.iter().map(|(name, bytes)| ((*name).to_string(), Cow::Owned(bytes.clone()))).collect() }
}

fn one_file(bytes: Vec<u8>) -> Source {
    memory(&[("model.safetensors", bytes)])
}

/// A safetensors file from the text of its header and its data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A file from (name, dtype, shape, data).
fn pack(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend(bytes);
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    file(&Value::Object(header).to_string(), &data)
}

fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn spec(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), shape: shape.to_vec(), optional: name == "head.weight", matrix: false }
}

/// Opening fails with this code, a message that names the file, and `text` in it.
fn refused(bytes: Vec<u8>, code: &str, text: &str) {
    let source = one_file(bytes);
    let error = Weights::open(&source).expect_err(text);
    let message = error.to_string();
    assert_eq!(error.code(), code, "{message}");
    assert!(message.contains("m/model.safetensors") && message.contains(text), "expected {text:?} in {message}");
}

#[test]
fn goldens_are_read_whole_from_a_folder_and_from_memory() {
    for name in ["gqa_tiny", "gqa_odd", "mla_tiny", "mla_bias"] {
        let folder = Source::folder(golden(name)).unwrap();
        let config = Config::parse("config.json", &folder.read_small("config.json").unwrap().unwrap()).unwrap();
        let memory = one_file(golden_bytes(name));
        let (disk, memory) = (Weights::open(&folder).unwrap(), Weights::open(&memory).unwrap());
        assert_eq!(disk.check(&config.tensors()).unwrap(), Vec::<String>::new());
        // The crate of the format's makers is the judge.
        let bytes = golden_bytes(name);
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(disk.tensors().count(), theirs.len());
        for info in disk.tensors() {
            let numbers = disk.read(&info.name, &info.shape).unwrap();
            assert_eq!(f32s(&numbers), theirs.tensor(&info.name).unwrap().data(), "{}", info.name);
            assert_eq!(memory.read(&info.name, &info.shape).unwrap(), numbers);
            assert_eq!(info.bytes, 4 * numbers.len() as u64);
        }
    }
}

#[test]
fn halves_are_widened_exactly() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let bytes = |keep: &dyn Fn(u16) -> bool| -> Vec<u8> { bits.iter().filter(|&&b| keep(b)).flat_map(|b| b.to_le_bytes()).collect() };
    // All finite numbers: an exponent of all ones is NaN or infinity.
    let (f16, bf16) = (bytes(&|b| b & 0x7c00 != 0x7c00), bytes(&|b| b & 0x7f80 != 0x7f80));
    let (n16, nb16) = (f16.len() / 2, bf16.len() / 2);
    let source = one_file(pack(&[("a", "F16", &[n16], f16.clone()), ("b", "BF16", &[nb16], bf16.clone())]));
    let weights = Weights::open(&source).unwrap();
    let expect = |bytes: &[u8], widen: &dyn Fn(u16) -> f64| {
        bytes.chunks(2).map(|b| widen(u16::from_le_bytes([b[0], b[1]])) as f32).collect::<Vec<_>>()
    };
    let sign = |b: u16| if b >> 15 == 1 { -1.0 } else { 1.0 };
    // By the definition of the formats, in f64.
    let from_f16 = |b: u16| {
        let (e, m) = (i32::from(b >> 10 & 31), f64::from(b & 1023));
        sign(b) * if e == 0 { m * 2f64.powi(-24) } else { (1024.0 + m) * 2f64.powi(e - 25) }
    };
    let from_bf16 = |b: u16| {
        let (e, m) = (i32::from(b >> 7 & 255), f64::from(b & 127));
        sign(b) * if e == 0 { m * 2f64.powi(-133) } else { (128.0 + m) * 2f64.powi(e - 134) }
    };
    assert_eq!(f32s(&weights.read("a", &[n16]).unwrap()), f32s(&expect(&f16, &from_f16)));
    assert_eq!(f32s(&weights.read("b", &[nb16]).unwrap()), f32s(&expect(&bf16, &from_bf16)));
}

#[test]
fn files_cut_short_are_refused_at_every_byte() {
    for name in ["gqa_tiny", "mla_bias"] {
        let bytes = golden_bytes(name);
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let cuts = (0..=header).chain((header..bytes.len()).step_by(7919)).chain([bytes.len() - 1]);
        for cut in cuts {
            let source = one_file(bytes[..cut].to_vec());
            let error = Weights::open(&source).expect_err(&format!("{name} cut at {cut}"));
            assert_eq!(error.code(), "format", "{cut}: {error}");
            assert!(error.to_string().starts_with("m/model.safetensors: expected "), "{error}");
        }
        // The same from disk, at a few places.
        let folder = tempfile::tempdir().unwrap();
        for cut in [0, 7, 8, 9, header - 1, header, bytes.len() - 1] {
            std::fs::write(folder.path().join("model.safetensors"), &bytes[..cut]).unwrap();
            assert_eq!(Weights::open(&Source::Folder(folder.path().into())).unwrap_err().code(), "format", "{cut}");
        }
        let mut long = bytes;
        long.push(0);
        refused(long, "format", "bytes of weights after the header, found");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let t = |dtype: &str, shape: &str, offsets: &str| format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
    let pair = |a: &str, b: &str| {
        let one = |name: &str, offsets: &str| format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}"#);
        format!("{{{},{}}}", one("a", a), one("b", b))
    };
    let table: Vec<(String, usize, &str)> = vec![
        (t("F32", "[2]", "[0,4]"), 4, "expected 8 bytes for F32 [2] in tensor t, found 4 bytes"),
        (t("F32", "[2]", "[0,8]"), 4, "expected 8 bytes of weights after the header, found 4 bytes: the file is cut short"),
        (t("F32", "[1]", "[0,4]"), 8, "expected 4 bytes of weights after the header, found 8 bytes"),
        (t("F32", "[1]", "[4,8]"), 8, "to start at byte 0, found 4: a gap"),
        (t("F32", "[1]", "[4,0]"), 4, "expected offsets in order in tensor t, found [4, 0]"),
        (t("F32", "[1]", "[18446744073709551611,18446744073709551615]"), 4, "offsets in order"),
        (t("F32", "[1]", "[9223372036854775804,9223372036854775808]"), 4, "9223372036854775808 bytes of weights"),
        (t("F32", "[4294967296,4294967296,4]", "[0,0]"), 0, "a shape that fits the memory"),
        (t("F32", "[4611686018427387904,2]", "[0,0]"), 0, "a shape that fits the memory"),
        (t("F32", "[4611686018427387904]", "[0,0]"), 0, "a shape that fits the memory"),
        (t("F32", "[18446744073709551616]", "[0,4]"), 4, "a fault"),
        (t("F32", "[-1]", "[0,4]"), 4, "a fault"),
        (t("F32", "[1.0]", "[0,4]"), 4, "a fault"),
        (t("F32", "[1]", "[0,4,8]"), 4, "a fault"),
        (t("F32", "[1]", "[0]"), 4, "a fault"),
        (t("F4", "[3]", "[0,2]"), 2, "expected 2 bytes for F4 [3]"),
        (t("C64", "[2]", "[0,8]"), 8, "expected 16 bytes for C64 [2]"),
        (pair("[0,4]", "[0,4]"), 4, "tensor b to start at byte 4, found 0: an overlap"),
        (pair("[0,4]", "[2,6]"), 6, "tensor b to start at byte 4, found 2: an overlap"),
        (pair("[0,4]", "[5,9]"), 9, "tensor b to start at byte 4, found 5: a gap"),
        (pair("[0,4]", "[4,8]").replace("\"b\"", "\"a\""), 8, "expected each tensor once, found a twice"),
        (t("F32", "[1]", "[0,4]").replace("\"shape\"", "\"form\""), 4, "missing field `shape`"),
        (t("F32", "[1]", "[0,4]").replace("\"F32\"", "7"), 4, "a fault"),
        ("[]".into(), 0, "a header that starts with {"),
        (String::new(), 0, "an empty header"),
        ("{".into(), 0, "EOF"),
        (r#"{"t":null}"#.into(), 0, "a fault"),
        ("{".repeat(100_000), 0, "a fault"),
        (format!(r#"{{"t":{}"#, "[".repeat(100_000)), 0, "a fault"),
    ];
    for (header, data, text) in table {
        refused(file(&header, &vec![0; data]), "format", text);
    }
    let mut bytes = golden_bytes("gqa_tiny");
    let length = bytes.len() as u64;
    for (size, text) in [
        (0, "an empty header"),
        (length - 7, "the file is cut short"),
        (100_000_001, "at most 100000000 bytes"),
        (u64::MAX, "said to have 18446744073709551615 bytes"),
        (u64::MAX - 7, "said to have"),
        // The header ends with a blank, so that this one is right and the body is not.
        (4999, "464217 bytes"),
        (4000, "a fault"),
        (5001, "a fault"),
    ] {
        bytes[..8].copy_from_slice(&size.to_le_bytes());
        refused(bytes.clone(), "format", text);
    }
    refused(Vec::new(), "format", "expected safetensors weights, found an empty file");
    refused(vec![b'a'; 7], "format", "7 bytes");
    refused(b"<!DOCTYPE html><html></html>".to_vec(), "format", "an HTML page");
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec(), "format", "Git LFS");
    refused(b"PK\x03\x04 and so on".to_vec(), "format", "a zip archive");
}

/// Not what a writer would make, but right: no tensor, empty tensors, a scalar, any order of names, blanks after the header.
#[test]
fn unusual_but_right_files_are_read() {
    let source = one_file(file("{}", &[]));
    assert_eq!(Weights::open(&source).unwrap().tensors().count(), 0);
    let header = r#"{"z":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},
        "__metadata__":{"format":"pt"},"empty":{"dtype":"F16","shape":[3,0],"data_offsets":[4,4]}}   "#;
    let source = one_file(file(header, &f32s(&[1.5, -2.0, 3.0])));
    let weights = Weights::open(&source).unwrap();
    assert_eq!(weights.tensors().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "empty", "z"]);
    assert_eq!(weights.read("z", &[]).unwrap(), [1.5]);
    assert_eq!(weights.read("a", &[2]).unwrap(), [-2.0, 3.0]);
    assert_eq!(weights.read("empty", &[3, 0]).unwrap(), [0.0; 0]);
}

/// Damage in the header must give an error or a file that can still be read, never a panic.
#[test]
fn damaged_headers_never_panic() {
    let bytes = golden_bytes("gqa_odd");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut state = 1u64;
    let mut random = move |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let (mut refused, mut opened) = (0, 0);
    for round in 0..4000 {
        let mut damaged = bytes.clone();
        for _ in 0..=round % 3 {
            // Half of the damage puts a digit where one was: JSON stays JSON and the numbers lie.
            let at = random(header);
            damaged[at] = match damaged[at] {
                b'0'..=b'9' => b'0' + random(10) as u8,
                _ if round % 2 == 0 => continue,
                byte => byte ^ (1 << random(8)),
            };
        }
        let source = one_file(damaged);
        match Weights::open(&source) {
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
            Ok(weights) => {
                for info in weights.tensors() {
                    let _ = weights.read(&info.name, &info.shape);
                }
                opened += 1;
            }
        }
    }
    assert!(refused > 1000 && opened > 100, "{refused} refused, {opened} opened: the damage is too weak or too strong");
}

#[test]
fn a_tensor_that_is_not_as_expected_is_refused() {
    // Long enough that the bad number lies past the first chunk that is read.
    let n = 300_000;
    let mut long = vec![0.25; n];
    long[n - 2] = f32::NAN;
    long[n - 1] = f32::INFINITY;
    let source = one_file(pack(&[
        ("good", "F32", &[2, 1], f32s(&[1.0, -0.0])),
        ("long", "F32", &[n], f32s(&long)),
        ("half", "F16", &[2], vec![0, 0, 0, 0xfc]),
        ("int", "I64", &[1], vec![0; 8]),
        ("new", "F9_X", &[7], vec![0; 5]),
    ]));
    let weights = Weights::open(&source).unwrap();
    assert_eq!(weights.read("good", &[2, 1]).unwrap(), [1.0, -0.0]);
    let table: [(&str, &[usize], &str); 7] = [
        ("good", &[1, 2], "tensor good: expected (1, 2), found (2, 1)"),
        ("good", &[2], "tensor good: expected (2), found (2, 1)"),
        ("absent", &[2], "tensor absent: expected (2), found no such tensor"),
        ("long", &[n], "tensor long: expected finite numbers, found NaN at index 299998 of 300000"),
        ("half", &[2], "tensor half: expected finite numbers, found -inf at index 1 of 2"),
        ("int", &[1], "tensor int: expected F32, F16 or BF16, found I64"),
        ("new", &[7], "tensor new: expected F32, F16 or BF16, found F9_X"),
    ];
    for (name, shape, text) in table {
        let error = weights.read(name, shape).unwrap_err();
        assert_eq!((error.code(), error.to_string()), ("tensor", format!("m/model.safetensors: {text}")));
    }
}

#[test]
fn the_set_of_tensors_is_checked() {
    let specs = [spec("embed.weight", &[2, 1]), spec("x", &[1]), spec("y", &[1]), spec("z", &[1]), spec("head.weight", &[2, 1])];
    let one = || ("F32", &[1usize][..], f32s(&[1.0]));
    let embed = || ("embed.weight", "F32", &[2usize, 1][..], f32s(&[1.0, 2.0]));
    let named = |name: &'static str| (name, one().0, one().1, one().2);
    let head = |dtype, numbers: Vec<u8>| ("head.weight", dtype, &[2usize, 1][..], numbers);
    let good = || vec![embed(), named("x"), named("y"), named("z")];
    let with = |more: Vec<(&'static str, &'static str, &'static [usize], Vec<u8>)>| {
        let mut all = good();
        all.extend(more);
        all
    };
    let rope = |name| (name, "C64", &[1usize][..], vec![0; 8]);
    let check = |tensors: &[(&str, &str, &[usize], Vec<u8>)]| {
        let source = one_file(pack(tensors));
        Weights::open(&source).unwrap().check(&specs).map_err(|e| (e.code(), e.to_string()))
    };
    assert_eq!(check(&good()), Ok(vec![]));
    assert_eq!(check(&with(vec![head("F32", f32s(&[1.0, 2.0]))])), Ok(vec![]));
    let notes = ["freqs_cis", "freqs_cis_mla", "model.freqs_cis"].map(|name| format!("skipped {name} (C64): RoPE tables are computed"));
    assert_eq!(check(&with(vec![rope("freqs_cis"), rope("freqs_cis_mla"), rope("model.freqs_cis")])), Ok(notes.to_vec()));

    let table = [
        (vec![embed(), named("x"), named("y")], "tensor z: expected (1), found no such tensor"),
        (vec![embed(), named("x")], "tensor y: expected (1), found no such tensor, and 1 other is missing"),
        (vec![named("z")], "tensor embed.weight: expected (2, 1), found no such tensor, and 2 others are missing"),
        (with(vec![named("w")]), "tensor w: expected no such tensor in this model, found F32 (1)"),
        (
            with(vec![named("w"), named("a"), named("freqs"), rope("freqs_cis")]),
            "tensor a: expected no such tensor in this model, found F32 (1), and 2 others are unknown",
        ),
        (vec![embed(), named("x"), named("y"), ("z", "F32", &[1, 1], f32s(&[1.0]))], "tensor z: expected (1), found (1, 1)"),
        (vec![embed(), named("x"), named("y"), ("z", "F64", &[1], vec![0; 8])], "tensor z: expected F32, F16 or BF16, found F64"),
        (
            with(vec![head("F32", f32s(&[1.0, 2.5]))]),
            "tensor head.weight: expected the same numbers as embed.weight: the head is tied, found a difference at byte 6",
        ),
        (
            with(vec![head("F16", vec![0; 4])]),
            "tensor head.weight: expected the same numbers as embed.weight: the head is tied, found F16, where embed.weight is F32",
        ),
    ];
    for (tensors, text) in table {
        assert_eq!(check(&tensors), Err(("tensor", format!("m/model.safetensors: {text}"))));
    }
}

/// A difference in the last bytes of a table of several chunks is found, and one that is equal is accepted.
#[test]
fn a_long_head_is_compared_to_its_end() {
    let n = 700_001;
    let numbers: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let mut other = numbers.clone();
    for equal in [true, false] {
        if !equal {
            other[n - 1] += 1.0;
        }
        let folder = tempfile::tempdir().unwrap();
        let bytes = pack(&[("embed.weight", "F32", &[n, 1], f32s(&numbers)), ("head.weight", "F32", &[n, 1], f32s(&other))]);
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let source = Source::Folder(folder.path().into());
        let answer = Weights::open(&source).unwrap().check(&[spec("embed.weight", &[n, 1]), spec("head.weight", &[n, 1])]);
        assert_eq!(answer.is_ok(), equal);
        if let Err(error) = answer {
            assert!(error.to_string().contains("a difference at byte 280000"), "{error}");
        }
    }
}

#[test]
fn shards_are_read_and_their_index_is_checked() {
    let a = pack(&[("x", "F32", &[1], f32s(&[1.0])), ("y", "F32", &[2], f32s(&[2.0, 3.0]))]);
    let b = pack(&[("w", "F32", &[1], f32s(&[4.0]))]);
    let index = |map: Value| json!({"metadata": {"total_size": 16}, "weight_map": map}).to_string().into_bytes();
    let good = json!({"x": "a.safetensors", "y": "a.safetensors", "w": "b.safetensors"});
    let source =
        |index: Vec<u8>| memory(&[("model.safetensors.index.json", index), ("a.safetensors", a.clone()), ("b.safetensors", b.clone())]);

    let right = source(index(good.clone()));
    let weights = Weights::open(&right).unwrap();
    assert_eq!(weights.tensors().map(|t| (t.name.as_str(), t.file)).collect::<Vec<_>>(), [("w", 1), ("x", 0), ("y", 0)]);
    assert_eq!((weights.read("w", &[1]).unwrap(), weights.read("y", &[2]).unwrap()), (vec![4.0], vec![2.0, 3.0]));
    let error = weights.read("w", &[9]).unwrap_err().to_string();
    assert!(error.starts_with("m/b.safetensors: "), "the shard at fault is named: {error}");

    let change = |name: &str, file: Value| {
        let mut map = good.clone();
        map[name] = file;
        index(map)
    };
    let mut short = good.clone();
    short.as_object_mut().unwrap().remove("y");
    let table = [
        (change("x", json!("c.safetensors")), "tensor", "tensor x: expected the shard that holds it, a.safetensors, found c.safetensors"),
        (
            change("v", json!("c.safetensors")),
            "file",
            "cannot read m/c.safetensors: no such file, though m/model.safetensors.index.json names it",
        ),
        (change("v", json!("b.safetensors")), "tensor", "m/b.safetensors: tensor v: expected the shard to hold it"),
        (
            index(short),
            "tensor",
            "m/model.safetensors.index.json: tensor y: expected the shard that holds it, a.safetensors, found no entry",
        ),
        (change("w", json!("../b.safetensors")), "format", "plain file names that end in .safetensors, found \"../b.safetensors\""),
        (change("w", json!("/etc/passwd")), "format", "plain file names"),
        (change("w", json!("sub\\b.safetensors")), "format", "plain file names"),
        (change("w", json!("C:b.safetensors")), "format", "plain file names"),
        (change("w", json!("..")), "format", "plain file names"),
        (change("w", json!("config.json")), "format", "plain file names"),
        (change("w", json!(3)), "format", "a fault"),
        (index(json!({})), "format", "an empty weight_map"),
        (b"{}".to_vec(), "format", "missing field `weight_map`"),
        (b"".to_vec(), "format", "an empty file"),
        (br#"{"weight_map":{"x":"a.safetensors","x":"b.safetensors"}}"#.to_vec(), "format", "x twice"),
    ];
    for (index, code, text) in table {
        let source = source(index);
        let error = Weights::open(&source).expect_err(text);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(text), "expected {text:?} in {error}");
    }
    // A shard that is damaged names itself.
    let source =
        memory(&[("model.safetensors.index.json", index(good.clone())), ("a.safetensors", a[..20].to_vec()), ("b.safetensors", b.clone())]);
    assert!(Weights::open(&source).unwrap_err().to_string().starts_with("m/a.safetensors: expected a header of"));
    // Where both are there, the single file is the model.
    let both = memory(&[("model.safetensors.index.json", index(good)), ("model.safetensors", b.clone())]);
    assert_eq!(Weights::open(&both).unwrap().tensors().count(), 1);
}

#[test]
fn folders_and_files_that_are_not_there() {
    let temp = tempfile::tempdir().unwrap();
    let fails = |path: PathBuf, text: &str| {
        let error = Source::folder(&path).expect_err(text);
        assert_eq!(error.code(), "file");
        assert!(error.to_string().contains(text) && error.to_string().contains(&path.display().to_string()), "{error}");
    };
    fails(temp.path().join("nowhere"), "cannot read");
    fails(temp.path().to_path_buf(), "config.json");
    fails(golden("gqa_tiny").join("model.safetensors"), "not a folder; give the folder that holds config.json");

    std::fs::write(temp.path().join("config.json"), "{}").unwrap();
    std::fs::create_dir(temp.path().join("tokenizer.json")).unwrap();
    let source = Source::folder(temp.path()).unwrap();
    assert_eq!(source.read_small("config.json").unwrap().as_deref(), Some(&b"{}"[..]));
    assert_eq!(source.read_small("generation_config.json").unwrap(), None);
    assert!(source.read_small("tokenizer.json").unwrap_err().to_string().contains("not a regular file"));
    let error = Weights::open(&source).unwrap_err();
    assert_eq!(error.code(), "file");
    assert!(error.to_string().contains("no such file, and no model.safetensors.index.json either"), "{error}");

    // 128 MiB and a byte, none of it on disk.
    std::fs::File::create(temp.path().join("large.json")).unwrap().set_len((128 << 20) + 1).unwrap();
    let error = source.read_small("large.json").unwrap_err();
    assert_eq!(error.code(), "format");
    assert!(error.to_string().ends_with("expected at most 134217728 bytes, found 134217729 bytes"), "{error}");

    let memory = memory(&[("config.json", b"{}".to_vec())]);
    assert_eq!((memory.read_small("config.json").unwrap(), memory.read_small("x").unwrap()), (Some(b"{}".to_vec()), None));
    assert_eq!(memory.path("x"), "m/x");
}
