//! config.json and generation_config.json: what is refused and how, and the numbers that follow from the sizes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use refrain::model::config::{Attention, Config};
use refrain::model::defaults::{Defaults, Exit};
use refrain::model::published;
use refrain::shipped::NAMES;
use serde_json::{Value, json};

/// Model folders: golden cases and the shipped models.
fn models() -> Vec<String> {
    let golden = ["gqa_tiny", "gqa_odd", "mla_tiny", "mla_bias"].map(|name| format!("tests/golden/{name}"));
    golden.into_iter().chain(NAMES.map(|name| format!("examples/models/{name}"))).collect()
}

fn json_of(model: &str) -> Value {
    let path = format!("{}/{model}/config.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn parse(value: &Value) -> refrain::Result<Config> {
    Config::parse("some/config.json", value.to_string().as_bytes())
}

fn config(model: &str) -> Config {
    parse(&json_of(model)).unwrap()
}

/// Sets `changes` in a good config (the string "absent" removes the field) and expects an error with `field` and
/// `text` in its message.
fn refused(model: &str, changes: &[(&str, Value)], field: &str, text: &str) {
    let mut value = json_of(model);
    for (name, change) in changes {
        if change == &json!("absent") {
            value.as_object_mut().unwrap().remove(*name);
        } else {
            value[*name] = change.clone();
        }
    }
    let error = parse(&value).expect_err(&format!("{changes:?} must be refused"));
    let message = error.to_string();
    assert_eq!(error.code(), "config", "{changes:?}: {message}");
    assert!(message.starts_with(&format!("some/config.json: {field}: expected ")), "{changes:?}: {message}");
    assert!(message.contains(text), "{changes:?}: expected {text:?} in {message}");
}

#[test]
fn impossible_fields_are_refused() {
    let (gqa, mla) = ("tests/golden/gqa_tiny", "tests/golden/mla_tiny");
    let required = [
        "vocab_size",
        "dim",
        "n_heads",
        "max_seq_len",
        "max_loop_iters",
        "prelude_layers",
        "coda_layers",
        "attn_type",
        "n_experts",
        "n_shared_experts",
        "n_experts_per_tok",
        "expert_dim",
        "act_threshold",
        "rope_theta",
        "lora_rank",
    ];
    for name in required {
        refused(gqa, &[(name, json!("absent"))], name, "found no such field");
        refused(gqa, &[(name, Value::Null)], name, "found null");
        refused(gqa, &[(name, json!([1]))], name, "found a list");
        refused(mla, &[(name, json!({}))], name, "found an object");
        refused(mla, &[(name, json!(true))], name, "found true");
        refused(mla, &[(name, json!(-1))], name, "found -1");
    }
    refused(gqa, &[("n_kv_heads", json!("absent"))], "n_kv_heads", "no such field");
    for name in ["kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"] {
        refused(mla, &[(name, json!("absent"))], name, "found no such field");
        refused(mla, &[(name, json!(0))], name, "found 0");
    }
    for name in required.iter().filter(|name| !["attn_type", "act_threshold", "rope_theta"].contains(name)) {
        refused(gqa, &[(name, json!(64.0))], name, "found 64.0");
        refused(gqa, &[(name, json!("64"))], name, "found \"64\"");
        refused(gqa, &[(name, json!(u64::MAX))], name, "found 18446744073709551615");
        refused(gqa, &[(name, json!(1 << 30))], name, "found 1073741824");
        if !["prelude_layers", "coda_layers", "n_shared_experts"].contains(name) {
            refused(gqa, &[(name, json!(0))], name, "from 1 to");
        }
    }
    refused(gqa, &[("attn_type", json!("mha"))], "attn_type", "expected \"gqa\" or \"mla\", found \"mha\"");
    refused(gqa, &[("n_heads", json!(5))], "n_heads", "a divisor of dim (64), found 5");
    refused(gqa, &[("n_kv_heads", json!(3))], "n_kv_heads", "a divisor of n_heads (4), found 3");
    refused(gqa, &[("n_heads", json!(64)), ("n_kv_heads", json!(64))], "dim / n_heads", "found 1");
    refused(gqa, &[("n_experts_per_tok", json!(5))], "n_experts_per_tok", "at most n_experts (4), found 5");
    refused(mla, &[("qk_rope_head_dim", json!(7))], "qk_rope_head_dim", "found 7");
    for (value, text) in [(json!(0), "found 0"), (json!(1.001), "found 1.001"), (json!(1e-60), "e-60"), (json!("1"), "found \"1\"")] {
        refused(gqa, &[("act_threshold", value)], "act_threshold", text);
    }
    for (value, text) in [(json!(0.0), "found 0.0"), (json!(1e300), "found 1e+300"), (json!(1e-60), "e-60")] {
        refused(gqa, &[("rope_theta", value)], "rope_theta", text);
    }
    refused(gqa, &[("max_output_tokens", json!(0))], "max_output_tokens", "found 0");
    refused(gqa, &[("max_seq_len", json!(1 << 24)), ("dim", json!(256))], "max_seq_len × RoPE size", "found 1073741824");
    let shared =
        [("n_shared_experts", json!(256)), ("expert_dim", json!(1 << 18)), ("n_experts", json!(64)), ("n_experts_per_tok", json!(64))];
    refused(gqa, &shared, "n_shared_experts × expert_dim × n_experts_per_tok", "found 4294967296");
}

#[test]
fn what_is_no_json_object_is_refused() {
    let table: [(&[u8], &str); 8] = [
        (b"", "an empty file"),
        (b"{", "EOF"),
        (b"[1]", "a list"),
        (b"{\"dim\": NaN}", "line 1"),
        (b"\xff\xfe", "line 1"),
        (b"  <!DOCTYPE html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (&[b'['; 10_000], "recursion"),
    ];
    for (bytes, text) in table {
        for error in [Config::parse("c.json", bytes).unwrap_err(), Defaults::parse("c.json", Some(bytes)).unwrap_err()] {
            assert_eq!(error.code(), "format", "{error}");
            assert!(error.to_string().starts_with("c.json: expected a JSON object, found ") && error.to_string().contains(text), "{error}");
        }
    }
}

#[test]
fn what_need_not_be_there_is_not_needed() {
    let mut gqa = json_of("tests/golden/gqa_tiny");
    for name in ["kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "max_output_tokens", "dropout"] {
        gqa.as_object_mut().unwrap().remove(name);
    }
    gqa["model_type"] = json!(["unknown fields are ignored"]);
    gqa["rope_theta"] = json!(10000);
    gqa["act_threshold"] = json!(1);
    for name in ["prelude_layers", "coda_layers", "n_shared_experts"] {
        gqa[name] = json!(0);
    }
    let config = parse(&gqa).unwrap();
    assert_eq!((config.max_output_tokens, config.rope_theta, config.act_threshold), (4096, 10000.0, 1.0));
    assert_eq!(config.cache_slots(5), 5);
    assert!(config.tensors().iter().all(|t| !t.name.contains("shared_experts") && !t.name.starts_with("coda")));

    let mut mla = json_of("tests/golden/mla_tiny");
    mla["n_kv_heads"] = json!("nonsense");
    // No MLA tensor has a size of dim / n_heads: the package runs such a model, so must we.
    mla["n_heads"] = json!(5);
    let Attention::Mla { .. } = parse(&mla).unwrap().attention else { panic!("not MLA") };
}

/// Total: `sum(p.numel() for p in model.parameters())` of the package, version 0.5.0.
#[test]
fn parameters_are_those_of_pytorch() {
    let expected = [
        ("tests/golden/gqa_tiny", 116050, 2, 64, 32),
        ("tests/golden/gqa_odd", 175511, 2, 60, 22),
        ("tests/golden/mla_tiny", 110026, 2, 64, 32),
        ("tests/golden/mla_bias", 94264, 6, 48, 24),
        ("examples/models/follow", 277794, 2, 96, 64),
        ("examples/models/cups", 333378, 2, 96, 64),
        ("examples/models/add", 281058, 2, 96, 64),
    ];
    for (model, total, idle, dim, hidden) in expected {
        let parameters = config(model).parameters();
        assert_eq!(parameters.total, total, "{model}");
        assert_eq!(parameters.active, total - idle * 3 * dim * hidden, "{model}");
    }
    for model in models() {
        let parameters = config(&model).parameters();
        let length = std::fs::metadata(format!("{}/{model}/model.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap().len();
        let numbers = 4 * (parameters.total + parameters.buffers);
        assert!(numbers < length && length < numbers + 20_000, "{model}: {numbers} bytes of numbers in a file of {length}");
    }
}

/// `sum(p.numel() for p in OpenMythos(mythos_1b()).parameters())` and so on, on PyTorch's meta device, package 0.5.0.
#[test]
fn published_sizes_have_the_parameters_of_pytorch() {
    let expected = [
        ("mythos_1b", 1_064_028_034),
        ("mythos_3b", 3_041_725_186),
        ("mythos_10b", 9_981_316_994),
        ("mythos_50b", 50_374_247_426),
        ("mythos_100b", 99_545_072_130),
        ("mythos_500b", 497_849_137_154),
        ("mythos_1t", 999_326_352_386),
    ];
    assert_eq!(published::NAMES, expected.map(|(name, _)| name));
    for (name, total) in expected {
        let config = published::config(name).unwrap();
        assert_eq!(config.parameters().total, total, "{name}");
        let tokens = if total < 60_000_000_000 { 4096 } else { 131_072 };
        assert_eq!((config.act_threshold, config.max_output_tokens), (0.99, tokens), "{name}");
    }
    assert!(published::config("mythos_2b").is_none() && published::config("").is_none());
}

#[test]
fn a_config_is_written_as_it_was_read() {
    let published = published::NAMES.map(|name| published::config(name).unwrap());
    for config in models().iter().map(|model| config(model)).chain(published) {
        let json = config.to_json();
        assert_eq!(Config::parse("written", json.as_bytes()).unwrap(), config, "{json}");
        assert!(json.starts_with("{\n  \"vocab_size\": ") && json.ends_with("\n}\n"), "{json}");
    }
    // Not a value but is in the file.
    for model in models() {
        for (field, value) in config(&model).fields() {
            assert_eq!(json_of(&model).get(field).unwrap_or(&json!(4096)), &value, "{model}: {field}");
        }
    }
}

#[test]
fn sizes_that_follow() {
    let gqa = config("tests/golden/gqa_odd");
    assert_eq!(gqa.attention, Attention::Gqa { n_kv_heads: 1, head_dim: 10 });
    assert_eq!((gqa.ffn_dim(), gqa.rope_dim(), gqa.cache_width()), (80, 10, 20));
    assert_eq!((gqa.cache_slots(9), gqa.cache_bytes_per_token(9)), (14, 14 * 20 * 4));
    let mla = config("tests/golden/mla_bias");
    assert_eq!(mla.attention, Attention::Mla { kv_lora_rank: 20, q_lora_rank: 18, rope: 6, nope: 10, v: 14 });
    assert_eq!((mla.ffn_dim(), mla.rope_dim(), mla.cache_width()), (64, 6, 26));
    assert_eq!(mla.cache_bytes_per_token(usize::MAX), u64::MAX, "it saturates");
}

#[test]
fn the_largest_published_size_is_admitted() {
    let mut value = json_of("tests/golden/mla_tiny");
    let sizes = [
        ("dim", 16384),
        ("n_heads", 128),
        ("n_kv_heads", 16),
        ("prelude_layers", 6),
        ("coda_layers", 6),
        ("kv_lora_rank", 1024),
        ("q_lora_rank", 4096),
        ("qk_rope_head_dim", 64),
        ("qk_nope_head_dim", 128),
        ("v_head_dim", 128),
        ("n_experts", 512),
        ("n_shared_experts", 8),
        ("n_experts_per_tok", 8),
        ("expert_dim", 34560),
        ("max_loop_iters", 64),
        ("max_seq_len", 1_000_000),
        ("vocab_size", 100_000),
        ("lora_rank", 256),
        ("max_output_tokens", 131_072),
    ];
    for (name, size) in sizes {
        value[name] = json!(size);
    }
    let config = parse(&value).unwrap();
    assert!(config.parameters().total > 900_000_000_000, "{:?}", config.parameters());
}

/// The names and shapes must be exactly those of the files that the package wrote.
#[test]
fn tensors_are_those_of_the_files() {
    for model in models() {
        let bytes = std::fs::read(format!("{}/{model}/model.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let header: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let mut there: Vec<(String, Value)> = header.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v["shape"].clone())).collect();
        there.retain(|(name, _)| name != "__metadata__");
        let specs = config(&model).tensors();
        let mut ours: Vec<_> = specs.iter().filter(|s| !s.optional).map(|s| (s.name.clone(), json!(s.shape))).collect();
        ours.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(ours, there, "{model}");
        assert!(specs.iter().any(|s| s.optional && s.name == "head.weight" && s.shape == specs[0].shape));
    }
}

/// Values that the package computed (precompute_rope_freqs, torch 2.15).
#[test]
fn the_rope_table_is_that_of_the_package() {
    let mut value = json_of("tests/golden/gqa_tiny");
    value["max_seq_len"] = json!(4096);
    let config = parse(&value).unwrap();
    let table = config.rope_rows(0, config.max_seq_len);
    assert_eq!(table.len(), 4096 * 8 * 2);
    let expected = [
        (0, 0, 1.0, 0.0),
        (1, 0, 0.540_302_3, 0.841_470_96),
        (1, 3, 0.999_973_4, 0.007_292_600_3),
        (63, 1, 0.939_634, -0.342_181_06),
        (1000, 1, 0.655_475_3, -0.755_216_6),
        (4095, 0, -0.065_975_994, -0.997_821_2),
        (4095, 1, -0.758_861_7, 0.651_251_8),
        (4095, 2, -0.998_280_64, -0.058_615_2),
        (4095, 7, 0.999_108_3, 0.042_220_76),
    ];
    for (position, i, cos, sin) in expected {
        let at = (position * 8 + i) * 2;
        let close = |a: f32, b: f32| (a - b).abs() < 5e-7;
        assert!(close(table[at], cos) && close(table[at + 1], sin), "({position}, {i}): {:?}, not {:?}", &table[at..at + 2], (cos, sin));
    }
    assert_eq!(config.rope_rows(100, 3), table[100 * 16..103 * 16]);
}

/// Values that the package computed (loop_index_embedding).
#[test]
fn the_loop_embedding_is_that_of_the_package() {
    let table: [(&str, usize, &[f32]); 4] = [
        // An odd size: four sines, three cosines.
        ("tests/golden/gqa_odd", 0, &[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
        ("tests/golden/gqa_odd", 5, &[-0.958_924_3, 0.352_127_08, 0.025_894_47, 0.001_863_796, 0.283_662_2, 0.935_952_2, 0.999_664_66]),
        (
            "tests/golden/gqa_tiny",
            64,
            &[0.920_026_06, 0.116_549_3, 0.597_195_45, 0.063_956_32, 0.391_857_24, 0.993_184_9, 0.802_095_8, 0.997_952_7],
        ),
        (
            "examples/models/cups",
            31,
            &[
                -0.404_037_65,
                0.385_326_3,
                0.991_313_3,
                0.305_058_63,
                0.066_737_82,
                0.014_388_43,
                0.914_742_35,
                0.922_780_4,
                0.131_521_8,
                0.952_333_57,
                0.997_770_55,
                0.999_896_47,
            ],
        ),
    ];
    for (model, t, expected) in table {
        let config = config(model);
        let row = config.loop_embedding(t);
        assert_eq!(row.len(), config.dim);
        let n = expected.len();
        assert_eq!(n, config.dim / 8);
        assert!(row[n..].iter().all(|&x| x == 0.0), "{model}: {row:?}");
        for (found, expected) in row.iter().zip(expected) {
            assert!((found - expected).abs() < 2e-7, "{model} at {t}: {found}, not {expected}");
        }
    }
}

#[test]
fn defaults_are_read_and_checked() {
    assert_eq!(Defaults::parse("g.json", None).unwrap(), Defaults::default());
    let all = json!({"n_loops": 32, "min_loops": 0, "exit": "fixed", "in_place": true, "max_new_tokens": 5, "temperature": 0,
        "top_k": 0, "top_p": 1.0, "min_p": 0.05, "eos_token_id": [1, 2], "transformers_version": "5"});
    let expected = Defaults {
        n_loops: Some(32),
        min_loops: Some(0),
        exit: Some(Exit::Fixed),
        in_place: Some(true),
        max_new_tokens: Some(5),
        temperature: Some(0.0),
        top_k: Some(0),
        top_p: Some(1.0),
        min_p: Some(0.05),
        eos_token_id: vec![1, 2],
    };
    assert_eq!(Defaults::parse("g.json", Some(all.to_string().as_bytes())).unwrap(), expected);
    let nulls = json!({"n_loops": null, "exit": null, "top_p": null});
    assert_eq!(Defaults::parse("g.json", Some(nulls.to_string().as_bytes())).unwrap(), Defaults::default());

    let table = [
        ("n_loops", json!(0), "found 0"),
        ("n_loops", json!(2.5), "found 2.5"),
        ("min_loops", json!(-1), "found -1"),
        ("exit", json!("never"), "expected \"model\" or \"fixed\", found \"never\""),
        ("exit", json!(1), "expected a string, found 1"),
        ("in_place", json!("yes"), "expected true or false, found \"yes\""),
        ("max_new_tokens", json!(0), "found 0"),
        ("temperature", json!(-0.5), "found -0.5"),
        ("temperature", json!(1e300), "found 1e+300"),
        ("temperature", json!("hot"), "found \"hot\""),
        ("top_k", json!(-1), "found -1"),
        ("top_p", json!(0), "found 0"),
        ("top_p", json!(1.5), "found 1.5"),
        ("min_p", json!(1), "found 1"),
        ("min_p", json!([]), "found a list"),
        ("eos_token_id", json!(-1), "found -1"),
        ("eos_token_id", json!([1, "end"]), "found a list"),
    ];
    for (name, value, text) in table {
        let error = Defaults::parse("g.json", Some(json!({name: value}).to_string().as_bytes())).expect_err(name);
        assert_eq!(error.code(), "config");
        let message = error.to_string();
        assert!(message.starts_with(&format!("g.json: {name}: ")) && message.contains(text), "{message}");
    }
}
