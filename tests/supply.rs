//! What the program is made of: `unsafe` only where SECURITY.md lists it, dependencies from one registry only, wasm-bindgen pinned.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;

use crate::layering::{blank, collect};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn unsafe_code_is_only_where_security_md_lists_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "examples"] {
        collect(&root.join(folder), &mut files);
    }
    let mut found = BTreeMap::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|ext| ext == "rs")) {
        let text = std::fs::read_to_string(path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
        for (line, code) in blank(&text).lines().enumerate() {
            if code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
                *found.entry(name.clone()).or_insert(0) += 1;
                let reasoned = text.lines().take(line).collect::<Vec<_>>().iter().rev().take(4).any(|above| above.contains("// SAFETY:"));
                assert!(reasoned || code.contains("unsafe extern"), "{name}:{}: unsafe without a line // SAFETY: above it", line + 1);
            }
        }
    }
    let listed: BTreeMap<String, usize> = read("SECURITY.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            let name = cells.next()?.trim().strip_suffix('`')?.to_string();
            Some((name, cells.next()?.trim().parse().unwrap_or_else(|_| panic!("SECURITY.md: expected a number of times in: {line}"))))
        })
        .collect();
    assert_eq!(found, listed, "left: unsafe in the sources, right: in the table of SECURITY.md");
}

#[test]
fn dependencies_come_from_one_registry_and_wasm_bindgen_is_pinned() {
    let (manifest, lock) = (read("Cargo.toml"), read("Cargo.lock"));
    let sources: Vec<&str> = lock.lines().filter(|line| line.starts_with("source = ")).collect();
    assert!(sources.iter().all(|source| source.starts_with("source = \"registry+") && *source == sources[0]), "{sources:?}");
    let (packages, sums) = (lock.matches("[[package]]").count(), lock.matches("\nchecksum = ").count());
    assert_eq!(sums, packages - 1, "every package but refrain itself has its sum in Cargo.lock");
    for name in ["js-sys", "wasm-bindgen", "wasm-bindgen-futures"] {
        let locked = lock.split(&format!("name = \"{name}\"\nversion = \"")).nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let pin = format!("{name} = {{ version = \"={locked}\"");
        assert!(manifest.contains(&pin), "Cargo.toml: expected {pin}, as Cargo.lock has it");
    }
}
