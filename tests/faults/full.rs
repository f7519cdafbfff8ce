//! A disk that is full after so many bytes, for ever more of them: what is being written does not come to be, and what was there stays. A limit
//! on the size of files stands for the disk.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::convert::{check_error, golden, names};

/// The program, where no file may have more than so many blocks of 512 bytes (or of 1024, as the shell counts).
pub fn limited(blocks: u32) -> Command {
    let mut command = Command::new("sh");
    // Without the trap the signal would end the program, which a full disk does not send.
    command.args(["-c", "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"", "sh", &blocks.to_string(), env!("CARGO_BIN_EXE_refrain")]);
    command
}

/// Runs it with ever more room until there is enough; `fails` judges each run before that. Returns how many there were.
fn more_and_more(args: &[&Path], mut fails: impl FnMut(u32, &Output)) -> usize {
    let limits = [0, 1, 2, 3].into_iter().chain((2..).flat_map(|n| [1u32 << n, (1 << n) + (1 << (n - 1))]));
    for (runs, blocks) in limits.enumerate() {
        let output = limited(blocks).args(args).output().unwrap();
        if output.status.success() {
            return runs;
        }
        assert!(blocks < 1 << 20, "{}", String::from_utf8_lossy(&output.stderr));
        fails(blocks, &output);
    }
    unreachable!("limits without end");
}

/// A folder that is made: not there before, or empty before.
fn folders(what: &str, args: &[&Path], least: usize) {
    for exists in [false, true] {
        let temp = TempDir::new().unwrap();
        let out = temp.path().join("out");
        if exists {
            fs::create_dir(&out).unwrap();
        }
        let before = names(temp.path());
        let args = [args, &[&out]].concat();
        let runs = more_and_more(&args, |_, output| {
            check_error(output, "file", &["cannot write", out.to_str().unwrap()]);
            assert_eq!(names(temp.path()), before);
            assert!(!exists || names(&out).is_empty());
        });
        assert!(runs >= least, "{what}: {runs} runs");
        assert_eq!(names(temp.path()), ["out"], "{what}");
        let check = Command::new(env!("CARGO_BIN_EXE_refrain")).args(["inspect", "--check", "--device", "cpu"]).arg(&out).output().unwrap();
        assert!(check.status.success(), "{what}: {}", String::from_utf8_lossy(&check.stderr));
        println!("{what}: the disk full at each of {runs} sizes");
    }
}

#[test]
fn quantising() {
    let args = ["quantize", "--dtype", "q4", "follow"].map(Path::new);
    folders("quantize", &args, 10);
}

#[test]
fn converting() {
    let (checkpoint, config) = (golden("checkpoints/gqa_bare.pt"), golden("gqa_bare/config.json"));
    let args = [Path::new("convert"), Path::new("--config"), &config, &checkpoint];
    folders("convert", &args, 8);
}

#[test]
fn a_file_that_is_written_over_stays() {
    let temp = TempDir::new().unwrap();
    let out = temp.path().join("out.safetensors");
    fs::write(&out, "what was there").unwrap();
    let inputs = golden("gqa_tiny/golden.safetensors");
    let args = [Path::new("forward"), &golden("gqa_tiny"), Path::new("--device"), Path::new("cpu")];
    let args = [&args[..], &[Path::new("--inputs"), &inputs, Path::new("--out"), &out]].concat();
    let runs = more_and_more(&args, |_, output| {
        check_error(output, "file", &["cannot write", out.to_str().unwrap()]);
        assert_eq!((names(temp.path()), fs::read(&out).unwrap()), (vec!["out.safetensors".into()], b"what was there".to_vec()));
    });
    assert!(runs > 5 && names(temp.path()).len() == 1 && fs::read(&out).unwrap().len() > 1000, "{runs} runs");
    println!("forward --out: the disk full at each of {runs} sizes");
}
