//! `refrain run --show lens|experts|debt`, `--trace` and the scheduling options: what they print of the loops.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;

use crate::cli_run::{fed, json_lines, said, stderr};

/// Four arrows from a.
const PROMPT: &str = "c >d a >b d >e b >c e >e ?a";

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_lens_follows_the_arrows() {
    let text = said(&["run", "-p", PROMPT, "--show", "lens"], "");
    let query: Vec<&str> = text.lines().rev().take(4).collect();
    assert_eq!(query[3], "?a·5  predicts e since loop 4");
    assert_eq!(query[2].split_whitespace().collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
    assert_eq!(query[1].split_whitespace().collect::<Vec<_>>(), ["b", "c", "d", "e", "e"], "an arrow a loop");
    assert!(query[0].split_whitespace().all(|p| (0.0..=1.0).contains(&p.parse::<f32>().unwrap())), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    // In ids, and for a continuation: the same blocks for the tokens that come.
    let ids = said(&["run", "-p", PROMPT, "--show", "lens", "--ids"], "");
    assert!(ids.lines().rev().take(2).all(|line| line.split_whitespace().all(|id| id.parse::<f32>().is_ok())), "{ids}");
    let continued = said(&["run", "-p", PROMPT, "--no-in-place", "-n", "2", "--show", "lens"], "");
    assert_eq!(continued.lines().filter(|line| line.contains('·')).count(), 2, "{continued}");
}

#[test]
fn experts_and_debt_are_shown_for_every_token() {
    let experts = said(&["run", "-p", PROMPT, "--show", "experts"], "");
    assert_eq!(experts.lines().filter(|line| line.contains('·')).count(), 11, "{experts}");
    let gates = experts.lines().last().unwrap().split_whitespace().map(|cell| cell.split_once(':').unwrap().1.parse::<f32>().unwrap());
    assert!(gates.clone().count() == 5 && gates.clone().all(|gate| (0.0..=0.5).contains(&gate)), "the second of two experts: {experts}");

    let debt = |schedule: &[&str]| {
        let args = ["run", "-p", PROMPT, "--no-in-place", "-n", "4", "--loops", "8", "--show", "debt"];
        let text = said(&[&args[..], schedule].concat(), "");
        assert!(text.starts_with("token") && text.lines().next().unwrap().ends_with("debt"), "{text}");
        let cell = |line: &str, at: usize| line.split_whitespace().nth(at).unwrap().parse::<u64>().unwrap();
        text.lines().skip(1).map(|line| (cell(line, 2), cell(line, 4))).collect::<Vec<_>>()
    };
    let (lazy, full) = (debt(&[]), debt(&["--schedule", "full"]));
    assert_eq!((lazy.len(), full.len()), (4, 4));
    // The first line has the prompt's work too: 11 tokens.
    assert_eq!(full[0], ((11 + 1) * 8, 0));
    assert!(full[1..].iter().all(|row| *row == (8, 0)), "{full:?}");
    assert!(lazy.iter().zip(&full).all(|(lazy, full)| lazy.0 < full.0), "{lazy:?}");
    assert!(lazy.windows(2).all(|pair| pair[0].1 + 8 == pair[1].0 + pair[1].1), "what is not computed is owed: {lazy:?}");
    let eager = debt(&["--eager", "20"]);
    assert!(eager[3].1 < lazy[3].1, "{eager:?}, {lazy:?}");
}

#[test]
fn a_trace_has_every_pass_and_every_loop_of_every_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.jsonl");
    let trace = path.to_str().unwrap();
    for (extra, prompt, output) in [(&[][..], 11, 0), (&["--no-in-place", "-n", "3"], 11, 3)] {
        let plain = said(&[&["run", "-p", PROMPT], extra].concat(), "");
        assert_eq!(said(&[&["run", "-p", PROMPT, "--trace", trace], extra].concat(), ""), plain, "the answer is the same");
        let lines = json_lines(&std::fs::read_to_string(&path).unwrap());
        let of = |kind: &str| lines.iter().filter(|line| line["type"] == *kind).collect::<Vec<_>>();
        let (tokens, passes) = (of("token"), of("pass"));
        assert_eq!(tokens.len() + passes.len(), lines.len());
        let role = |role: &str| tokens.iter().filter(|token| token["role"] == *role).count();
        assert_eq!((role("prompt"), role("output")), (prompt, output));
        let rows: f64 = passes.iter().map(|pass| number(&pass["rows"])).sum();
        assert_eq!(rows, tokens.iter().map(|token| number(&token["work"]["rows"])).sum::<f64>());
        for token in tokens {
            let loops = token["trace"].as_array().unwrap();
            let used = number(&token["loops"]) as usize;
            assert!(loops.len() >= used, "{token}");
            for (t, at) in loops.iter().enumerate() {
                assert_eq!(number(&at["loop"]) as usize, t + 1);
                assert!(number(&at["delta"]) > 0.0 && number(&at["router_margin"]) >= 0.0, "{at}");
                assert_eq!((at["experts"].as_array().unwrap().len(), at["lens"].as_array().unwrap().len()), (2, 5));
            }
            let weights: f64 = loops.iter().map(|at| number(&at["weight"])).sum();
            assert!((weights - 1.0).abs() < 1e-5, "{token}");
            assert!((number(&loops[used - 1]["cum"]) >= 0.99) && token["exit"] == "halted", "{token}");
        }
    }
}

#[test]
fn traces_that_cannot_be_written_are_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let out = path.to_str().unwrap();
    for (args, code) in [
        (vec!["--trace", "/no/such/folder/trace.jsonl"], "file"),
        (vec!["--trace", out, "-o", out], "argument"),
        (vec!["--catch-up", "0"], "argument"),
    ] {
        let output = fed(&[&["run", "-p", PROMPT, "--device", "cpu"], &args[..]].concat(), "");
        assert!(!output.status.success() && stderr(&output).contains(&format!("error[{code}]: ")), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !path.exists(), "{args:?}");
    }
    // The same file by another name, before it is there and through links; a shard of the model.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("out", &link).unwrap();
    let other = format!("{}/./out", folder.path().display());
    for second in [other.as_str(), link.to_str().unwrap()] {
        let output = fed(&["run", "-p", PROMPT, "--device", "cpu", "-o", out, "--trace", second], "");
        assert!(stderr(&output).contains("error[argument]: ") && !path.exists(), "{second}: {}", stderr(&output));
    }
    let case = crate::goldens::Case::open("gqa_tiny").folder;
    std::fs::copy(case.join("config.json"), folder.path().join("config.json")).unwrap();
    let shard = folder.path().join("model-00001-of-00001.safetensors");
    std::fs::copy(case.join("model.safetensors"), &shard).unwrap();
    let before = std::fs::read(&shard).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&before).unwrap();
    let tensors = metadata.tensors();
    let map: serde_json::Map<String, Value> =
        tensors.keys().map(|name| (name.clone(), "model-00001-of-00001.safetensors".into())).collect();
    let index = serde_json::json!({"weight_map": map}).to_string();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    let model = folder.path().to_str().unwrap();
    let args = ["run", "-m", model, "--prompt-ids", "1,2", "-n", "2", "--device", "cpu"];
    assert!(fed(&args, "").status.success());
    let output = fed(&[&args[..], &["--trace", shard.to_str().unwrap()]].concat(), "");
    assert!(stderr(&output).contains("error[argument]: "), "{}", stderr(&output));
    assert!(std::fs::read(&shard).unwrap() == before, "the weights are as they were");
    for args in [&["--schedule", "soon"][..], &["--show", "all"], &["--eager", "-1"]] {
        assert_eq!(fed(&[&["run", "-p", PROMPT], args].concat(), "").status.code(), Some(2), "{args:?}");
    }
}
