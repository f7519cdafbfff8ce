//! The shipped models: their problems are right by other means than those that made them, the engine answers them as the package
//! does on every device, they keep what their READMEs promise, and the tables there are what `refrain sweep` prints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use pollster::block_on;
use refrain::backend::DeviceOptions;
use refrain::generate::Model;
use refrain::model::{Depth, Feed, Logits, Options};
use refrain::shipped;
use serde_json::Value;

use crate::devices;
use crate::goldens::sequences;

/// Problems of a shipped model: prompt, answers, and what the package predicted and how long it looped.
fn problems(name: &str) -> Vec<Value> {
    let text = shipped::source(name).unwrap().read_small("problems.jsonl").unwrap().unwrap();
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// Every problem of a shipped model, `batch` at once: the predictions and every loop count are the package's, and right but for one
/// in 200 at most.
fn check_shipped(name: &str, device: &str, options: &DeviceOptions, batch: usize) {
    let source = shipped::source(name).unwrap();
    let options = Options { device: options.clone(), sequences: Some(batch), ..Default::default() };
    let mut model = block_on(Model::open(&source, &options, &mut |_| {})).unwrap();
    let problems = problems(name);
    assert!(problems.len() >= 100, "{name} has its problems");
    let (mut right, mut asked) = (0, 0);
    for some in problems.chunks(batch) {
        let tokens: Vec<Vec<u32>> = some.iter().map(|p| model.encode(p["prompt"].as_str().unwrap()).unwrap()).collect();
        let mut all = sequences(model.engine(), some.len());
        let mut feeds: Vec<Feed> = all.iter_mut().zip(&tokens).map(|(sequence, tokens)| Feed { sequence, tokens }).collect();
        let loops = some[0]["package"]["loops"].as_u64().unwrap() as usize;
        let depth = Depth { loops, ..model.engine().default_depth() };
        let logits = Logits { every: true, ..Logits::GREEDY };
        let output = block_on(model.forward(&mut feeds, depth, logits)).unwrap();
        let mut first = 0;
        for (problem, tokens) in some.iter().zip(&tokens) {
            let rows = &output.rows[first..][..tokens.len()];
            let queries = problem["queries"].as_u64().unwrap() as usize;
            let predictions = &output.predictions[first + tokens.len() - queries..][..queries];
            let found: Vec<String> = predictions.iter().map(|p| model.decode(&[p.best[0].0]).unwrap()).collect();
            right += found.iter().zip(strings(&problem["answers"])).filter(|(found, answer)| found == answer).count();
            asked += queries;
            assert_eq!(found, strings(&problem["package"]["predicted"]), "{name} on {device}: {}", problem["prompt"]);
            let used: Vec<usize> = rows.iter().map(|row| row.loops).collect();
            let expected = problem["package"]["loops_used"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize);
            assert_eq!(used, expected.collect::<Vec<_>>(), "{name} on {device}: {}", problem["prompt"]);
            first += tokens.len();
        }
    }
    assert!(right * 200 >= asked * 199, "{name} on {device}: {right} of {asked} right");
}

#[test]
fn shipped_models_solve_their_problems_on_the_cpu() {
    let (device, options) = devices::all().swap_remove(0);
    // Alone and in batches.
    for (name, batch) in shipped::NAMES.into_iter().zip([1, 4].into_iter().cycle()) {
        check_shipped(name, device, &options, batch);
    }
}

#[test]
fn shipped_models_solve_their_problems_on_lavapipe() {
    if let Some(options) = devices::gpu("llvmpipe") {
        shipped::NAMES.iter().for_each(|name| check_shipped(name, "lavapipe", &options, 8));
    }
}

#[test]
fn shipped_models_solve_their_problems_on_swiftshader() {
    if let Some(options) = devices::gpu("SwiftShader") {
        shipped::NAMES.iter().for_each(|name| check_shipped(name, "SwiftShader", &options, 8));
    }
}

/// Answers and difficulties worked out from the text of a prompt, at the last `queries` words.
fn worked_out(name: &str, prompt: &str, queries: usize) -> (Vec<String>, Vec<usize>) {
    let words: Vec<&str> = prompt.split(' ').collect();
    let all: Vec<(String, usize)> = match name {
        "follow" => {
            let arrows: HashMap<&str, &str> = words.windows(2).filter_map(|pair| Some((pair[0], pair[1].strip_prefix('>')?))).collect();
            let end = |start: &str| {
                let (mut at, mut hops) = (start.to_string(), 0);
                while arrows[at.as_str()] != at {
                    (at, hops) = (arrows[at.as_str()].to_string(), hops + 1);
                }
                (at, hops)
            };
            words.iter().filter_map(|word| word.strip_prefix('?')).map(end).collect()
        }
        "cups" => {
            let (mut ball, mut swaps) = (String::new(), 0);
            let mut step = |word: &&str| {
                if let Some(cup) = word.strip_prefix('@') {
                    (ball, swaps) = (cup.to_string(), 0);
                } else {
                    let (a, b) = word.split_at(1);
                    ball = if ball == a {
                        b
                    } else if ball == b {
                        a
                    } else {
                        &ball
                    }
                    .to_string();
                    swaps += 1;
                }
                (ball.clone(), swaps)
            };
            words.iter().map(&mut step).collect()
        }
        "add" => {
            // The digits as numbers of any length, added by the schoolbook; the carry's way is read off backwards.
            let (equals, columns) = words.split_last().unwrap();
            assert_eq!(*equals, "=", "one sum a prompt");
            let sums: Vec<u32> = columns.iter().map(|column| column.split('+').map(|digit| digit.parse::<u32>().unwrap()).sum()).collect();
            let mut carry = 0;
            let mut digits: Vec<u32> = sums
                .iter()
                .map(|sum| {
                    let s = sum + carry;
                    carry = s / 10;
                    s % 10
                })
                .collect();
            digits.push(carry);
            let way = |column: usize| match column {
                0 => 0,
                n => 1 + sums[1..n].iter().rev().take_while(|sum| **sum == 9).count(),
            };
            digits.iter().enumerate().map(|(column, digit)| (digit.to_string(), way(column))).collect()
        }
        other => panic!("how are the answers of {other} worked out?"),
    };
    all[all.len() - queries..].iter().cloned().unzip()
}

#[test]
fn the_problems_are_right() {
    for name in shipped::NAMES {
        for problem in problems(name) {
            let (answers, hops) = worked_out(name, problem["prompt"].as_str().unwrap(), problem["queries"].as_u64().unwrap() as usize);
            assert_eq!(answers, strings(&problem["answers"]), "{name}: {}", problem["prompt"]);
            assert_eq!(serde_json::json!(hops), problem["hops"], "{name}: {}", problem["prompt"]);
        }
    }
}

/// What `refrain sweep` prints about a model's problems on the CPU.
fn sweep(name: &str, loops: &str, form: &str) -> String {
    let args = ["sweep", name, "--loops", loops, "--format", form, "--device", "cpu", "--quiet"];
    let output = Command::new(env!("CARGO_BIN_EXE_refrain")).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The hardest question that a model was trained with, and how often a guess is right.
fn promised(name: &str) -> (u64, f64) {
    match name {
        "follow" => (6, 0.38),
        "cups" => (8, 0.2),
        "add" => (8, 0.5),
        other => panic!("what does the README of {other} promise?"),
    }
}

#[test]
fn more_loops_solve_harder_questions() {
    for name in shipped::NAMES {
        let (trained, chance) = promised(name);
        // (loops allowed, hops, right, loops used) of every question
        let mut asked: Vec<(u64, u64, bool, u64)> = Vec::new();
        for line in sweep(name, "1,2,4,8,32,64", "jsonl").lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            for (query, right) in line["correct"].as_array().unwrap().iter().enumerate() {
                let number = |key: &str| line[key][query].as_u64().unwrap();
                asked.push((line["loops"].as_u64().unwrap(), number("hops"), right.as_bool().unwrap(), number("loops_used")));
            }
        }
        let share = |loops: u64, hops: &dyn Fn(u64) -> bool| {
            let some: Vec<bool> = asked.iter().filter(|q| q.0 == loops && hops(q.1)).map(|q| q.2).collect();
            assert!(some.len() >= 10, "{name}: questions enough at {loops} loops");
            some.iter().filter(|right| **right).count() as f64 / some.len() as f64
        };
        assert!(share(32, &|hops| hops <= trained) >= 0.99, "{name}: what was trained");
        assert!(share(32, &|hops| hops.abs_diff(2 * trained) <= 1) >= 0.95, "{name}: twice as hard");
        for few in [1, 2, 4, 8] {
            assert!(share(few, &|hops| hops > few) <= chance + 0.1, "{name}: {few} loops are too few");
        }
        assert!(share(64, &|hops| hops < 32) >= share(32, &|hops| hops < 32), "{name}: too many loops do no harm");
        // So many loops as hops, and one.
        let used: Vec<(u64, u64)> = asked.iter().filter(|q| q.0 == 32).map(|q| (q.1, q.3)).collect();
        let near = used.iter().filter(|(hops, loops)| loops.abs_diff(hops + 1) <= 1).count();
        assert!(near as f64 >= 0.99 * used.len() as f64, "{name}: {near} of {} questions take their hops and one loop", used.len());
    }
}

#[test]
fn the_readmes_show_what_sweep_prints() {
    for name in shipped::NAMES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models").join(name).join("README.md");
        let text = std::fs::read_to_string(path).unwrap();
        let shown =
            text.split("<!-- sweep -->").nth(1).and_then(|rest| rest.split("<!-- /sweep -->").next()).expect("a place for the tables");
        // All but the times and the name of the device.
        let cells = |text: &str| -> Vec<Vec<String>> {
            let mut timed = None;
            let rows = text.lines().filter(|line| line.starts_with('|') && !line.contains("-:"));
            rows.map(|row| {
                let mut cells: Vec<String> = row.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect();
                if cells[0] == "loops" {
                    timed = cells.iter().position(|cell| cell == "ms");
                }
                timed.map(|column| cells.remove(column));
                cells
            })
            .collect()
        };
        let printed = sweep(name, "1,2,4,8,16,32", "md");
        assert_eq!(cells(shown), cells(&printed), "{name}: python report.py {name} writes the tables anew");
        assert!(cells(shown).len() >= 14, "{name}: two tables");
    }
}
