//! `refrain bench`, `inspect --config` and `--memory` as processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use serde_json::{Value, json};

use crate::cli_forward::{fails, refrain, succeeds};
use crate::devices;

/// Small enough for a debug build.
const QUICK: [&str; 8] = ["bench", "-p", "6", "-n", "4", "-r", "3", "--device"];

#[test]
fn bench_counts_right() {
    let gpu = devices::gpu("llvmpipe").map(|_| "llvmpipe");
    for device in ["cpu"].into_iter().chain(gpu) {
        let args = [&QUICK[..], &[device, "--loops", "1,3", "-d", "0,8", "--dtype", "q8", "-m", "cups", "--format", "json"]].concat();
        let found: Value = serde_json::from_str(&succeeds(&args)).unwrap();
        assert_eq!((&found["model"], &found["config"]), (&json!("cups"), &Value::Null));
        assert_eq!(found["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(found["parameters"]["total"], 333_378);
        assert_eq!(found["memory"]["context"], 14);
        assert_eq!(found["dtypes"].as_object().unwrap().keys().collect::<Vec<_>>(), ["q8"]);
        assert_eq!(found["device"]["adapter"].is_null(), device == "cpu");
        assert_eq!(found["device"]["threads"].is_null(), device != "cpu");
        assert_eq!(found["interrupted"], false);
        let rows = found["rows"].as_array().unwrap();
        let names: Vec<String> = rows.iter().map(|row| format!("{} × {}", row["test"].as_str().unwrap(), row["loops"])).collect();
        let expected = ["pp6 × 1", "tg4 × 1", "pp6 @ d8 × 1", "tg4 @ d8 × 1", "pp6 × 3", "tg4 × 3", "pp6 @ d8 × 3", "tg4 @ d8 × 3"];
        assert_eq!(names, expected);
        for row in rows {
            let number = |path: &str| row.pointer(path).unwrap().as_f64().unwrap();
            let rates: Vec<f64> = row["seconds"].as_array().unwrap().iter().map(|s| number("/tokens") / s.as_f64().unwrap()).collect();
            let mean = rates.iter().sum::<f64>() / 3.0;
            let sd = (rates.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
            let mut sorted = rates.clone();
            sorted.sort_by(f64::total_cmp);
            let near = |found: f64, expected: f64| assert!((found - expected).abs() <= 1e-9 * mean, "{found}, not {expected}: {row}");
            assert_eq!(rates.len(), 3);
            near(number("/tokens_per_second/mean"), mean);
            near(number("/tokens_per_second/sd"), sd);
            near(number("/tokens_per_second/median"), sorted[1]);
            near(number("/loop_steps_per_second/mean") / number("/loops"), mean);
        }
    }
}

#[test]
fn bench_writes_tables() {
    let page = succeeds(&[&QUICK[..], &["cpu", "--loops", "2"]].concat());
    for words in ["follow: 277,794 parameters in f32", "CPU (", "| test | loops |", "|  pp6 |     2 |", "|  tg4 |     2 |"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let commit = option_env!("REFRAIN_COMMIT").map_or(String::new(), |commit| format!(" ({commit})"));
    assert!(page.contains(&format!("\nrefrain {}{commit}, 3 runs a row\n", env!("CARGO_PKG_VERSION"))), "{page}");
    let page = succeeds(&["bench", "-p", "6", "-n", "0", "-r", "3", "--device", "cpu", "--loops", "2", "--format", "csv"]);
    let lines: Vec<Vec<&str>> = page.lines().map(|line| line.split(',').collect()).collect();
    assert!(lines.len() == 2 && lines[0].len() == lines[1].len(), "{page}");
    let at = |name: &str| lines[1][lines[0].iter().position(|head| *head == name).unwrap()];
    assert_eq!((at("model"), at("dtype"), at("test"), at("loops"), at("runs")), ("follow", "f32", "pp6", "2", "3"));
}

/// One prompt and one generation, and no more than it takes.
const TIMED: [&str; 11] = ["bench", "-p", "5", "-n", "3", "-r", "2", "--loops", "2", "--roofline", "--device"];

#[test]
fn bench_measures_rooflines() {
    for (device, _) in devices::all() {
        let found: Value = serde_json::from_str(&succeeds(&[&TIMED[..], &[device, "--format", "json"]].concat())).unwrap();
        let roofline = &found["roofline"];
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{device}: {value} in {roofline}"));
        for (kind, unit, ways) in [("read", "bytes_per_second", 4), ("fma", "flops_per_second", 2)] {
            let measured: Vec<f64> = roofline[kind]["measured"].as_array().unwrap().iter().map(|way| number(&way[unit])).collect();
            assert!(measured.len() == ways && measured.iter().all(|rate| (1e6..1e16).contains(rate)), "{device}: {roofline}");
            assert_eq!(number(&roofline[kind][unit]), measured.iter().copied().fold(0.0, f64::max), "{device}: the best of all");
        }
        let (read, fma) = (number(&roofline["read"]["bytes_per_second"]), number(&roofline["fma"]["flops_per_second"]));
        let rows = roofline["rows"].as_array().unwrap();
        let tests: Vec<_> = rows.iter().map(|row| (row["test"].as_str().unwrap(), row["loops"].as_u64().unwrap())).collect();
        assert_eq!(tests, [("pp5", 2), ("tg3", 2)], "{device}");
        for row in rows {
            assert_eq!(row["clock"], if device == "cpu" { "host" } else { "device" });
            let kernels = row["kernels"].as_array().unwrap();
            let names: Vec<&str> = kernels.iter().map(|kernel| kernel["kernel"].as_str().unwrap()).collect();
            for name in ["embed", "attention", "recur", "top", if row["test"] == "pp5" { "matmul" } else { "matvec" }] {
                assert!(names.contains(&name), "{device}: no {name} in {row}");
            }
            // Once a token and loop, in one pass or token by token.
            let ends = kernels.iter().find(|kernel| kernel["kernel"] == "recur").unwrap();
            assert_eq!(ends["calls"], if row["test"] == "pp5" { 2 } else { 6 }, "{device}: {row}");
            for kernel in kernels {
                let seconds = number(&kernel["seconds"]);
                assert!(kernel["weights"] == "f32" && seconds >= 0.0, "{device}: {kernel}");
                // What is unknown is null, and so is what follows from it.
                for (work, rate) in [("bytes", "bytes_per_second"), ("flops", "flops_per_second")] {
                    assert!(kernel[work].is_null() == kernel[rate].is_null() && kernel[work] != 0, "{device}: {kernel}");
                }
                let [bytes, flops] = ["bytes", "flops"].map(|key| kernel[key].as_f64().unwrap_or(0.0));
                let least = (bytes / read).max(flops / fma);
                assert_eq!(kernel["share_of_roofline"].is_null(), least == 0.0, "{device}: {kernel}");
                let share = kernel["share_of_roofline"].as_f64().unwrap_or(0.0) * seconds.max(1e-9);
                assert!((share - least).abs() <= 1e-6 * least, "{device}: {kernel}");
            }
            assert!(kernels.iter().any(|kernel| kernel["flops"].is_null()), "{device}: an embedding computes nothing: {row}");
            assert!(row["runs"] == 2 && number(&row["plain_seconds"]) > 0.0, "{device}: {row}");
            let sum: f64 = kernels.iter().map(|kernel| number(&kernel["seconds"])).sum();
            assert!((sum - number(&row["kernel_seconds"])).abs() <= 1e-9, "{device}: {row}");
            assert!(number(&row["lost_seconds"]) >= 0.0 && sum <= number(&row["seconds"]), "{device}: {row}");
        }
        assert!(found["commit"].is_null() || found["commit"].is_string(), "{found}");
    }
    // Long enough that the last digits of milliseconds do not count.
    let args = ["bench", "-p", "0", "-n", "24", "-r", "2", "--loops", "16", "--roofline", "--device", "cpu", "--dtype", "q8"];
    let page = succeeds(&args);
    for words in [
        "GB/s read (",
        "GFLOP/s (",
        "the better of both",
        "the fastest of 2 runs: ",
        " (plain run ",
        "the clock of the CPU",
        "| % of roofline |",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    // The last row sums up: its rates are those of the kernels of which they are known.
    let (_, table) = page.split_once("\ntg24, 16 loops, ").unwrap();
    let cells: Vec<Vec<&str>> =
        table.lines().filter_map(|line| Some(line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").map(str::trim).collect())).collect();
    let (head, all) = (&cells[0], &cells[cells.len() - 1]);
    let at = |row: &[&str], name: &str| row[head.iter().position(|cell| *cell == name).unwrap()].parse::<f64>().ok();
    assert!(cells.iter().any(|row| row[1] == "q8") && all[0] == "all" && at(all, "% of time") == Some(100.0), "{page}");
    for (rate, work) in [("GB/s", "MB"), ("GFLOP/s", "GFLOP/s"), ("% of roofline", "% of roofline")] {
        let (mut works, mut times) = (0.0, 0.0);
        for row in &cells[2..cells.len() - 1] {
            if let (Some(work), Some(ms)) = (at(row, work), at(row, "ms")) {
                works += if rate == "GB/s" { work } else { work * ms };
                times += ms;
            }
        }
        let found = at(all, rate).unwrap();
        assert!((found - works / times).abs() <= 0.02 * found + 0.02, "{rate}: {found}, not {}: {page}", works / times);
    }
    assert!(cells.iter().flatten().any(|cell| *cell == "–") && table.contains("\n\n–: "), "{page}");
}

#[test]
fn bench_counts_the_threads_that_there_are() {
    let run = |args: &[&str]| {
        let output = command(&[&["bench", "-p", "2", "-n", "0", "-r", "1", "--loops", "1", "--device", "cpu"], args].concat());
        String::from_utf8({ output }.env("RAYON_NUM_THREADS", "3").output().unwrap().stdout).unwrap()
    };
    assert!(run(&[]).contains("\nCPU (3 threads)  \n"));
    assert_eq!(serde_json::from_str::<Value>(&run(&["--format", "json"])).unwrap()["device"]["threads"], 3);
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_refrain"));
    command.args(args).env("REFRAIN_PIPELINE_CACHE", "off");
    command
}

#[cfg(unix)]
mod on_unix {
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    use serde_json::Value;

    use super::command;

    /// Runs a bench with -v, which says when it begins with a row, and presses Ctrl-C at the beginning of number `at`, counted from 0.
    fn interrupted(args: &[&str], at: usize) -> (Output, String) {
        let args = [&["bench", "-v", "--device", "cpu"], args].concat();
        let mut child = command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.by_ref().filter(|line| line.contains(" loop")).nth(at).is_some(), "{args:?}");
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let last = lines.last().unwrap_or_default();
        (child.wait_with_output().unwrap(), last)
    }

    #[test]
    fn ctrl_c_keeps_what_is_complete() {
        // No row: as many runs as a number can be are no reason to count wrong.
        let (output, last) = interrupted(&["-r", &usize::MAX.to_string(), "--loops", "1"], 0);
        assert_eq!(
            (output.status.code(), output.stdout.as_slice(), last.as_str()),
            (Some(130), &b""[..], "interrupted: 0 of 2 rows are complete")
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        // Runs enough that Ctrl-C comes before they end.
        let args = ["-p", "1", "-n", "128", "-r", "8", "--format", "json", "--trace", path.to_str().unwrap()];
        // The first row, and nothing of a profile.
        let (output, last) = interrupted(&[&args[..], &["--loops", "64"]].concat(), 1);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), found["interrupted"].as_bool()), (Some(130), Some(true)), "{found}");
        assert_eq!((found["rows"].as_array().unwrap().len(), last.as_str()), (1, "interrupted: 1 of 2 rows are complete"));
        assert!(!path.exists());
        // All rows, and the profile of the prompt.
        let (output, last) = interrupted(&[&args[..], &["--loops", "64", "--roofline"]].concat(), 3);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), found["interrupted"].as_bool()), (Some(130), Some(true)), "{found}");
        assert_eq!((found["rows"].as_array().unwrap().len(), last.as_str()), (2, "interrupted: 2 of 2 rows are complete"));
        let profiled = found["roofline"]["rows"].as_array().unwrap();
        assert!(profiled.len() == 1 && profiled[0]["test"] == "pp1", "{found}");
        let (named, _) = events(&path);
        assert_eq!((named("prompt"), named("token")), (1, 0));
    }

    /// How many events of a trace have a name; the text after the trace.
    fn events(path: &Path) -> (impl Fn(&str) -> usize + use<>, String) {
        let text = std::fs::read_to_string(path).unwrap();
        let (trace, rest) = text.split_once('\n').unwrap();
        let trace: Value = serde_json::from_str(trace).unwrap_or_else(|error| panic!("{error}: {text}"));
        let named = move |name: &str| trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["name"] == name).count();
        (named, rest.to_string())
    }

    #[test]
    fn traces_go_wherever_a_path_leads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        // A reader that is gone before there is anything to read costs no trace.
        let args = ["bench", "-p", "2", "-n", "1", "-r", "1", "--loops", "1", "--device", "cpu", "--trace"];
        let mut child =
            command(&[&args[..], &[path.to_str().unwrap()]].concat()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(events(&path).0("token"), 1);
        // Pipes and files that the shell opened; where two things go into one, both are in it.
        let shell = |redirected: &str| {
            let script = format!("\"$0\" {} {redirected}", args.join(" "));
            let done = Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_refrain")]).current_dir(folder.path()).output().unwrap();
            assert!(done.status.success() && done.stderr.is_empty(), "{redirected}: {}", String::from_utf8_lossy(&done.stderr));
            done.stdout
        };
        for (redirected, table) in [
            ("/dev/stdout | cat >both", true),
            ("/dev/fd/3 3>&1 >/dev/null | cat >both", false),
            ("/dev/stdout >both", true),
            ("both >both", true),
            ("/dev/stderr 2>both >/dev/null", false),
        ] {
            assert_eq!(shell(redirected), b"", "{redirected}");
            let (named, rest) = events(&folder.path().join("both"));
            assert_eq!((named("prompt"), named("token")), (1, 1), "{redirected}");
            assert_eq!((rest.starts_with("follow: "), rest.is_empty()), (table, !table), "{redirected}: {rest}");
            std::fs::remove_file(folder.path().join("both")).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }
}

#[test]
fn bench_writes_traces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    for (device, _) in devices::all() {
        let args = ["bench", "-p", "5", "-n", "3", "-r", "1", "--loops", "2", "--device", device, "--trace", path.to_str().unwrap()];
        succeeds(&args);
        let trace: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let name = |tid: u64| events.iter().find(|event| event["tid"] == tid && event["name"] == "thread_name");
        assert!(name(1).is_some() && name(2).unwrap()["args"]["name"] == "host", "{device}: both tracks have names");
        let track = |tid: u64| events.iter().filter(move |event| event["ph"] == "X" && event["tid"] == tid);
        for tid in [1, 2] {
            // Nanoseconds, so that nothing is a matter of rounding.
            let mut around: Vec<i64> = Vec::new();
            let mut last = 0;
            for event in track(tid) {
                let nanos = |key: &str| (1e3 * event[key].as_f64().unwrap()).round() as i64;
                let (begin, end) = (nanos("ts"), nanos("ts") + nanos("dur"));
                assert!(begin >= last && end >= begin, "{device}: {event} begins before {last}");
                last = begin;
                around.retain(|outer| *outer > begin);
                assert!(around.iter().all(|outer| *outer >= end), "{device}: {event} ends after what it is in: {around:?}");
                assert!(tid == 2 || around.is_empty(), "{device}: a device runs one kernel at a time: {event}");
                around.push(end);
            }
        }
        let named = |tid: u64, name: &str| track(tid).filter(|event| event["name"] == name).count();
        // A prompt of two loops and three tokens of two.
        assert_eq!((named(1, "recur"), named(2, "prompt"), named(2, "token")), (8, 1, 3), "{device}");
        assert_eq!(named(2, "submit") > 0 && named(2, "wait") > 0, device != "cpu", "{device}");
        let end = track(1).find(|event| event["name"] == "recur").unwrap();
        assert!(end["args"]["rows"] == 5 && end["args"]["bytes"].as_u64() > Some(0), "{device}: {end}");
        // What nobody knows is not there.
        let works = || track(1).flat_map(|event| ["bytes", "flops", "GB/s", "GFLOP/s"].map(|key| &event["args"][key]));
        assert!(works().all(|work| work.is_null() || work.as_f64() > Some(0.0)) && works().any(Value::is_null), "{device}");
        // Kernels run while the host is at a prompt or a token, as far as two clocks can be compared on a machine with other things to do.
        let span = |events: &mut dyn Iterator<Item = &Value>| {
            events
                .map(|event| (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap()))
                .fold((f64::MAX, 0f64), |(begin, end), (ts, dur)| (begin.min(ts), end.max(ts + dur)))
        };
        let (kernels, host) = (span(&mut track(1)), span(&mut track(2)));
        assert!(kernels.0 > host.0 - 1e3 && kernels.1 < host.1 + 2e4, "{device}: {kernels:?} µs of the device, {host:?} of the host");
    }
    // Whole or not at all, and known beforehand: a wrong path costs no measurement.
    let before = std::fs::read(&path).unwrap();
    fails(&["bench", "-p", "5", "-n", "3", "--loops", "99999999", "--device", "cpu", "--trace", path.to_str().unwrap()], "loops", &[]);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let missing = folder.path().join("missing/trace.json");
    fails(&["bench", "--repeat", "1000000", "--trace", missing.to_str().unwrap()], "file", &["write", "missing/trace.json"]);
    fails(&["bench", "--repeat", "1000000", "--trace", folder.path().to_str().unwrap()], "file", &["write"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn what_a_driver_compiled_is_kept_where_the_user_says() {
    if devices::gpu("llvmpipe").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = |variable: &str, value: &std::ffi::OsStr| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refrain"));
        command.args(["run", "-p", "a >b ?a", "--device", "llvmpipe"]).env_remove("REFRAIN_PIPELINE_CACHE").current_dir(folder.path());
        // Wherever the system keeps caches, it is in here.
        for home in ["HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"] {
            command.env(home, folder.path().join("home"));
        }
        let output = command.env(variable, value).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let kept = |below: &str| {
        let files =
            std::fs::read_dir(folder.path().join(below)).into_iter().flatten().map(|file| file.unwrap().file_name().into_string().unwrap());
        files.filter(|name| name.starts_with("wgpu_pipeline_cache")).count()
    };
    run("REFRAIN_PIPELINE_CACHE", "off".as_ref());
    assert_eq!(kept("home/refrain") + kept("off") + kept("."), 0);
    run("REFRAIN_PIPELINE_CACHE", folder.path().join("own").as_ref());
    assert_eq!((kept("own"), kept("home/refrain")), (1, 0));
    if cfg!(target_os = "linux") {
        run("REFRAIN_PIPELINE_CACHE", "".as_ref());
        assert_eq!((kept("own"), kept("home/refrain")), (1, 1));
        // A relative folder is ignored.
        run("XDG_CACHE_HOME", "relative".as_ref());
        assert_eq!((kept("home/.cache/refrain"), kept("relative/refrain")), (1, 0));
    }
}

#[test]
fn bench_refuses_what_cannot_be() {
    fails(&["bench", "--roofline", "--format", "csv"], "argument", &["--format", "md or json"]);
    for option in ["--roofline", "--trace=never-written.json"] {
        fails(&["bench", option, "--device", "shadow"], "argument", &["--device", "shadow"]);
    }
    fails(&["bench", "-p", "129"], "context", &["129 positions", "max_seq_len has 128"]);
    fails(&["bench", "-n", "8", "-d", "121"], "context", &["max_seq_len has 128"]);
    fails(&["bench", "-p", "0", "-n", "0"], "argument", &["at least 1 token"]);
    fails(&["bench", "-r", "0"], "argument", &["--repeat", "at least 1"]);
    fails(&["bench", "--loops", "4,0", "--device", "cpu"], "loops", &["0 loops"]);
    fails(&["bench", "--trace", "-", "--device", "cpu"], "argument", &["--trace", "/dev/stdout", "./-"]);
    // No model has as many, however it is loaded.
    let output = refrain(&["bench", "--loops", "99999999999", "--device", "cpu"]);
    assert!(String::from_utf8_lossy(&output.stderr).ends_with("\n  hint: ask for fewer loops\n"), "{output:?}");
    fails(&["bench", "--config", "mythos_2b"], "argument", &["--config", "mythos_1b, mythos_3b", "mythos_2b"]);
    fails(
        &["bench", "--config", "mythos_1t", "--memory", "1TiB", "--device", "cpu"],
        "memory",
        &["the model needs", "has 1.0 TiB to spare"],
    );
}

#[test]
fn commands_know_memory_and_dtype() {
    // What does not fit says what would, and that does.
    let args = ["run", "-p", "a >b ?a", "--device", "cpu", "--memory"];
    let output = refrain(&[&args[..], &["3.5MiB"]].concat());
    let err = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(
        output.status.code() == Some(1) && err.contains("error[memory]: the model needs") && err.contains("with a context of 64"),
        "{err}"
    );
    succeeds(&[&args[..], &["3.5MiB", "-c", "64"]].concat());
    assert_eq!(succeeds(&["run", "-p", "a >b b >c ?a", "--device", "cpu", "--dtype", "q8"]).split(' ').next_back(), Some("c\n"));
    succeeds(&["sweep", "follow", "--limit", "1", "--loops", "2", "--device", "cpu", "--dtype", "f16"]);
    for (size, bytes) in [("4096", 4096u64), ("1.5KiB", 1536), ("2 MiB", 2 << 20), ("3gb", 3_000_000_000), ("1TiB", 1 << 40)] {
        let args = ["inspect", "follow", "--device", "cpu", "--format", "json", "--memory", size];
        let found: Value = serde_json::from_str(&succeeds(&args)).unwrap();
        assert_eq!(found["device"]["memory_bytes"], bytes, "{size}");
    }
    for size in ["", "0", "1.5", "-1", "8XB", "GiB", "1e9", "99999999TiB", "1..5GiB", "8G"] {
        let output = refrain(&["inspect", "follow", &format!("--memory={size}")]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && err.contains("--memory") && err.contains("KiB, MiB"), "{size:?}: {err}");
    }
    let output = refrain(&["inspect", "follow", "--dtype", "q5"]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && err.contains("f32, f16, q8 or q4"), "{err}");
}

#[test]
fn inspect_knows_published_sizes() {
    for name in refrain::model::published::NAMES {
        let args = ["inspect", "--config", name, "--device", "cpu", "--dtype", "q4", "--memory", "16GiB", "--sequences", "2"];
        let page = succeeds(&args);
        let wide: Vec<&str> = page.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty() && page.contains("weight matrices in q4") && page.contains("2 × "), "{wide:?} in {page}");
        let found: Value = serde_json::from_str(&succeeds(&[&args[..], &["--format", "json"]].concat())).unwrap();
        assert_eq!((&found["published"], &found["model"]), (&json!(name), &Value::Null));
        assert_eq!(found["cache"]["sequences"], 2);
        let device = &found["device"];
        let sum: u64 = ["weights", "cache", "state", "work"].map(|part| device[format!("{part}_bytes")].as_u64().unwrap()).iter().sum();
        assert_eq!(device["total_bytes"], sum);
        assert_eq!(device["fits"], sum <= 16 << 30);
        assert_eq!(device["reason"].is_null(), device["fits"] == true);
        assert_eq!(device["would_fit_with"].is_null(), device["fits"] == true);
    }
    let found: Value =
        serde_json::from_str(&succeeds(&["inspect", "--config", "mythos_10b", "--device", "cpu", "--memory", "20GiB", "--format", "json"]))
            .unwrap();
    assert_eq!(found["device"]["would_fit_with"], json!([{"dtype": "f16"}]));
    let page = succeeds(&["inspect", "--config", "mythos_1b", "--tensors", "--device", "cpu"]);
    assert!(page.contains("recurrent.block.ffn.routed_experts.63.down.weight") && page.contains("(2048, 2048)"), "{page}");
    fails(&["inspect", "--config", "nothing"], "argument", &["--config", "mythos_1t", "nothing"]);
    for args in [&["inspect"][..], &["inspect", "follow", "--config", "mythos_1b"]] {
        assert_eq!(refrain(args).status.code(), Some(2), "exactly one of both: {args:?}");
    }
}
