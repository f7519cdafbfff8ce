//! Holds the walls between the rooms of src/ (see `ORDER`) and a few rules of the house that no compiler checks:
//! only the GPU backend names wgpu, no file outgrows `MAX_LINES`, nothing in src can panic by `unwrap` or `todo!`, and
//! WGSL lives in shaders/, not in Rust strings.
//!
//! It reads tokens, not types: comments and strings are blanked first, so documentation may say `.unwrap()` or `wgpu::`.
#![allow(clippy::panic, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// The rooms, lowest first. A room may name itself and the rooms on lower steps; rooms on one step may not name each other,
/// but for the first step, which every room may name.
const ORDER: &[&[&str]] = &[
    &["error", "precision", "tensor"],
    &["kernel"],
    &["backend"],
    &["kernels"],
    &["model"],
    &["tokenizer", "sampler", "hub"],
    &["generate", "shipped"],
    &["cli", "web"],
];
/// An exported macro lives at the crate's root, whatever file it is in: the room that each belongs to.
const MACROS: &[(&str, &str)] = &[("params", "kernel")];
/// These put the rooms together.
const EXEMPT: &[&str] = &["src/lib.rs", "src/main.rs"];
const MAX_LINES: usize = 600;

#[test]
fn the_sources_keep_the_rules_of_the_house() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "shaders", "tests"] {
        collect(&root.join(folder), &mut files);
    }
    assert!(files.iter().any(|file| file.ends_with("src/lib.rs")), "no src/lib.rs below {}", root.display());
    let mut broken = Vec::new();
    for file in files {
        let path = file.strip_prefix(root).expect("collected below the root").to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
        broken.extend(check(&path, &text));
    }
    let list: Vec<String> = broken.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{} broken rule(s):\n{}", list.len(), list.join("\n"));
}

pub fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs" || ext == "wgsl") {
            files.push(path);
        }
    }
}

#[derive(Debug, PartialEq)]
struct Broken {
    path: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

/// Every rule that the file breaks. `path` is relative to the root, with forward slashes.
fn check(path: &str, text: &str) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut report = |line: usize, rule: String| broken.push(Broken { path: path.to_string(), line, rule });
    let lines = text.lines().count();
    if lines > MAX_LINES {
        report(lines, format!("{lines} lines: a file has at most {MAX_LINES}"));
    }
    if path.starts_with("src/") && path.ends_with(".rs") {
        for (index, _) in text.lines().enumerate().filter(|(_, line)| line.contains("@compute")) {
            report(index + 1, "WGSL in Rust: a shader is a file in shaders/".to_string());
        }
        let tokens = tokens(&blank(text));
        check_panics(&tokens, &mut report);
        check_wgpu(path, text, &tokens, &mut report);
        if !EXEMPT.contains(&path) {
            check_walls(path, &tokens, &mut report);
        }
    }
    broken
}

fn check_panics(tokens: &[Token], report: &mut impl FnMut(usize, String)) {
    for at in 0..tokens.len() {
        for name in ["todo", "unimplemented"] {
            if spells(&tokens[at..], &[name, "!"]) {
                report(tokens[at].line, format!("`{name}!` in src"));
            }
        }
        if spells(&tokens[at..], &[".", "unwrap", "(", ")"]) {
            report(tokens[at + 1].line, "`.unwrap()` in src: return an Error that says what was expected".to_string());
        }
    }
}

/// wgpu is named only in src/backend/gpu*.rs and src/backend/gpu/, and by lib.rs's re-export behind its feature.
fn check_wgpu(path: &str, text: &str, tokens: &[Token], report: &mut impl FnMut(usize, String)) {
    if path.strip_prefix("src/backend/gpu").is_some_and(|rest| rest.starts_with('/') || !rest.contains('/')) {
        return;
    }
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "wgpu") {
        let statement = at >= 2 && spells(&tokens[at - 2..], &["pub", "use", "wgpu", ";"]);
        let behind_feature = || {
            let above = text.lines().take(token.line).collect::<Vec<_>>();
            above.iter().rev().take(4).any(|line| line.contains("#[cfg(") && line.contains("\"wgpu-interop\""))
        };
        if path != "src/lib.rs" || !statement || !behind_feature() {
            let rule = "wgpu is named only in src/backend/gpu*.rs, and re-exported by lib.rs behind the feature wgpu-interop";
            report(token.line, rule.to_string());
        }
    }
}

/// The step of a room in `ORDER`.
fn step(room: &str) -> Option<usize> {
    ORDER.iter().position(|rooms| rooms.contains(&room))
}

fn check_walls(path: &str, tokens: &[Token], report: &mut impl FnMut(usize, String)) {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let module: Vec<&str> = inner.split('/').collect();
    let Some(own) = step(module[0]) else {
        return report(1, format!("`{}` is no room of the house: give it a step in tests/layering.rs", module[0]));
    };
    // An inline `mod x { … }` is one more level for `super` to climb: the brace depth at which each one opened.
    let (mut depth, mut inline) = (0, Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let rest = &tokens[at..];
        match rest[0].text.as_str() {
            "{" => {
                if at >= 2 && tokens[at - 2].text == "mod" {
                    inline.push(depth);
                }
                depth += 1;
            }
            "}" => {
                depth -= 1;
                if inline.last() == Some(&depth) {
                    inline.pop();
                }
            }
            "crate" | "refrain" | "super" if begins_path(tokens, at) => {
                let mut level = if rest[0].text == "super" { module.len() + inline.len() } else { 0 };
                let mut next = at;
                while tokens.get(next).is_some_and(|token| token.text == "super") {
                    level = level.saturating_sub(1);
                    next += if spells(&tokens[next + 1..], &["::", "super"]) { 2 } else { 1 };
                }
                next += usize::from(level == 0 && rest[0].text != "super");
                if level == 0 && spells(&tokens[next..], &["::"]) {
                    let mut names = Vec::new();
                    first_names(tokens, next + 1, &mut names);
                    for name in names {
                        judge(module[0], own, name, report);
                    }
                } else if level == 0 && spells(&tokens[next..], &["as"]) {
                    report(rest[0].line, "the crate under another name hides which rooms are used".to_string());
                }
                at = next;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
}

/// Whether the token is the first of a path, but for a leading `::` (after a keyword or a sign) or `self::`.
fn begins_path(tokens: &[Token], at: usize) -> bool {
    let keyword = |text: &str| ["self", "use", "as", "dyn", "impl", "in", "mut", "return"].contains(&text);
    let name = |text: &str| !keyword(text) && text.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    at < 2 || tokens[at - 1].text != "::" || !name(&tokens[at - 2].text)
}

/// The names directly below the crate's root in a path or a `use` tree that goes on at `at`: `a` and `b` of `{a::x, b}`.
fn first_names<'a>(tokens: &'a [Token], at: usize, names: &mut Vec<&'a Token>) {
    let Some(first) = tokens.get(at) else { return };
    if first.text != "{" {
        return names.push(first);
    }
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if depth == 1 && ["{", ","].contains(&tokens[index - 1].text.as_str()) => names.push(token),
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

fn judge(room: &str, own: usize, name: &Token, report: &mut impl FnMut(usize, String)) {
    let used = MACROS.iter().find(|(of_macro, _)| name.text == *of_macro).map_or(name.text.as_str(), |(_, room)| room);
    let top = own + 1 == ORDER.len();
    match step(used) {
        _ if used == room => {}
        Some(other) if other == 0 || other < own => {}
        Some(other) if other == own => report(name.line, format!("`{room}` names `{used}`, a room on its own step")),
        Some(_) => report(name.line, format!("`{room}` names `{used}`, a room above it")),
        // Above everything there is nothing to hide: the command line may use the names that lib.rs re-exports.
        None if top => {}
        None => report(name.line, format!("`{room}` names `crate::{used}`: name the room it comes from, not a re-export")),
    }
}

struct Token {
    line: usize,
    text: String,
}

fn spells(tokens: &[Token], words: &[&str]) -> bool {
    tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, word)| token.text == *word)
}

/// Identifiers (and numbers), `::`, and every other character on its own.
fn tokens(blanked: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (index, line) in blanked.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            let length = match first {
                _ if word(first) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            tokens.push(Token { line: index + 1, text: rest[..length].to_string() });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// The text with comments, strings and character literals replaced by spaces; lines stay where they are.
pub fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let begins_word = at == 0 || !word(chars[at - 1]);
        let end = if starts(at, "//") {
            (at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len())
        } else if starts(at, "/*") {
            end_of_comment(at, &starts, chars.len())
        } else if let Some(end) = begins_word.then(|| end_of_raw_string(&chars, at)).flatten() {
            end
        } else if chars[at] == '"' || chars[at] == '\'' && (starts(at + 1, "\\") || chars.get(at + 2) == Some(&'\'')) {
            end_of_quoted(&chars, at) // a string or a character, not a lifetime
        } else {
            out.push(chars[at]);
            at += 1;
            continue;
        };
        out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

fn end_of_comment(at: usize, starts: &impl Fn(usize, &str) -> bool, length: usize) -> usize {
    let (mut depth, mut end) = (1, at + 2);
    while depth > 0 && end < length {
        match (starts(end, "/*"), starts(end, "*/")) {
            (true, _) => (depth, end) = (depth + 1, end + 2),
            (_, true) => (depth, end) = (depth - 1, end + 2),
            _ => end += 1,
        }
    }
    end.min(length)
}

/// The end of `r"…"`, `r#"…"#`, `br#"…"#`, if one begins here.
fn end_of_raw_string(chars: &[char], at: usize) -> Option<usize> {
    let mut open = at + usize::from(matches!(chars[at], 'b' | 'c'));
    if chars.get(open) != Some(&'r') {
        return None;
    }
    open += 1;
    let hashes = chars[open..].iter().take_while(|&&c| c == '#').count();
    if chars.get(open + hashes) != Some(&'"') {
        return None;
    }
    let body = open + hashes + 1;
    let closes = |i: usize| chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
    Some((body..chars.len()).find(|&i| closes(i)).map_or(chars.len(), |i| i + 1 + hashes))
}

fn end_of_quoted(chars: &[char], at: usize) -> usize {
    let mut end = at + 1;
    while end < chars.len() && chars[end] != chars[at] {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    (end + 1).min(chars.len())
}

/// The lines and rules that a sample breaks, as `line: rule`.
fn broken(path: &str, text: &str) -> Vec<String> {
    check(path, text).iter().map(|broken| format!("{}: {}", broken.line, broken.rule)).collect()
}

#[test]
fn the_checker_finds_each_broken_rule() {
    let long = "// line\n".repeat(MAX_LINES + 1);
    let cases: &[(&str, &str, usize, &str)] = &[
        ("src/kernel.rs", "//! x\nuse crate::backend::Pass;\n", 2, "`kernel` names `backend`, a room above it"),
        ("src/kernels/rope.rs", "use crate::{\n    error::Error,\n    model::{Config, kernel},\n};", 3, "`kernels` names `model`"),
        ("src/kernels/rope.rs", "fn f(c: &crate::model::Config) {}", 1, "`kernels` names `model`"),
        ("src/kernels/rope.rs", "fn f(c: &refrain::generate::X) {}", 1, "`kernels` names `generate`"),
        ("src/kernels/rope.rs", "use ::refrain::web;", 1, "`kernels` names `web`"),
        ("src/backend/cpu.rs", "use super::super::model::Config;", 1, "`backend` names `model`"),
        ("src/backend/mod.rs", "use self::super::model::Config;", 1, "`backend` names `model`"),
        ("src/tensor.rs", "use super::{error::Error, web};", 1, "`tensor` names `web`"),
        ("src/tensor.rs", "mod tests {\n    use super::super::model;\n}", 2, "`tensor` names `model`"),
        ("src/tensor.rs", "mod tests { fn f() {} }\nuse super::model;", 2, "`tensor` names `model`"),
        ("src/backend/cpu.rs", "macro_rules! m { () => { $crate::model::x() } }", 1, "`backend` names `model`"),
        ("src/tensor.rs", "use crate::params;", 1, "`tensor` names `kernel`, a room above it"),
        ("src/tokenizer.rs", "use crate::sampler::Sampler;", 1, "a room on its own step"),
        ("src/web.rs", "use crate::cli::Args;", 1, "a room on its own step"),
        ("src/model/block.rs", "use crate::*;", 1, "not a re-export"),
        ("src/model/block.rs", "use crate::Generator;", 1, "not a re-export"),
        ("src/model/block.rs", "use crate as r;", 1, "under another name"),
        ("src/attic.rs", "", 1, "`attic` is no room of the house"),
        ("src/model/block.rs", "fn f() {\n    wgpu::x();\n}", 2, "wgpu is named only"),
        ("src/backend/cpu.rs", "use wgpu as w;", 1, "wgpu is named only"),
        ("src/main.rs", "use wgpu;", 1, "wgpu is named only"),
        ("src/lib.rs", "pub use wgpu;", 1, "wgpu is named only"),
        ("src/lib.rs", "fn f() { todo!() }", 1, "`todo!` in src"),
        ("src/error.rs", "fn f() { unimplemented!(\"x\") }", 1, "`unimplemented!` in src"),
        ("src/error.rs", "fn f() {\n    x\n        .unwrap();\n}", 3, "`.unwrap()` in src"),
        ("src/backend/wgsl.rs", "const X: &str = \"\n@compute @workgroup_size(64)\";", 2, "WGSL in Rust"),
        ("src/error.rs", &long, MAX_LINES + 1, "601 lines"),
        ("shaders/rope.wgsl", &long, MAX_LINES + 1, "601 lines"),
        ("tests/model.rs", &long, MAX_LINES + 1, "601 lines"),
    ];
    for (path, text, line, rule) in cases {
        let found = check(path, text);
        assert!(found.len() == 1 && found[0].line == *line && found[0].rule.contains(rule), "{path}: {text}\nfound {found:?}");
        assert!(found[0].to_string().starts_with(&format!("{path}:{line}: ")));
    }
}

#[test]
fn the_checker_lets_good_code_pass() {
    let cases = [
        ("src/error.rs", "use crate::tensor::Tensor;"),
        ("src/kernels/rope.rs", "use crate::{backend::{self, Pass}, error::Error, kernel::*};\nuse super::swiglu;"),
        ("src/kernels/rope.rs", "use crate::params;\ncrate::params! { Params { rows: u32 } }"),
        ("src/kernels/mod.rs", "pub(crate) mod rope; pub(in crate::kernels) fn f() { crate::kernels::rope::g() }"),
        ("src/generate.rs", "use crate::{sampler::Sampler, tokenizer::Tokenizer, model::Model};"),
        ("src/shipped.rs", "use crate::model::Model;"),
        ("src/cli/mod.rs", "use crate::Generator; use refrain::generate::Generator;"),
        ("src/tensor.rs", "#[cfg(test)]\nmod tests {\n    use super::*;\n    mod deep { use super::super::Tensor; }\n}"),
        ("src/tensor.rs", "//! `crate::model`, wgpu::Device, x.unwrap(), todo!()\n/* /* use crate::web; */ use crate::cli; */"),
        ("src/tensor.rs", "const A: &str = \"crate::model \\\" wgpu\"; const B: &str = r#\"crate::\"model\"#; const C: char = '\"';"),
        ("src/tensor.rs", "fn f<'a>(x: &'a str) -> &'a str { x } // '\"' crate::model"),
        ("src/tensor.rs", "fn f() { x.unwrap_or(1); y.unwrap_or_default(); r#type.wgpu_like() }"),
        ("src/backend/gpu.rs", "use wgpu::Device;"),
        ("src/backend/gpu_cache.rs", "use wgpu::Device;"),
        ("src/backend/gpu/buffers.rs", "use wgpu::Device;"),
        ("src/lib.rs", "/// The wgpu in use.\n#[cfg(feature = \"wgpu-interop\")]\npub use wgpu;"),
        ("src/main.rs", "use refrain::anything;"),
        ("tests/model.rs", "fn f() { x.unwrap(); wgpu::y(); todo!() }"),
    ];
    for (path, text) in cases {
        assert_eq!(broken(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}
