//! A load in which one read goes wrong, for every read.

use std::cell::Cell;
use std::fs;
use std::path::Path;

use pollster::block_on;
use refrain::Model;
use refrain::model::Options;
use refrain::model::files::Source;
use tempfile::TempDir;

use super::{Fault, MODELS, Spoiled, files, on_cpu, open, small};
use crate::devices;

/// Every read of a load fails once, and ends too early once. After each fault the same source loads where `again` says so.
fn sweep(model: &str, options: &Options, again: bool) -> usize {
    let files = Spoiled::new(files(model));
    let source = files.source();
    open(&source, options).unwrap();
    let reads = files.reads();
    for fault in [Fault::Refused as fn(usize) -> Fault, Fault::Short] {
        for (at, file) in reads.iter().enumerate() {
            let fault = fault(at);
            files.spoil(fault.clone());
            let error = open(&source, options).err().unwrap_or_else(|| panic!("{model}: a load in spite of {fault:?} in {file}"));
            assert_eq!(files.reads().len(), at + 1, "{model}: nothing is read after {fault:?}");
            let message = error.to_string();
            assert!(error.code() == "file" && message.starts_with(&format!("cannot read spoiled/{file}: ")), "{fault:?}: {message}");
            files.spoil(Fault::None);
            if again {
                open(&source, options).unwrap_or_else(|error| panic!("{model} after {fault:?}: {error}"));
                assert_eq!(files.reads(), reads, "{model} after {fault:?}");
            }
        }
    }
    open(&source, options).unwrap();
    reads.len()
}

#[test]
fn every_read_of_a_load() {
    for model in MODELS {
        let reads = sweep(model, &on_cpu(), true);
        println!("{model}: {reads} reads, each refused and cut short on the CPU");
        assert!(reads > 40, "{model}: {reads} reads");
    }
}

#[test]
fn every_read_of_a_load_onto_a_gpu() {
    let Some(device) = devices::gpu("llvmpipe") else { return };
    for model in MODELS {
        let reads = sweep(model, &small(device.clone()), false);
        println!("{model}: {reads} reads, each refused and cut short on lavapipe");
    }
}

/// The files of a shipped model in a folder.
fn folder(model: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    files(model).iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
    folder
}

/// A file on disk that is cut off before any of its pieces is read.
#[test]
fn weights_that_become_shorter_between_any_two_reads() {
    for model in MODELS {
        let folder = folder(model);
        let weights = folder.path().join("model.safetensors");
        let whole = fs::read(&weights).unwrap();
        let source = Source::folder(folder.path()).unwrap();
        // A load during which the file loses its numbers after so many pieces.
        let load = |cut_after: usize| {
            let pieces = Cell::new(0);
            let cut = &mut |_| {
                pieces.set(pieces.get() + 1);
                if pieces.get() == cut_after {
                    fs::OpenOptions::new().write(true).open(&weights).unwrap().set_len(1000).unwrap();
                }
            };
            (block_on(Model::open(&source, &on_cpu(), cut)), pieces.get())
        };
        let (loaded, pieces) = load(usize::MAX);
        loaded.unwrap();
        for cut_after in 1..pieces {
            let error = load(cut_after).0.err().unwrap_or_else(|| panic!("{model}: a load of what is not there after {cut_after} pieces"));
            let expected = format!("cannot read {}: the file became shorter while it was read", weights.display());
            assert_eq!(error.to_string(), expected, "after {cut_after} pieces");
            fs::write(&weights, &whole).unwrap();
        }
        load(usize::MAX).0.unwrap();
        println!("{model}: cut off on disk before each of {} pieces", pieces - 1);
    }
}

/// Each file cut off at some length, and each that the system cannot read, by a file of Linux that gives an I/O error.
#[test]
fn files_that_are_cut_off_or_cannot_be_read() {
    for model in MODELS {
        let folder = folder(model);
        let load = || open(&Source::folder(folder.path())?, &on_cpu()).map(drop);
        for name in ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"] {
            let path = folder.path().join(name);
            let whole = fs::read(&path).unwrap();
            let fails = |code: &[&str], what: &str| {
                let error = load().err().unwrap_or_else(|| panic!("{model}: a load with {name} {what}"));
                let message = error.to_string();
                assert!(
                    code.contains(&error.code()) && message.contains(path.to_str().unwrap()),
                    "{name} {what}: {} {message}",
                    error.code()
                );
            };
            for part in 0..16 {
                fs::write(&path, &whole[..whole.len() * part / 16]).unwrap();
                fails(&["format", "config", "tokenizer"], &format!("cut to {part}/16"));
            }
            if cfg!(target_os = "linux") && name != "model.safetensors" {
                fs::remove_file(&path).unwrap();
                link(Path::new("/proc/self/mem"), &path);
                fails(&["file"], "that gives an I/O error");
                fs::remove_file(&path).unwrap();
            }
            fs::write(&path, &whole).unwrap();
            load().unwrap();
        }
    }
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) {
    std::os::unix::fs::symlink(to, at).unwrap();
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) {}
