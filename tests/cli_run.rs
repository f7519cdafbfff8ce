//! `refrain`, `refrain run` and `refrain sweep` as processes: what they print, on every device, and how they refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use refrain::shipped::NAMES;
use serde_json::Value;

use crate::devices;

/// A problem of each shipped model with its predictions at every token.
const FOLLOW: (&str, &str) = ("a >b b >c c >d d >d ?a ?b", "j a b b c c c d d d\n");
const CUPS: (&str, &str) = ("@1 12 23 34 13 45 25 14 @3 13 12 25 35 45", "1 2 3 4 4 5 2 2 3 1 2 5 3 3\n");
/// What follow says if it is made to continue: three prompts, a line each.
const PROMPTS: &str = "k >w v >h w >h ?v\nc >a a >b b >d d >d ?c e >f\na >b b >c c >d d >d ?a\n";
const GREEDY: &str = "h w h w h w w w w w w w\nd d d d d d d d d d d d\nd d d d d d d d d d d d\n";

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_refrain"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end with this standard input.
pub fn fed(args: &[&str], input: &str) -> Output {
    let mut child = command(args).spawn().unwrap();
    // A program that does not read closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a successful run prints on the CPU.
pub fn said(args: &[&str], input: &str) -> String {
    let output = fed(&[args, &["--device", "cpu"]].concat(), input);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn shipped(model: &str, file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "examples/models", model, file].iter().collect()
}

fn problems(model: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(shipped(model, "problems.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

#[test]
fn answers_are_the_same_text_on_every_device() {
    let sampled = ["--no-in-place", "-n", "12", "--temp", "2", "-s", "7"];
    let (sampled_text, cups) = ("d d m c g g d d g d d g\n", format!("{}\n", CUPS.0));
    let cases: [(&[&str], &str, &str); 4] = [
        (&[], FOLLOW.0, FOLLOW.1),
        (&["-m", "cups"], &cups, CUPS.1),
        (&["--no-in-place", "-n", "12"], PROMPTS, GREEDY),
        (&sampled, "c >a a >b b >d d >d ?c e >f", sampled_text),
    ];
    std::thread::scope(|threads| {
        for (device, _) in devices::all() {
            for (args, input, expected) in cases {
                threads.spawn(move || {
                    let output = fed(&[&["run", "-i", "--device", device], args].concat(), input);
                    assert!(output.status.success(), "{device} {args:?}: {}", stderr(&output));
                    assert_eq!(stdout(&output), expected, "{device} {args:?}");
                });
            }
        }
    });
}

#[test]
fn alone_it_fails_with_few_loops_and_is_right_with_many() {
    let text = said(&[], "");
    assert!(text.starts_with("refrain 0.1.0 on CPU"), "{text}");
    for model in NAMES {
        let (_, part) = text.split_once(&format!("\n{model}: ")).unwrap();
        let mut blocks = part.split("\n\n");
        let ladder: Vec<Vec<&str>> = blocks.next().unwrap().lines().map(|line| line.split_whitespace().collect()).collect();
        let ladder = &ladder[ladder.iter().position(|row| row.starts_with(&["loops", "right"])).unwrap()..];
        // The prompt is a deep problem of the model's own, with its answers below it.
        let (below, tokens): (Vec<&str>, Vec<&str>) = blocks.next().unwrap().split_whitespace().partition(|word| word.ends_with('✓'));
        let counted = tokens.iter().map(|token| token.split_once('·').unwrap_or((token, "1")));
        let (words, counts): (Vec<&str>, Vec<&str>) = counted.unzip();
        let problem = problems(model).into_iter().find(|problem| words.join(" ").ends_with(problem["prompt"].as_str().unwrap())).unwrap();
        let list = |value: &Value| value.as_array().unwrap().clone();
        assert!(list(&problem["hops"]).iter().any(|hops| hops.as_u64().unwrap() >= 8), "{problem}");
        let right: Vec<String> = list(&problem["answers"]).iter().map(|answer| format!("{}✓", answer.as_str().unwrap())).collect();
        assert_eq!((&below, &ladder[0][2..]), (&right.iter().map(String::as_str).collect(), &words[words.len() - right.len()..]));
        // Right with the last number of loops, and with no smaller one.
        for (index, row) in ladder[1..].iter().enumerate() {
            let solved = row[2..].iter().zip(&right).filter(|(found, right)| found == right).count();
            assert_eq!(row[..2], [(2 << index).to_string(), format!("{solved}/{}", right.len())], "{text}");
            assert_eq!(row[2..].iter().filter(|found| found.ends_with('✗')).count(), right.len() - solved, "{text}");
            assert_eq!(solved == right.len(), index + 2 == ladder.len(), "{text}");
        }
        // As many loops as the package counted, if so many were allowed.
        let cap = 1 << (ladder.len() - 1);
        let counts = counts.iter().map(|count| count.trim_end_matches('+').parse::<u64>().unwrap());
        assert!(counts.eq(list(&problem["package"]["loops_used"]).iter().map(|loops| loops.as_u64().unwrap().min(cap))), "{text}");
    }
    assert!(text.lines().count() <= 45, "a screen of\n{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "a line of more than 80 columns in\n{text}");
    assert_eq!(text, said(&[], ""), "it says the same every time");
    // What it says to try next works as it stands.
    let next = text.lines().skip_while(|line| *line != "Next:").skip(1).find(|line| line.contains("run -p")).unwrap();
    let prompt = next.split('"').nth(1).unwrap();
    assert!(said(&["run", "-p", prompt, "--show", "loops"], "").contains("?a·4"));
}

#[test]
fn a_prompt_comes_from_an_option_a_file_or_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt");
    std::fs::write(&file, format!("{}\r\n", FOLLOW.0)).unwrap();
    let path = file.to_str().unwrap();
    let line = format!("{}\n", FOLLOW.0);
    let cases: [(&[&str], &str); 6] = [
        (&["-p", FOLLOW.0], ""),
        (&["-f", path], ""),
        (&["-f", "-"], &line),
        (&[], &line),
        (&["-i"], &line),
        (&["--prompt-ids", "0,27,1,28,2,29,3,29,52,53"], ""),
    ];
    for (args, input) in cases {
        assert_eq!(said(&[&["run"], args].concat(), input), FOLLOW.1, "{args:?}");
    }
    let model = shipped("follow", "");
    assert_eq!(said(&["run", "-m", model.to_str().unwrap()], &line), FOLLOW.1, "the same model as a folder");
}

#[test]
fn a_generation_obeys_its_options() {
    let prompt = PROMPTS.lines().next().unwrap();
    let run = |args: &[&str]| said(&[&["run", "--no-in-place", "-p", prompt], args].concat(), "");
    assert_eq!(run(&["-n", "0"]), "\n");
    assert_eq!(run(&["-n", "3"]), "h w h\n");
    assert_eq!(run(&["-n", "3", "--ids"]), "7 22 7\n");
    assert_eq!(run(&["-n", "12", "--stop", "nothing", "--stop", " w w w"]), "h w h w h\n");
    assert_eq!(run(&["-n", "3", "--show", "loops"]), "h·1 w·2 h·1\n");
    assert_eq!(run(&["-n", "2", "--show", "loops", "--loops", "5", "--exit", "fixed"]).matches("·5").count(), 2);
    assert_eq!(run(&["-n", "2", "--show", "loops", "--loops", "3", "--min-loops", "3"]).matches("·3").count(), 2);
    assert_eq!(run(&["-n", "2", "--show", "loops", "--loops", "40", "--exit", "fixed"]).matches("·40").count(), 2, "beyond the default");
    let drawn = |seed: &str| run(&["-n", "20", "--temp", "2", "-s", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    for filter in [["--top-k", "1"], ["--top-p", "0.001"], ["--min-p", "0.999"]] {
        assert_eq!(run(&["-n", "3", "--temp", "2", filter[0], filter[1]]), "h w h\n", "{filter:?} leaves only the best");
    }
    // Without -n, to the end of the context.
    assert_eq!(run(&["-c", "20"]).split_whitespace().count(), 20 - 7);
}

#[test]
fn loops_are_shown_as_the_package_counts_them() {
    for model in NAMES {
        let problems = &problems(model)[..25];
        let prompts: String = problems.iter().map(|problem| format!("{}\n", problem["prompt"].as_str().unwrap())).collect();
        let text = said(&["run", "-m", model, "-i", "--show", "loops"], &prompts);
        let counts: Vec<u64> = text.split_whitespace().filter_map(|word| word.split_once('·')?.1.parse().ok()).collect();
        let expected: Vec<u64> =
            problems.iter().flat_map(|p| p["package"]["loops_used"].as_array().unwrap()).map(|n| n.as_u64().unwrap()).collect();
        assert_eq!(counts, expected, "{model}");
    }
    assert_eq!(
        said(&["run", "-p", FOLLOW.0, "--show", "loops", "--loops", "3"], ""),
        "a·1 >b·1 b·1 >c·1 c·1 >d·1 d·1 >d·1 ?a·3+ ?b·3\nj   a    b   b    c   c    c   d    c     d\n",
        "where the cap ended a token there is a mark"
    );
}

#[test]
fn json_says_everything() {
    let steps = json_lines(&said(&["run", "-p", FOLLOW.0, "--format", "jsonl", "--loops", "3"], ""));
    assert_eq!(steps.len(), 10);
    let keys: Vec<&String> = steps[8].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["exit", "index", "logprob", "loops", "ms", "next", "role", "text", "token"]);
    assert_eq!((&steps[8]["text"], &steps[8]["token"], &steps[8]["loops"]), (&" ?a".into(), &52.into(), &3.into()));
    assert_eq!((&steps[8]["exit"], &steps[9]["exit"]), (&"max".into(), &"halted".into()));
    assert_eq!((&steps[9]["next"]["text"], &steps[9]["next"]["token"], &steps[9]["index"]), (&"d".into(), &3.into(), &9.into()));
    assert!(steps.iter().all(|step| step["role"] == "prompt" && step["ms"].is_f64() && step["next"]["logprob"].as_f64().unwrap() <= 0.0));

    let whole = json_lines(&said(&["run", "-p", FOLLOW.0, "--format", "json"], ""));
    assert_eq!((whole.len(), &whole[0]["model"], &whole[0]["prompt"]), (1, &"follow".into(), &FOLLOW.0.into()));
    assert!(whole[0]["device"].as_str().unwrap().starts_with("CPU") && whole[0].get("text").is_none());
    let predictions: Vec<&str> = whole[0]["predictions"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(predictions.join(" ") + "\n", FOLLOW.1);
    assert_eq!(whole[0]["loops"], serde_json::json!({"cap": 32, "mean": 1.5, "max": 4, "capped": 0}));
    assert_eq!(whole[0]["steps"].as_array().unwrap().len(), 10);

    let args = ["run", "--no-in-place", "-n", "3", "--exit", "fixed", "--loops", "2", "--prompt-ids", "10,48"];
    let whole = json_lines(&said(&[&args[..], &["--format", "json"]].concat(), ""));
    let steps = json_lines(&said(&[&args[..], &["--format", "jsonl"]].concat(), ""));
    let text: String = steps.iter().map(|step| step["text"].as_str().unwrap()).collect();
    assert_eq!((&whole[0]["text"], &whole[0]["prompt"]), (&text.into(), &serde_json::json!([10, 48])));
    assert!(steps.iter().all(|step| step["role"] == "output" && step["exit"] == "fixed" && step["logprob"].is_f64()));
}

#[test]
fn bad_input_is_one_error_and_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(path("latin1"), b"a \xe9").unwrap();
    std::fs::write(path("old"), "old").unwrap();
    let (long, missing, latin1, old, new) = ("a ".repeat(100_000), path("no/file"), path("latin1"), path("old"), path("new"));
    let (ok, names) = (["-p", "a >a ?a"], format!("a shipped model ({})", NAMES.join(", ")));
    let with = |more: &[&'static str]| [&ok[..], more].concat();
    let cases: Vec<(Vec<&str>, &str, &str)> = vec![
        (vec!["-p", "a >b ?ä"], "unknown_word", "\"?ä\""),
        (vec!["-p", ""], "empty_prompt", "empty"),
        (vec![], "empty_prompt", "empty"),
        (vec!["-f", &missing], "file", &missing),
        (vec!["-f", &latin1], "format", "after 2 bytes"),
        (vec!["--prompt-ids", "3,99999"], "token", "99999"),
        (vec!["-p", &long[..100_000]], "context", "50000 positions"),
        (with(&["--no-in-place", "-n", "100000"]), "context", "100003 positions"),
        (with(&["-c", "2"]), "context", "3 positions asked for, but"),
        (with(&["-c", "0"]), "argument", "context"),
        (with(&["--loops", "0"]), "loops", "0 loops"),
        (with(&["--loops", "70000"]), "loops", "70000 loops"),
        (with(&["--loops", "4", "--min-loops", "9"]), "argument", "min-loops"),
        (with(&["--temp", "-1"]), "argument", "temperature"),
        (with(&["--temp", "NaN"]), "argument", "temperature"),
        (with(&["--top-p", "0"]), "argument", "top_p"),
        (with(&["--min-p", "1"]), "argument", "min_p"),
        (with(&["-m", "no-such-model"]), "argument", &names),
        // Too short for a name on the Hub; without the feature no such name is known.
        (with(&["-m", "hf:owner"]), if cfg!(feature = "hub") { "argument" } else { "hub" }, "hf:owner"),
        ([&ok[..], &["-o", &missing]].concat(), "file", &missing),
        (vec!["-p", "nonsense", "-o", &old], "unknown_word", "nonsense"),
        (vec!["-p", "nonsense", "-o", &new], "unknown_word", "nonsense"),
        (vec!["-f", &old, "-o", &old], "argument", "which this run reads"),
        (vec!["-f", "/dev/zero"], "format", "at most 16 MiB"),
    ];
    for (args, code, text) in cases {
        let output = fed(&[&["run", "--device", "cpu"], &args[..]].concat(), "");
        let message = stderr(&output);
        let shown: Vec<String> = args.iter().map(|arg| arg.chars().take(40).collect()).collect();
        assert_eq!(output.status.code(), Some(1), "{shown:?}: {message}");
        assert!(message.contains(&format!("error[{code}]: ")) && message.contains(text), "{shown:?}: {message}");
        assert_eq!((stdout(&output).as_str(), message.matches("error[").count()), ("", 1), "{shown:?}: {message}");
    }
    assert_eq!(std::fs::read_to_string(path("old")).unwrap(), "old", "a run that fails leaves the file as it was");
    assert!(!Path::new(&new).exists(), "a run that fails leaves no empty file");

    // Notes and errors that cannot be written are no reason to lose the answer, or to panic.
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let run = |args: &[&str]| command(&[&["run", "--device", "cpu"], args].concat()).stderr(full()).output().unwrap();
    assert_eq!(run(&["-p", "a >a ?a", "--top-p", "7"]).status.code(), Some(1));
    assert_eq!(stdout(&run(&["-p", "a >a ?a", "-v"])), "j a a\n");
    let missing = fed(&["run", "--device", "no such device", "-p", "a"], "");
    assert!(missing.status.code() == Some(1) && stderr(&missing).contains("error[no_adapter]"), "{}", stderr(&missing));
    for args in [&["-p", "a", "-i"][..], &["-n", "-1"], &["--format", "yaml"], &["--show", "everything"], &["a >b"]] {
        assert_eq!(fed(&[&["run"], args].concat(), "").status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn an_answer_goes_to_a_file_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("answer");
    std::fs::write(&file, "something much longer than what will be written").unwrap();
    assert_eq!(said(&["run", "-p", FOLLOW.0, "-o", file.to_str().unwrap()], ""), "");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), FOLLOW.1);
    if cfg!(target_os = "linux") {
        let output = fed(&["run", "--device", "cpu", "-p", FOLLOW.0, "-o", "/dev/full"], "");
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("error[file]: cannot write /dev/full"), "{}", stderr(&output));
    }
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    for args in [
        &[][..],
        &["run", "-i"],
        &["run", "-i", "--format", "jsonl"],
        &["sweep", "follow", "--format", "jsonl"],
        &["sweep", "cups", "-l", "2"],
    ] {
        let mut child = command(&[args, &["--device", "cpu"]].concat()).spawn().unwrap();
        drop(child.stdout.take());
        let mut input = child.stdin.take().unwrap();
        let _ = input.write_all(PROMPTS.as_bytes());
        drop(input);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_conversation_goes_on_after_an_error() {
    let input = format!("{}\n\nno such word\n{}", FOLLOW.0, FOLLOW.0);
    let output = fed(&["run", "-i", "--device", "cpu"], &input);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), FOLLOW.1.repeat(2)));
    assert!(stderr(&output).contains("error[unknown_word]: the word \"no\""), "{}", stderr(&output));
    assert!(!stderr(&output).contains("> "), "no prompt where nobody types");
}

/// Enough loops that one token takes a while.
#[cfg(unix)]
#[test]
fn ctrl_c_stops_after_the_text_so_far() {
    let args = ["run", "--device", "cpu", "--no-in-place", "-p", "a ?a", "--loops", "3000", "--exit", "fixed"];
    let mut child = command(&args).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(output.stdout.ends_with(b"\n") && output.stderr.is_empty(), "{:?} {}", stdout(&output), stderr(&output));
}

/// Text without the colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |sum, part| sum + part.split_once('m').unwrap().1)
}

#[test]
fn colour_is_for_those_who_want_it() {
    for args in [&[][..], &["run", "-p", FOLLOW.0, "--show", "loops"]] {
        let (none, always) = (said(args, ""), said(&[args, &["--color", "always"]].concat(), ""));
        assert!(!none.contains('\x1b') && always.contains("\x1b[48;2;"), "{args:?}");
        assert_eq!(plain(&always), none, "{args:?}");
    }
    // NO_COLOR speaks for those who say nothing; --color is more definite.
    let output = command(&["run", "-p", FOLLOW.0, "--show", "loops", "--color", "always", "--device", "cpu"]).env("NO_COLOR", "1").output();
    assert!(stdout(&output.unwrap()).contains("\x1b[48;2;"));
}

const TASK: &str = r#"{"prompt": "a >b b >c c >d d >d ?a ?d", "queries": 2, "answers": ["d", "d"], "hops": [3, 0], "more": 1}

{"prompt": "a >b b >b ?a", "queries": 1, "answers": ["a"], "hops": [1]}
"#;

#[test]
fn a_sweep_counts_right_answers_by_loops_and_hops() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("task.jsonl");
    std::fs::write(&file, TASK).unwrap();
    let path = file.to_str().unwrap();
    let lines = json_lines(&said(&["sweep", "-m", "follow", path, "--loops", "2,32", "--format", "jsonl"], ""));
    let list = |key: &str| lines.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!(list("problem"), [0, 1, 0, 1]);
    assert_eq!(list("loops"), [2, 2, 32, 32]);
    assert_eq!(Value::from(list("hops")), serde_json::json!([[3, 0], [1], [3, 0], [1]]));
    assert_eq!(Value::from(list("correct")), serde_json::json!([[false, true], [false], [true, true], [false]]));
    assert_eq!(Value::from(list("loops_used")), serde_json::json!([[2, 1], [2], [4, 1], [2]]));
    assert_eq!(lines[2]["predicted"], serde_json::json!(["d", "d"]));
    assert!(lines.iter().all(|line| line["ms"].as_f64().unwrap() > 0.0));

    let text = said(&["sweep", "-m", "follow", path, "--loops", "2,32"], "");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(text.starts_with("2 problems with 3 queries on CPU"), "{text}");
    for row in [&["loops", "all", "0", "1", "3", "ms"][..], &["queries", "3", "1", "1", "1"], &["32", "2.3", "1.0", "2.0", "4.0", "1.00"]] {
        assert!(rows.iter().any(|found| found == row), "expected {row:?} in\n{text}");
    }
    for row in [["2", "33", "100", "0", "0"], ["32", "66", "100", "0", "100"]] {
        assert!(rows.iter().any(|found| found.starts_with(&row)), "expected {row:?} in\n{text}");
    }
    let markdown = said(&["sweep", "-m", "follow", path, "--loops", "2,32", "--format", "md", "-l", "1"], "");
    assert!(markdown.contains("| loops | all |") && markdown.contains("1 problem with 2 queries"), "{markdown}");

    // The problems of a model's folder, by path and by name.
    let own = shipped("cups", "problems.jsonl");
    let named = said(&["sweep", "cups", "-l", "3", "--format", "jsonl", "--loops", "32"], "");
    let found = said(&["sweep", own.to_str().unwrap(), "-l", "3", "--format", "jsonl", "--loops", "32"], "");
    for (line, problem) in json_lines(&named).iter().zip(problems("cups")) {
        assert_eq!((&line["predicted"], &line["loops_used"]), (&problem["answers"], &problem["package"]["loops_used"]));
    }
    let timeless = |text: &str| text.lines().map(|line| line.split_once(",\"ms\"").unwrap().0.to_string()).collect::<Vec<_>>();
    assert_eq!(timeless(&named), timeless(&found));
}

#[test]
fn a_sweep_ranks_loops_against_hops() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("task.jsonl");
    // TASK's queries are 3, 0 and 1 arrows deep: they take 4, 1 and 2 loops, and with 2 loops at most 2, 1 and 2. By rank:
    // 3 1 2, and 2.5 1 2.5; with 1 loop at most, all the same. What the file calls hops is free.
    let ranked = |hops: &[&str]| {
        let mut lines: Vec<Value> = json_lines(&TASK.replace("\n\n", "\n"));
        lines.truncate(hops.len());
        for (line, hops) in lines.iter_mut().zip(hops) {
            line["hops"] = serde_json::from_str(hops).unwrap();
        }
        std::fs::write(&file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        let text = said(&["sweep", "-m", "follow", file.to_str().unwrap(), "--loops", "1,2,32"], "");
        let rows: Vec<String> = text.lines().filter_map(|line| line.split_whitespace().last()).map(String::from).collect();
        rows[rows.len() - 4..].to_vec()
    };
    // Ranks 3 1 2 less the mean: 1 -1 0, the loops' 0.5 -1 0.5: 1.5 / √(2 · 1.5) = 0.866…, cut off.
    assert_eq!(ranked(&["[3, 0]", "[1]"]), ["Spearman", "–", "0.86", "1.00"]);
    // The other way round.
    assert_eq!(ranked(&["[0, 3]", "[1]"]), ["Spearman", "–", "-0.86", "-1.00"]);
    // Ranks 1.5 1.5 3 less the mean: -0.5 -0.5 1, the loops' 0.5 -1 0.5: 0.75 / 1.5; and 1 -1 0: 0.
    assert_eq!(ranked(&["[0, 0]", "[9]"]), ["Spearman", "–", "0.50", "0.00"]);
    // All hops the same; one query; hops known of some problems only, and only those count.
    assert_eq!(ranked(&["[2, 2]", "[2]"]), ["Spearman", "–", "–", "–"]);
    assert_eq!(ranked(&["null", "[1]"]), ["Spearman", "–", "–", "–"]);
    assert_eq!(ranked(&["[3, 0]", "null"]), ["Spearman", "–", "1.00", "1.00"]);
    assert!(!ranked(&["null", "null"]).contains(&"Spearman".to_string()), "no hops, no column");

    let lines = json_lines(&said(&["sweep", "-m", "follow", file.to_str().unwrap(), "--format", "jsonl"], ""));
    assert!(lines.iter().all(|line| line.get("hops").is_none()));
    // Many queries, counted in words and in the table.
    let many = format!("{}\n", TASK.lines().next().unwrap()).repeat(600);
    std::fs::write(&file, many).unwrap();
    let text = said(&["sweep", "-m", "follow", file.to_str().unwrap(), "--loops", "1"], "");
    assert!(text.starts_with("600 problems with 1,200 queries on CPU"), "{text}");
    assert!(text.lines().any(|line| line.split_whitespace().eq(["queries", "1,200", "600", "600"])), "{text}");
}

#[test]
fn only_what_was_typed_is_answered() {
    let add = |args: &[&str]| said(&[&["run", "-m", "add"], args].concat(), "");
    assert_eq!(add(&["-p", "9+1 9+0 9+0 ="]), "0 0 0 1\n", "not at the `=` that the tokenizer puts before");
    assert_eq!(add(&["-p", "9+1 9+0 9+0 =", "--show", "loops"]), "=·1 9+1·1 9+0·2 9+0·3 =·4\n0   0     0     0     1\n");
    assert_eq!(add(&["--prompt-ids", "11,103,102,11"]).split_whitespace().count(), 4, "ids are all typed");
}

#[test]
fn a_sweep_asks_one_prompt() {
    let text = said(&["sweep", "-p", FOLLOW.0, "--expect", "d d", "--loops", "2,4"], "");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().take(7).collect()).collect();
    assert_eq!(rows[1..], [["2", "c", "c", "✗", "✗", "2", "2"], ["4", "d", "d", "✓", "✓", "4", "3"]], "{text}");
    let text = said(&["sweep", "-p", FOLLOW.0, "--loops", "32", "--format", "jsonl"], "");
    assert_eq!(json_lines(&text)[0]["predicted"], serde_json::json!(["d"]));
}

#[test]
fn a_bad_task_is_refused_by_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = TASK.lines().next().unwrap();
    let cases = [
        ("{\"prompt\": \"a\"", "task:2: expected a JSON object"),
        (r#"{"prompt": "a", "queries": 1}"#, "missing field `answers`"),
        (r#"{"prompt": 1, "queries": 1, "answers": ["a"]}"#, "found a fault: invalid type"),
        (r#"{"prompt": "a", "queries": 0, "answers": []}"#, "task:2: expected queries of at least 1, found 0"),
        (r#"{"prompt": "a", "queries": 1, "answers": ["a", "b"]}"#, "task:2: expected 1 answers, one a query, found 2"),
        (r#"{"prompt": "a", "queries": 1, "answers": ["a"], "hops": []}"#, "task:2: expected 1 hops"),
        (r#"{"prompt": "a", "queries": 2, "answers": ["a", "b"]}"#, "found 1 tokens and 2 queries"),
        (r#"{"prompt": "what", "queries": 1, "answers": ["a"]}"#, "task:2: expected a prompt that the model can read"),
    ];
    let file = folder.path().join("task");
    let refused = |args: &[&str], code: &str, text: &str| {
        let output = fed(&[&["sweep", "--device", "cpu"], args].concat(), "");
        let message = stderr(&output);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""), "{args:?}: {message}");
        assert!(message.contains(&format!("error[{code}]")) && message.contains(text), "{args:?}: expected {text:?} in {message}");
    };
    for (line, text) in cases {
        std::fs::write(&file, format!("{good}\n{line}\n")).unwrap();
        refused(&["-m", "follow", file.to_str().unwrap()], "format", text);
    }
    std::fs::write(&file, "\n").unwrap();
    refused(&["-m", "follow", file.to_str().unwrap()], "format", "found no problem");
    std::fs::write(&file, good).unwrap();
    refused(&[file.to_str().unwrap()], "file", "config.json");
    refused(&["no/such/file"], "file", "no/such/file");
    refused(&["follow", "--loops", "4,0"], "loops", "0 loops");
    refused(&["follow", "-l", "0"], "argument", "--limit");
    refused(&["-p", "a", "--queries", "0"], "argument", "--queries");
}
