//! What the server may do wrong, and what the user is told.

use super::server::{Answer, COMMIT, Request, Server};
use super::{INDEX, NAME, SHARDS, User, WEIGHTS, golden, in_shards, read, whole};
use crate::cli_run::stderr;

/// Spoils the answers to requests that `is` picks.
fn when(is: impl Fn(&Request) -> bool + Send + 'static, with: impl Fn(Answer) -> Answer + Send + 'static) -> Spoil {
    Box::new(move |request, answer| if is(request) { with(answer) } else { answer })
}

type Spoil = Box<dyn Fn(&Request, Answer) -> Answer + Send>;

#[test]
fn every_refusal_says_what_to_do() {
    fn lookup(request: &Request) -> bool {
        request.path.starts_with("/api/models/")
    }
    fn status(status: u16, code: &'static str) -> Spoil {
        when(lookup, move |_| Answer::new(status, &[("X-Error-Code", code), ("X-Error-Message", "so it is")], ""))
    }
    let page = "<!DOCTYPE html><html>Please log in</html>";
    let padded = move |bytes: usize| format!("{page}{}", " ".repeat(bytes - page.len())).into_bytes();
    let length = read(golden(WEIGHTS)).len();
    let blob = |with: fn(Answer) -> Answer| when(|request| request.gets(WEIGHTS), with);
    let info = |sha: &str, files: &[&str]| {
        let siblings: Vec<_> = files.iter().map(|file| serde_json::json!({ "rfilename": file })).collect();
        let body = serde_json::json!({ "sha": sha, "siblings": siblings }).to_string();
        when(lookup, move |_| Answer::new(200, &[], body.clone()))
    };
    let asked = |name: &'static str, value: &'static str| {
        let is = |request: &Request| request.method == "HEAD" && request.file() == WEIGHTS;
        when(is, move |mut answer| {
            answer.set(name, value);
            answer
        })
    };
    let cases: Vec<(Spoil, &[&str])> = vec![
        (status(401, "RepoNotFound"), &["look it up", "401", "private or gated", "HF_TOKEN"]),
        (status(403, "GatedRepo"), &["403", "gated or private", "ask for access", "HF_TOKEN"]),
        (status(404, "RepoNotFound"), &["404", "no such repository", "private", "check the name"]),
        (status(404, "RevisionNotFound"), &["404", "it has no revision main", "after the @"]),
        (status(429, ""), &["429", "too many requests", "wait"]),
        (status(500, ""), &["500", "out of order", "later"]),
        (status(418, ""), &["418", "not expected", "HF_ENDPOINT"]),
        (when(lookup, move |_| Answer::new(200, &[("Content-Type", "text/html")], page)), &["JSON", "HTML page", "login page"]),
        (when(lookup, |_| Answer::new(200, &[], "{\"sha\": 1}")), &["JSON", "a fault"]),
        (when(lookup, |answer| Answer { cut: Some(5), ..answer }), &["look it up", "connection broke"]),
        (info("../../x\u{1b}[31m", &["config.json", WEIGHTS]), &["the commit \"../../x[31m\""]),
        (info(COMMIT, &[WEIGHTS]), &["has no config.json"]),
        (info(COMMIT, &["config.json", "pytorch_model.bin"]), &["no model.safetensors and no", "safetensors"]),
        (info(COMMIT, &["config.json", "tokenizer.json", INDEX]), &["ask about model.safetensors.index.json", "404", "not there"]),
        (asked("X-Linked-Etag", "\"../../../evil\""), &["ask about model.safetensors", "\"../../../evil\"", "no hash"]),
        (asked("X-Linked-Etag", ""), &["ETag"]),
        (asked("X-Linked-Size", "many"), &["no length"]),
        (asked("X-Linked-Size", "469225"), &["expected 469225 bytes, the server sends 469224"]),
        (asked("Location", "/owner/model/resolve/main/model.safetensors"), &["401"]),
        (
            when(
                |request| request.file() == WEIGHTS,
                |mut answer| {
                    answer.set("Location", "/owner/model/resolve/0123456789abcdef0123456789abcdef01234567/model.safetensors");
                    answer
                },
            ),
            &["redirected 10 times"],
        ),
        (
            when(
                |request| request.method == "GET" && request.file() == WEIGHTS,
                |mut answer| {
                    answer.set("Location", "ftp://127.0.0.1/x");
                    answer
                },
            ),
            &["redirects to no https address"],
        ),
        (blob(|answer| Answer::new(200, &[("Content-Type", "text/html; charset=utf-8")], answer.body)), &["found an HTML page"]),
        (
            when(|request| request.gets(WEIGHTS), move |_| Answer::new(200, &[], padded(length))),
            &["fetch model.safetensors", "an HTML page"],
        ),
        (blob(|answer| Answer::new(200, &[], &answer.body[..1000])), &["expected 469224 bytes, the server sends 1000"]),
        (blob(|answer| Answer::new(200, &[], [&answer.body[..], b"x"].concat())), &["the server sends 469225"]),
        (blob(|answer| Answer { cut: Some(0), ..answer }), &["after 0 of 469224 bytes"]),
        (blob(|_| Answer::new(404, &[], "")), &["404"]),
        (
            blob(|mut answer| {
                answer.body[400_000] ^= 1;
                answer
            }),
            &["another SHA-256", "discarded"],
        ),
    ];
    let server = Server::new(&whole());
    std::thread::scope(|threads| {
        // A server and a user for each, so that they run side by side.
        for (spoil, words) in cases {
            threads.spawn(move || {
                let server = Server::new(&whole());
                server.spoil(spoil);
                let user = User::of(&server);
                let message = user.lacks(NAME, "hub", words);
                assert!(!message.contains('\u{1b}') && !message.contains("secret"), "{message:?}");
                assert!(!user.snapshot(WEIGHTS).exists() && !user.repo().join("refs").exists(), "{words:?}");
                // The same user, the server well again: nothing bad was kept.
                server.heal();
                user.has(NAME);
                assert_eq!((read(user.snapshot(WEIGHTS)), user.leftovers()), (read(golden(WEIGHTS)), 0), "{words:?}");
            });
        }
    });
    let user = User::of(&server);
    user.lacks("hf:owner/model@v9", "hub", &["it has no revision v9", "(Invalid rev id)"]);
    user.lacks("hf:owner/other", "hub", &["401", "no such repository"]);
    user.lacks("hf:owner", "argument", &["hf:owner/repo@revision", "\"hf:owner\""]);
    User { endpoint: "127.0.0.1".into(), ..User::of(&server) }.lacks(NAME, "argument", &["HF_ENDPOINT", "https://"]);
    User::of(&server).with("HF_HUB_DOWNLOAD_TIMEOUT", "soon").lacks(NAME, "argument", &["whole seconds", "soon"]);
    // A cache that cannot be written.
    let user = User::of(&server);
    std::fs::write(user.home.path().join("hub"), "a file").unwrap();
    user.lacks(NAME, "file", &["cannot create", "disk is not full"]);
}

#[test]
fn an_index_names_shards_and_nothing_else() {
    for (shard, words) in [
        ("../../../../evil.safetensors", &["error[format]", "plain file names"][..]),
        ("evil.py", &["error[format]", "plain file names"]),
        (
            "model-00003-of-00003.safetensors",
            &["error[hub]", "no model-00003-of-00003.safetensors, which its model.safetensors.index.json names"],
        ),
    ] {
        let mut files = in_shards();
        let index = serde_json::json!({ "weight_map": { "a": SHARDS[0], "b": shard } }).to_string();
        *files.iter_mut().find(|(file, _)| *file == INDEX).map(|(_, bytes)| bytes).unwrap() = index.into_bytes();
        files.push(("evil.py", Vec::new()));
        let server = Server::new(&files);
        let user = User::of(&server);
        let output = user.run(&["inspect", NAME]);
        assert!(words.iter().all(|text| stderr(&output).contains(text)), "{}", stderr(&output));
        assert!(!server.requests().iter().any(|request| request.elsewhere || request.path.contains("evil")));
    }
}
