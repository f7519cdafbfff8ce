//! Sizes that no machine has, wherever a file or a caller can name one: each ends in a typed error (or in a right answer that takes
//! nothing), at once, and before anything of that size is asked for.
//!
//! On Linux the whole of it runs in a process that may have 1 GiB of addresses: an allocation that fails ends it, whether its pages would
//! have been touched or not. What headers of safetensors files can get wrong is in `files.rs`, what pickles can in `convert_by_hand.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::borrow::Cow;
use std::time::{Duration, Instant};

use refrain::Options;
use refrain::backend::{DeviceChoice, DeviceInfo, DeviceOptions};
use refrain::model::config::Config;
use refrain::model::defaults::Defaults;
use refrain::model::files::{Checkpoint, Reader, Source, Weights};
use refrain::model::{Engine, Needs};
use refrain::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::convert_by_hand::{dict, pack, pickle, storage, tensor_of};

/// What one case may take: some thousand times what it takes, and less than anything that counts to a size of these.
const SOON: Duration = Duration::from_millis(50);
/// As much for those that read a long text.
const SOON_FOR_MEGABYTES: Duration = Duration::from_millis(1500);

/// The cases are tried in this process, or on Linux in one of little memory.
#[test]
fn sizes_that_no_machine_has() {
    if cfg!(target_os = "linux") && std::env::var_os("REFRAIN_LIMITED").is_none() {
        let script = "ulimit -v 1048576 && exec \"$0\" limits::sizes_that_no_machine_has --exact --nocapture";
        let mut child = std::process::Command::new("sh");
        let own = std::env::current_exe().unwrap();
        // One thread in each pool: every thread has addresses of its own.
        child.args(["-c", script]).arg(own).envs([("REFRAIN_LIMITED", "1"), ("RAYON_NUM_THREADS", "1"), ("MALLOC_ARENA_MAX", "1")]);
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}", output.status);
        return;
    }
    configs();
    options();
    safetensors();
    readers();
    indices();
    checkpoints();
    tokenizers();
}

/// The best of a few runs is soon: other programs run too.
fn soon<T>(what: &str, limit: Duration, mut run: impl FnMut() -> T) -> T {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        let answer = run();
        best = best.min(started.elapsed());
        if best < limit {
            return answer;
        }
    }
    panic!("{what} takes {best:?}, expected less than {limit:?}");
}

/// It fails soon, with this code and these words.
fn refused<T>(what: &str, code: &str, words: &str, mut run: impl FnMut() -> refrain::Result<T>) {
    let error = soon(what, SOON, || run().map(|_| ())).expect_err(what);
    assert!(
        error.code() == code && error.to_string().contains(words),
        "{what}: expected {code} and {words:?}, found {}: {error}",
        error.code()
    );
}

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}/config.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn parse(value: &Value) -> refrain::Result<Config> {
    Config::parse("c", value.to_string().as_bytes())
}

fn on_the_cpu() -> Options {
    let device = DeviceOptions { device: DeviceChoice::Cpu, memory: Some(8 << 30), ..DeviceOptions::default() };
    Options { device, ..Options::default() }
}

/// Counts a model; the error, or why it does not fit.
fn count(config: &Config, options: &Options) -> refrain::Result<()> {
    match Needs::of(&DeviceInfo::cpu(), config, &Defaults::default(), options, None)? {
        (_, Some(fault)) => Err(fault),
        (needs, None) => {
            assert!(needs.total() <= 8 << 30, "{needs:?}");
            Ok(())
        }
    }
}

/// The integer fields of a config.
fn fields(config: &Value) -> Vec<String> {
    config.as_object().unwrap().iter().filter(|(_, value)| value.is_u64()).map(|(name, _)| name.clone()).collect()
}

fn configs() {
    for name in ["gqa_tiny", "mla_tiny"] {
        let good = golden(name);
        let (mut largest, mut admitted) = (good.clone(), 0);
        for field in fields(&good) {
            for size in [1u64 << 31, 1 << 53, 1 << 63] {
                let mut config = good.clone();
                config[&field] = size.into();
                let known = parse(&good).unwrap().fields().iter().any(|(name, _)| *name == field);
                match soon(&field, SOON, || parse(&config)) {
                    Err(error) => assert!(error.code() == "config" && error.to_string().contains(&size.to_string()), "{error}"),
                    Ok(_) => assert!(!known, "{field} {size} was admitted"),
                }
            }
            // The largest power of two that it may be alone: such a model is counted, or told to be too large.
            for bit in (0..31).rev() {
                let mut config = good.clone();
                config[&field] = (1u64 << bit).into();
                let Ok(parsed) = parse(&config) else { continue };
                admitted += 1;
                largest[&field] = (1u64 << bit).into();
                let answer = soon(&format!("{field} {}", 1u64 << bit), SOON_FOR_MEGABYTES, || count(&parsed, &on_the_cpu()));
                if let Err(error) = answer {
                    assert!(["memory", "too_small"].contains(&error.code()), "{field}: {error}");
                }
                break;
            }
        }
        assert!(admitted > 10, "{admitted} fields of {name}");
        // All of them together, halved until their products are admitted.
        let mut products = 0;
        let together = loop {
            match parse(&largest) {
                Ok(config) => break config,
                Err(error) => assert!(error.code() == "config", "{error}"),
            }
            for field in ["expert_dim", "max_seq_len", "n_experts_per_tok"] {
                largest[field] = (largest[field].as_u64().unwrap() / 2).max(1).into();
            }
            products += 1;
            assert!(products < 31, "{largest}");
        };
        refused(&format!("all of {name}"), "too_small", "there is a kernel for at most", || count(&together, &on_the_cpu()));
    }
    // As much as kernels have room for, in many layers: only the bytes are too many.
    let mut config = golden("gqa_tiny");
    for (field, size) in [
        ("vocab_size", 1 << 24),
        ("dim", 1 << 18),
        ("n_heads", 1 << 12),
        ("n_kv_heads", 1 << 12),
        ("n_experts", 1000),
        ("expert_dim", 1 << 18),
    ] {
        config[field] = size.into();
    }
    (config["prelude_layers"], config["coda_layers"], config["lora_rank"]) = (4096.into(), 4096.into(), 1024.into());
    let config = parse(&config).unwrap();
    let parameters = config.parameters();
    assert!(parameters.total > 1 << 50, "{parameters:?}");
    let error = soon("a model of 2^50 parameters", SOON_FOR_MEGABYTES, || count(&config, &on_the_cpu())).unwrap_err();
    assert!(["memory", "too_small"].contains(&error.code()), "{error}");
}

fn options() {
    let mut config = golden("mla_tiny");
    config["max_seq_len"] = (1 << 24).into();
    let config = parse(&config).unwrap();
    type With = fn(usize) -> Options;
    let cases: [(&str, &str, With); 4] = [
        ("context", "context", |n| Options { context: Some(n), ..on_the_cpu() }),
        ("loops", "loops", |n| Options { loops: Some(n), ..on_the_cpu() }),
        ("sequences", "argument", |n| Options { sequences: Some(n), ..on_the_cpu() }),
        ("chunk", "argument", |n| Options { chunk: Some(n), ..on_the_cpu() }),
    ];
    for (name, code, with) in cases {
        for size in [1 << 31, 1 << 53, usize::MAX] {
            refused(name, code, &size.to_string(), || count(&config, &with(size)));
        }
    }
    let all = Options { context: Some(1 << 24), loops: Some(4096), sequences: Some(1 << 16), chunk: Some(1 << 14), ..on_the_cpu() };
    refused("the largest cache", "too_small", "the cache", || count(&config, &all));
}

/// A file of a header, no matter what it says of the numbers.
fn file(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

fn memory(files: &[(&str, Vec<u8>)]) -> Source {
    Source::Memory { name: "m".into(), files: files.iter().map(|(name, bytes)| ((*name).to_string(), Cow::Owned(bytes.clone()))).collect() }
}

fn safetensors() {
    // Of no numbers there are any number of rows: right, and nothing to read.
    for (rows, dtype) in [(1u64 << 40, "F32"), (1 << 62, "F16"), (u64::MAX >> 1, "I64")] {
        let header = json!({"w": {"dtype": dtype, "shape": [rows, 0], "data_offsets": [0, 0]}}).to_string();
        let source = memory(&[("model.safetensors", file(&header))]);
        let weights = Weights::open(&source).unwrap();
        let shape = [rows as usize, 0];
        if dtype == "I64" {
            assert_eq!(soon("no integers", SOON, || weights.read_integers("w")).unwrap(), (shape.to_vec(), vec![]));
        } else {
            assert_eq!(soon("no numbers", SOON, || weights.read("w", &shape)).unwrap(), Vec::<f32>::new());
        }
    }
    // Blocks of a matrix that would not fit any file, in a file that has none of them.
    for (dtype, bytes) in [("U8", 1u64 << 60), ("I8", 1 << 60)] {
        let header = json!({"w": {"dtype": dtype, "shape": [bytes / 32, 32], "data_offsets": [0, bytes]},
            "w.scales": {"dtype": "F16", "shape": [bytes / 32, 1], "data_offsets": [bytes, bytes + bytes / 16]}});
        let source = memory(&[("model.safetensors", file(&header.to_string()))]);
        refused("blocks", "format", "cut short", || Weights::open(&source));
    }
    // A config that asks for far more than the small file beside it has.
    let mut config = golden("gqa_tiny");
    (config["vocab_size"], config["dim"], config["n_experts"]) = ((1 << 24).into(), (1 << 18).into(), (1 << 14).into());
    let config = config.to_string().into_bytes();
    let small = json!({"embed.weight": {"dtype": "F32", "shape": [1, 0], "data_offsets": [0, 0]}}).to_string();
    let source = memory(&[("config.json", config), ("model.safetensors", file(&small))]);
    let load = || pollster::block_on(Engine::load(&source, &on_the_cpu(), &mut |_| {}));
    let error = soon("a small file", SOON_FOR_MEGABYTES, || load().map(|_| ())).unwrap_err();
    assert!(error.code() == "tensor" && error.to_string().contains("others are missing"), "{error}");
}

/// A file that says of itself that it is as long as its header wants it, and has no byte beyond the header.
#[derive(Debug)]
struct Boaster {
    start: Vec<u8>,
    length: u64,
}

impl Reader for Boaster {
    fn names(&self) -> Vec<String> {
        vec!["model.safetensors".into()]
    }

    fn length(&self, file: &str) -> Option<u64> {
        (file == "model.safetensors").then_some(self.length)
    }

    fn read(&self, _: &str, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        // As many as the first look at a file takes.
        if offset == 0 {
            into.iter_mut().zip(&self.start).for_each(|(to, from)| *to = *from);
            return Ok(());
        }
        let bytes = self.start.get(offset as usize..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn readers() {
    for bytes in [1u64 << 40, 1 << 56, 1 << 60] {
        let of = |dtype: &str, width: u64| {
            let header = json!({"w": {"dtype": dtype, "shape": [bytes / width], "data_offsets": [0, bytes]}}).to_string();
            let start = file(&header);
            let length = start.len() as u64 + bytes;
            Source::Reader { name: "m".into(), files: std::sync::Arc::new(Boaster { start, length }) }
        };
        let source = of("F32", 4);
        let weights = Weights::open(&source).unwrap();
        refused("numbers", "too_small", "tensor w", || weights.read("w", &[(bytes / 4) as usize]));
        let source = of("I64", 8);
        let weights = Weights::open(&source).unwrap();
        refused("integers", "too_small", "tensor w", || weights.read_integers("w"));
    }
    // A length with which offsets would overflow.
    let start = file(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
    let source = Source::Reader { name: "m".into(), files: std::sync::Arc::new(Boaster { start, length: u64::MAX }) };
    refused("the longest file", "format", "4 bytes of weights after the header", || Weights::open(&source));
}

fn indices() {
    // A million shards, of which there is none.
    let map: Vec<String> = (0..1_000_000).map(|i| format!("\"t{i}\":\"{i}.safetensors\"")).collect();
    let many = format!("{{\"weight_map\":{{{}}}}}", map.join(",")).into_bytes();
    let source = memory(&[("model.safetensors.index.json", many)]);
    let error = soon("a million shards", SOON_FOR_MEGABYTES, || Weights::open(&source).map(|_| ())).unwrap_err();
    assert!(error.code() == "file" && error.to_string().contains("0.safetensors"), "{error}");
    // A million tensors in one shard, of which it has none.
    let pairs: Vec<String> = (0..1_000_000).map(|i| format!("\"t{i}\":\"s.safetensors\"")).collect();
    let one = format!("{{\"weight_map\":{{{}}}}}", pairs.join(",")).into_bytes();
    let source = memory(&[("model.safetensors.index.json", one), ("s.safetensors", file("{}"))]);
    let error = soon("a million tensors", SOON_FOR_MEGABYTES, || Weights::open(&source).map(|_| ())).unwrap_err();
    assert!(error.code() == "tensor" && error.to_string().contains("no such tensor"), "{error}");
}

fn checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.pt");
    let open = |what: &str, bytes: Vec<u8>, words: &str| {
        std::fs::write(&path, bytes).unwrap();
        refused(what, "checkpoint", words, || Checkpoint::open(&path));
    };
    let archive = |body: &[u8]| pack(&[("a/data.pkl", &pickle(body)), ("a/byteorder", b"little"), ("a/data/0", &[0; 24])]);
    let tensor = |count: i64, offset: i64, shape: &[i64]| {
        let strides: Vec<i64> = (0..shape.len()).map(|i| shape[i + 1..].iter().fold(1i64, |n, d| n.wrapping_mul(*d))).collect();
        archive(&dict(&[("w", tensor_of(storage("FloatStorage", "0", count), offset, shape, &strides))]))
    };
    for size in [1i64 << 31, 1 << 53, i64::MAX] {
        open("a shape", tensor(6, 0, &[size]), "tensor w");
        open("a product", tensor(6, 0, &[size, size]), "tensor w of a size that can be");
        open("an offset", tensor(6, size, &[1]), "tensor w");
        open("a storage", tensor(size, 0, &[1]), "storage \"0\"");
    }
    // What the archive says of its entries: sizes in the list at its end, the list's own place and length, and how many there are.
    let good = tensor(6, 0, &[6]);
    std::fs::write(&path, &good).unwrap();
    assert!(Checkpoint::open(&path).is_ok());
    let find = |bytes: &[u8], what: &[u8]| (0..bytes.len()).filter(|at| bytes[*at..].starts_with(what)).collect::<Vec<_>>();
    for entry in find(&good, b"PK\x01\x02") {
        for number in [20, 24] {
            for size in [u32::MAX, u32::MAX - 1, 1 << 31] {
                let mut bytes = good.clone();
                bytes[entry + number..][..4].copy_from_slice(&size.to_le_bytes());
                open("the size of an entry", bytes, "c.pt");
            }
        }
    }
    let end = *find(&good, b"PK\x05\x06").last().unwrap();
    // The list's bytes, its place.
    for number in [12, 16] {
        for size in [u32::MAX, u32::MAX - 1, 1 << 31] {
            let mut bytes = good.clone();
            bytes[end + number..][..4].copy_from_slice(&size.to_le_bytes());
            std::fs::write(&path, bytes).unwrap();
            // Some readers find the list without these: what counts is that nothing of that size is asked for.
            let answer = soon("the list of entries", SOON, || Checkpoint::open(&path).map(|_| ()));
            assert!(answer.is_ok() || answer.is_err_and(|error| error.code() == "checkpoint"));
        }
    }
    // The same in 64 bits: entries, bytes, place.
    for size in [1u64 << 32, 1 << 60, u64::MAX] {
        let mut bytes = good[..end].to_vec();
        let at = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
        [size, size, size, size].iter().for_each(|size| bytes.extend(size.to_le_bytes()));
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(at.to_le_bytes());
        bytes.extend(b"\x01\0\0\0");
        bytes.extend(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
        open("a list in 64 bits", bytes, "damaged or cut short");
    }
}

fn tokenizers() {
    let path = format!("{}/examples/models/cups/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
    let good: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        value.to_string().into_bytes()
    };
    for id in [78u64, 1 << 31, u32::MAX.into()] {
        let json = with(&|value| value["model"]["vocab"]["@1"] = id.into());
        refused("an id", "tokenizer", &format!("found {id}"), || Tokenizer::parse("t", &json, 78));
    }
    for id in [1u64 << 32, 1 << 53, u64::MAX] {
        let json = with(&|value| value["model"]["vocab"]["@1"] = id.into());
        refused("an id past 32 bits", "tokenizer", "a fault", || Tokenizer::parse("t", &json, 78));
    }
    // Sizes of steps: refused, or of no effect on a short text.
    for size in [1u64 << 31, 1 << 53, 1 << 63, u64::MAX] {
        for (what, json) in [
            (
                "padding",
                with(&|value| {
                    value["padding"] = json!({"strategy": {"Fixed": size}, "direction": "Right", "pad_to_multiple_of": size,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "x"})
                }),
            ),
            (
                "truncation",
                with(&|value| {
                    value["truncation"] = json!({"direction": "Right", "max_length": size, "strategy": "LongestFirst", "stride": size})
                }),
            ),
            ("pieces", with(&|value| value["pre_tokenizer"] = json!({"type": "FixedLength", "length": size}))),
            ("strip", with(&|value| value["decoder"] = json!({"type": "Strip", "content": "a", "start": size, "stop": 0}))),
        ] {
            let answer = soon(what, SOON, || {
                let tokenizer = Tokenizer::parse("t", &json, 78)?;
                let ids = tokenizer.encode("@1 12").unwrap_or_else(|_| vec![0, 5]);
                assert!(ids.len() <= 5, "{what} {size}: {} tokens", ids.len());
                tokenizer.decode(&ids)
            });
            if let Err(error) = answer {
                assert_eq!(error.code(), "tokenizer", "{what} {size}: {error}");
            }
        }
    }
}
