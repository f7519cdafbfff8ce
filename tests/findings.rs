//! What fuzzing has found, and what else was nasty: each file of `findings/TARGET` goes through the door of that target once again. It may
//! be refused, but without a panic, and soon. See fuzz/README.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/src/doors/mod.rs"]
mod doors;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Far more than any takes, on a machine that does much else.
const LONGEST: Duration = Duration::from_secs(5);

#[test]
fn nothing_is_found_twice() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/findings");
    let mut targets: Vec<String> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    targets.sort();
    assert!(!targets.is_empty(), "no folder in {}", root.display());
    let mut broken = Vec::new();
    for target in targets {
        let (_, enter) = doors::ALL.iter().find(|(name, _)| *name == target).unwrap_or_else(|| panic!("no door is called {target}"));
        for entry in fs::read_dir(root.join(&target)).unwrap() {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            let (started, input) = (Instant::now(), std::panic::AssertUnwindSafe(|| enter(&input)));
            if std::panic::catch_unwind(input).is_err() {
                broken.push(format!("{} panics", path.display()));
            }
            if started.elapsed() > LONGEST {
                broken.push(format!("{} takes {:?}", path.display(), started.elapsed()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
