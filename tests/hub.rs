//! `hf:owner/repo`: models fetched from a server of the tests' own, which behaves as the Hub does or is made to misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod full;
mod refusals;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use refrain::hub::{Event, HubName, Options, fetch};
use safetensors::SafeTensors;

use self::server::{Answer, COMMIT, REPO, Request, Server, sha256};
use crate::cli_run::stderr;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const NAME: &str = "hf:owner/model";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

fn golden(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden/gqa_tiny", file].iter().collect()
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// A model with its weights in one file, and things beside it that nobody wants.
fn whole() -> Vec<(&'static str, Vec<u8>)> {
    let tokenizer = [env!("CARGO_MANIFEST_DIR"), "examples/models/follow/tokenizer.json"].iter().collect::<PathBuf>();
    vec![
        ("config.json", read(golden("config.json"))),
        ("generation_config.json", b"{}".to_vec()),
        ("tokenizer.json", read(tokenizer)),
        (WEIGHTS, read(golden(WEIGHTS))),
        ("README.md", b"# A model".to_vec()),
        ("pytorch_model.bin", b"PK\x03\x04".to_vec()),
        ("modeling.py", b"import os".to_vec()),
    ]
}

/// The same weights in two files, without anything that a model may lack.
fn in_shards() -> Vec<(&'static str, Vec<u8>)> {
    let bytes = read(golden(WEIGHTS));
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let halves = tensors.split_at(tensors.len() / 2);
    let (mut files, mut map) = (vec![("config.json", read(golden("config.json")))], BTreeMap::new());
    for (shard, half) in SHARDS.into_iter().zip([halves.0, halves.1]) {
        map.extend(half.iter().map(|(tensor, _)| (tensor.clone(), shard)));
        let bytes = safetensors::serialize(half.iter().map(|(tensor, view)| (tensor.as_str(), view)), None).unwrap();
        files.push((shard, bytes));
    }
    files.push((INDEX, serde_json::json!({ "metadata": {}, "weight_map": map }).to_string().into_bytes()));
    files
}

/// A user's machine: a cache, and the address of the Hub.
struct User {
    home: tempfile::TempDir,
    endpoint: String,
    variables: Vec<(&'static str, String)>,
}

impl User {
    fn of(server: &Server) -> Self {
        Self { home: tempfile::tempdir().unwrap(), endpoint: server.endpoint.clone(), variables: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refrain"));
        let of_hub = |name: &str| name.starts_with("HF_") || name.to_ascii_lowercase().ends_with("_proxy");
        std::env::vars().filter(|(name, _)| of_hub(name)).for_each(|(name, _)| _ = command.env_remove(name));
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &self.endpoint).env("HF_HUB_DOWNLOAD_TIMEOUT", "20");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(args).args(["--device", "cpu"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// `inspect` finds the model whole; what it says on stderr.
    fn has(&self, name: &str) -> String {
        let output = self.run(&["inspect", name]);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    }

    /// `inspect` fails with this code and these words, in one error with a hint; what it says.
    fn lacks(&self, name: &str, code: &str, words: &[&str]) -> String {
        let output = self.run(&["inspect", name]);
        let message = stderr(&output);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{words:?}: {message}");
        assert_eq!(message.matches("error[").count(), 1, "{message}");
        assert!(message.contains(&format!("error[{code}]: ")), "{words:?}: {message}");
        words.iter().for_each(|text| assert!(message.contains(text), "no {text:?} in: {message}"));
        assert!(message.contains("\n  hint: ") || code == "argument", "{message}");
        message
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--owner--model")
    }

    fn snapshot(&self, file: &str) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT).join(file)
    }

    fn partial(&self) -> PathBuf {
        self.repo().join("blobs").join(format!("{}.incomplete", sha256(&read(golden(WEIGHTS)))))
    }

    /// Names in the folder of the snapshot.
    fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.snapshot("")) else { return Vec::new() };
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn leftovers(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.repo().join("blobs")) else { return 0 };
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some()).count()
    }
}

/// What `forward` writes.
fn forward(user: &User, model: &str) -> Vec<u8> {
    let out = user.home.path().join("out.safetensors");
    let inputs = golden("golden.safetensors");
    let args = ["forward", model, "--inputs", inputs.to_str().unwrap(), "--out", out.to_str().unwrap(), "--trace"];
    let output = user.run(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    read(out)
}

#[test]
fn names_have_one_form() {
    for (text, repo, revision) in [
        ("hf:owner/repo", "owner/repo", "main"),
        ("hf:a/b-c_d.e1@v1.0+x", "a/b-c_d.e1", "v1.0+x"),
        ("hf:a/b@refs/pr/1", "a/b", "refs/pr/1"),
        ("hf:a/b@main", "a/b", "main"),
    ] {
        let name: HubName = text.parse().unwrap();
        assert_eq!((name.repo(), name.revision(), name.to_string().as_str()), (repo, revision, text));
    }
    let long = format!("hf:a/{}", "b".repeat(97));
    for text in [
        "owner/repo",
        "hf:",
        "hf:a",
        "hf:/b",
        "hf:a/",
        "hf:a/b/c",
        "hf:a/b@",
        "hf:../b",
        "hf:a/..",
        "hf:a/b..c",
        "hf:a/.b",
        "hf:-a/b",
        "hf:a--b/c",
        "hf:a/b@..",
        "hf:a/b@/x",
        "hf:a/b@x//y",
        "hf:a/b@x/../y",
        "hf:a/b@x@y",
        "hf:a/b@x y",
        "hf:a/b?c",
        "hf:a/b#c",
        "hf:a/b%2e",
        "hf:a\\b/c",
        "hf:a/b@.git",
        "hf:a/b@-x",
        "hf:ä/b",
        "hf:a/b\n",
        &long,
    ] {
        let error = text.parse::<HubName>().unwrap_err();
        assert!(error.code() == "argument" && error.to_string().contains("hf:owner/repo"), "{text:?}: {error}");
    }
}

#[test]
fn a_fetched_model_computes_what_its_folder_does() {
    let (one, many) = (Server::new(&whole()), Server::new(&in_shards()));
    for (server, weights) in [(&one, &[WEIGHTS][..]), (&many, &SHARDS)] {
        let user = User::of(server);
        let expected = forward(&user, golden("").to_str().unwrap());
        assert!(server.requests().is_empty());
        assert_eq!(forward(&user, NAME), expected);
        let requests = server.requests();
        for file in weights {
            assert_eq!(requests.iter().filter(|request| request.gets(file)).count(), 1, "{file}: {requests:#?}");
            let link = user.snapshot(file);
            let blob = user.repo().join("blobs").join(sha256(&read(&link)));
            assert_eq!(link.canonicalize().unwrap(), blob.canonicalize().unwrap(), "the layout of the other tools");
            assert!(!cfg!(unix) || link.read_link().unwrap().starts_with("../../blobs"));
        }
        assert_eq!(std::fs::read_to_string(user.repo().join("refs/main")).unwrap(), COMMIT);
        assert_eq!(user.leftovers(), 0);
        // Again: one request, which commit main is.
        assert_eq!(forward(&user, NAME), expected);
        let requests = server.requests();
        assert!(requests.len() == 1 && requests[0].path.ends_with("/revision/main"), "{requests:#?}");
        // Another revision of the same commit needs no byte, and a blob whose link is gone needs none either.
        assert_eq!(user.has("hf:owner/model@refs/pr/1"), "");
        assert_eq!(std::fs::read_to_string(user.repo().join("refs/refs/pr/1")).unwrap(), COMMIT);
        std::fs::remove_file(user.snapshot(weights[0])).unwrap();
        user.has(&format!("hf:owner/model@{COMMIT}"));
        assert!(!server.requests().iter().any(|request| request.elsewhere));
    }
    // Nothing but the model is fetched.
    let user = User::of(&one);
    user.has(NAME);
    assert_eq!(user.files(), ["config.json", "generation_config.json", WEIGHTS, "tokenizer.json"]);
    let user = User::of(&many);
    user.has("hf:owner/model@v1");
    assert_eq!(user.files(), ["config.json", SHARDS[0], SHARDS[1], INDEX]);
    assert!(!user.repo().join("refs/main").exists());
    // Wherever a model is named.
    for args in [&["run", "-m", NAME, "--ids", "-p", "1 2", "-n", "1"][..], &["doctor", NAME], &["sweep", "-m", NAME, "-p", "a"]] {
        let output = user.run(args);
        assert!(!stderr(&output).contains("error[hub]") && !stderr(&output).contains("error[argument]: --model"), "{}", stderr(&output));
        assert!(server_saw(&many), "{args:?}");
    }
}

fn server_saw(server: &Server) -> bool {
    !server.requests().is_empty()
}

#[test]
fn what_was_cut_off_goes_on_where_it_stopped() {
    let server = Server::new(&whole());
    let weights = read(golden(WEIGHTS));
    let half = weights.len() / 2;
    let cut = move |request: &Request, answer: Answer| match request.gets(WEIGHTS) {
        true => Answer { cut: Some(half), ..answer },
        false => answer,
    };
    let ranges = |server: &Server| -> Vec<Option<String>> {
        server.requests().into_iter().filter(|request| request.gets(WEIGHTS)).map(|request| request.range).collect()
    };
    let rest = Some(format!("bytes={half}-"));

    let user = User::of(&server);
    server.spoil(cut);
    let message = user.lacks(NAME, "hub", &["fetch model.safetensors", &format!("after {half} of {} bytes", weights.len()), "goes on"]);
    assert!(!message.contains("secret"), "{message}");
    assert!(!user.snapshot(WEIGHTS).exists(), "no half file under the final name");
    assert_eq!(read(user.partial()), weights[..half]);
    assert!(!user.repo().join("refs/main").exists(), "a branch stands for whole snapshots only");
    assert_eq!(ranges(&server), [None]);
    server.heal();
    user.has(NAME);
    assert_eq!((ranges(&server), read(user.snapshot(WEIGHTS)), user.leftovers()), (vec![rest.clone()], weights.clone(), 0));

    // A server that does not know ranges sends everything: it is not appended.
    let user = User::of(&server);
    std::fs::create_dir_all(user.partial().parent().unwrap()).unwrap();
    std::fs::write(user.partial(), &weights[..half]).unwrap();
    let all = weights.clone();
    server.spoil(move |request, answer| if request.gets(WEIGHTS) { Answer::new(200, &[], all.clone()) } else { answer });
    user.has(NAME);
    assert_eq!((ranges(&server), read(user.snapshot(WEIGHTS))), (vec![rest.clone()], weights.clone()));

    // One that sends other bytes than it was asked for is refused, and what was there stays.
    let user = User::of(&server);
    std::fs::create_dir_all(user.partial().parent().unwrap()).unwrap();
    std::fs::write(user.partial(), &weights[..half]).unwrap();
    server.spoil(|request, mut answer| {
        if request.gets(WEIGHTS) {
            answer.set("Content-Range", "bytes 7-469223/469224");
        }
        answer
    });
    user.lacks(NAME, "hub", &["the server sends", "bytes 7-469223/469224"]);
    assert_eq!(read(user.partial()), weights[..half]);
    ranges(&server);

    // Left-overs that are no beginning of the file, longer than it, or all of it.
    let mut wrong = weights[..half].to_vec();
    wrong[100] ^= 1;
    let long = [&weights[..], b"more"].concat();
    for (left, expected) in [(wrong, vec![rest.clone(), None]), (long, vec![None]), (weights.clone(), vec![])] {
        let user = User::of(&server);
        std::fs::create_dir_all(user.partial().parent().unwrap()).unwrap();
        std::fs::write(user.partial(), left).unwrap();
        server.heal();
        user.has(NAME);
        assert_eq!((ranges(&server), read(user.snapshot(WEIGHTS)), user.leftovers()), (expected, weights.clone(), 0));
    }
}

#[cfg(unix)]
#[test]
fn an_end_from_outside_leaves_a_beginning_that_the_next_run_takes_up() {
    let server = Server::new(&whole());
    let user = User::of(&server);
    server.spoil(|request, answer| match request.gets(WEIGHTS) {
        true => Answer { pause: Duration::from_secs(20), ..answer },
        false => answer,
    });
    let mut child = user.command(&["run", "-m", NAME, "--ids", "-p", "1 2"]).spawn().unwrap();
    let (started, half) = (Instant::now(), read(golden(WEIGHTS)).len() / 2);
    while std::fs::metadata(user.partial()).map_or(0, |data| data.len()) < half as u64 {
        assert!(started.elapsed() < Duration::from_secs(15) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    // As Ctrl-C does, which a shell has its background jobs ignore: so would the child if these tests are one.
    assert!(Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap().success());
    assert!(!child.wait().unwrap().success());
    assert!(!user.snapshot(WEIGHTS).exists());
    server.heal();
    server.requests();
    user.has(NAME);
    let request = server.requests().into_iter().find(|request| request.gets(WEIGHTS)).unwrap();
    assert_eq!((request.range, read(user.snapshot(WEIGHTS))), (Some(format!("bytes={half}-")), read(golden(WEIGHTS))));
}

#[test]
fn two_processes_fetch_a_file_once() {
    let server = Server::new(&whole());
    let user = User::of(&server);
    server.spoil(|request, answer| match request.gets(WEIGHTS) {
        true => Answer { pause: Duration::from_millis(1500), ..answer },
        false => answer,
    });
    let children: Vec<_> = (0..2).map(|_| user.command(&["inspect", NAME]).spawn().unwrap()).collect();
    let said: Vec<String> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            stderr(&output)
        })
        .collect();
    assert_eq!(server.requests().iter().filter(|request| request.gets(WEIGHTS)).count(), 1);
    assert_eq!(
        said.iter().filter(|said| said.contains("waiting for another process that fetches model.safetensors")).count(),
        1,
        "{said:?}"
    );
    assert_eq!(read(user.snapshot(WEIGHTS)), read(golden(WEIGHTS)));
}

#[test]
fn offline_takes_the_cache_or_says_what_it_lacks() {
    let server = Server::new(&in_shards());
    let user = User::of(&server).with("HF_HUB_OFFLINE", "1");
    user.lacks(NAME, "hub", &["offline", "config.json", "of the revision main", "HF_HUB_OFFLINE"]);
    let online = User { variables: Vec::new(), ..user };
    online.has(NAME);
    assert!(server_saw(&server));
    let offline = online.with("HF_HUB_OFFLINE", "TRUE");
    assert_eq!(offline.has(NAME), "");
    offline.has(&format!("hf:owner/model@{COMMIT}"));
    offline.lacks("hf:owner/model@v1", "hub", &["hf:owner/model@v1: ", "of the revision v1"]);
    offline.lacks("hf:owner/other", "hub", &["models--owner--other"]);
    let flagged = User { variables: Vec::new(), ..offline };
    assert!(flagged.run(&["inspect", NAME, "--offline"]).status.success());
    std::fs::remove_file(flagged.snapshot(SHARDS[1])).unwrap();
    let output = flagged.run(&["--offline", "inspect", NAME]);
    assert!(stderr(&output).contains(&format!("{} is missing", SHARDS[1])), "{}", stderr(&output));
    assert!(server.requests().is_empty(), "offline asks nobody");
}

#[test]
fn a_server_that_is_away_is_no_reason_to_fail_with_a_model_in_the_cache() {
    let server = Server::new(&whole());
    let user = User::of(&server);
    user.has(NAME);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{free}");
    let away = User { endpoint: nobody.clone(), ..user };
    let note = away.has(NAME);
    assert!(note.starts_with("note: hf:owner/model: cannot look it up: no answer from 127.0.0.1") && note.contains("the cache"), "{note}");
    assert_eq!(stderr(&away.run(&["inspect", NAME, "-q"])), "");
    away.lacks("hf:owner/model@v1", "hub", &["no answer from 127.0.0.1"]);
    let unknown = User { endpoint: "http://no-such-host.invalid".into(), ..away };
    assert!(unknown.has(NAME).contains("note: "));
    unknown.lacks("hf:owner/other", "hub", &["the name no-such-host.invalid cannot be resolved", "check the network"]);
    // Out of order, or silent.
    let ill = User { endpoint: server.endpoint.clone(), ..unknown };
    server.spoil(|_, _| Answer::new(503, &[], "overloaded"));
    assert!(ill.has(NAME).contains("answered 503"));
    server.spoil(|_, answer| Answer { pause: Duration::from_secs(9), body: vec![b' '; 100], ..answer });
    let impatient = ill.with("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    assert!(impatient.has(NAME).contains("nothing for 1 s"));
    // But one that says no is believed.
    server.spoil(|_, _| Answer::new(403, &[("X-Error-Code", "GatedRepo")], ""));
    impatient.lacks(NAME, "hub", &["403"]);
}

#[test]
fn the_token_goes_to_the_endpoint_only_and_is_never_shown() {
    let token = "hf_NoBodyMaySeeThis";
    let server = Server::new(&whole());
    let user = User::of(&server).with("HF_TOKEN", token);
    let output = user.run(&["inspect", NAME, "-v"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let requests = server.requests();
    assert!(requests.iter().any(|request| request.elsewhere));
    for request in requests {
        let expected = (!request.elsewhere).then(|| format!("Bearer {token}"));
        assert_eq!(request.token, expected, "{request:?}");
    }
    // The file that logging in writes, or another that a variable names; a variable with the token itself goes first.
    let user = User::of(&server);
    let sent = |user: &User| {
        user.has(NAME);
        server.requests().into_iter().map(|request| request.token).next().unwrap()
    };
    assert_eq!(sent(&user), None);
    std::fs::write(user.home.path().join("token"), "stored\n").unwrap();
    assert_eq!(sent(&user).as_deref(), Some("Bearer stored"));
    let other = user.home.path().join("other");
    std::fs::write(&other, "other").unwrap();
    let user = user.with("HF_TOKEN_PATH", other.to_str().unwrap());
    assert_eq!(sent(&user).as_deref(), Some("Bearer other"));
    let user = user.with("HF_TOKEN", token);
    assert_eq!(sent(&user), Some(format!("Bearer {token}")));
    // Messages.
    server.spoil(|_, _| Answer::new(401, &[("X-Error-Message", "Invalid credentials")], ""));
    let message = user.lacks(NAME, "hub", &["401", "the token is not accepted", "(Invalid credentials)", "HF_TOKEN"]);
    let broken = user.with("HF_TOKEN", &format!("{token}\u{7f}")).lacks(NAME, "argument", &["HF_TOKEN: expected a token"]);
    let options = Options { token: Some(token.into()), ..Options::default() };
    assert!(![message, broken, format!("{options:?}"), stderr(&output)].iter().any(|text| text.contains(token)));
}

#[test]
fn progress_counts_up_to_all_bytes_once() {
    let (files, server) = (in_shards(), Server::new(&in_shards()));
    let cache = tempfile::tempdir().unwrap();
    let options = Options {
        endpoint: Some(format!("{}/", server.endpoint)),
        cache: Some(cache.path().join("hub")),
        offline: Some(false),
        token: Some("t".into()),
        ..Options::default()
    };
    let name: HubName = NAME.parse().unwrap();
    let events = |options: &Options| {
        let mut events = Vec::new();
        let folder = fetch(&name, options, &mut |event| events.push(event));
        (folder, events)
    };
    let length = |file: &str| files.iter().find(|(name, _)| *name == file).unwrap().1.len() as u64;
    let all = length("config.json") + length(SHARDS[0]) + length(SHARDS[1]);
    let counts = |events: Vec<Event>| -> Vec<u64> {
        let count = |event| match event {
            Event::Progress { fetched, total } => {
                assert!(fetched <= total && total == all, "{fetched} of {total}");
                fetched
            }
            other => panic!("{other:?}"),
        };
        events.into_iter().map(count).collect()
    };
    // The first shard comes damaged at its beginning: fetched again, and not counted twice.
    let blob = cache.path().join(format!("hub/models--owner--model/blobs/{}.incomplete", sha256(&files[1].1)));
    std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
    std::fs::write(&blob, vec![7; 100_000]).unwrap();
    let (folder, first) = events(&options);
    let counts = counts(first);
    assert!(counts.is_sorted_by(|a, b| a < b) && counts.last() == Some(&all), "{counts:?}");
    let folder = folder.unwrap();
    assert_eq!(folder, cache.path().join("hub/models--owner--model/snapshots").join(COMMIT));
    assert_eq!(read(folder.join(SHARDS[0])), files[1].1);
    assert_eq!(events(&options).1, [], "nothing to fetch, nothing to tell");
    let elsewhere = Options { cache: Some(cache.path().join("other")), offline: Some(true), ..options };
    assert_eq!(events(&elsewhere).0.unwrap_err().code(), "hub");
    assert_eq!(server.requests().iter().filter(|request| request.path.starts_with(&format!("/api/models/{REPO}/"))).count(), 2);
}
