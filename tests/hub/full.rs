//! A disk that is full while a model comes: nothing half has its name, what came stays, and the next run goes on from there.
#![cfg(unix)]
#![allow(clippy::print_stdout)]

use std::path::PathBuf;

use super::server::Server;
use super::{NAME, User, WEIGHTS, golden, read, stderr, whole};
use crate::convert::{check_error, names};
use crate::faults::full::limited;

#[test]
fn a_full_disk_loses_nothing() {
    let (server, weights) = (Server::new(&whole()), read(golden(WEIGHTS)));
    let user = User::of(&server);
    // The same cache, with more and more room: each run adds to what the one before left.
    let (mut limit, mut runs, mut before) = (0, 0, Vec::new());
    loop {
        let plain = user.command(&["inspect", NAME]);
        let mut command = limited(limit);
        command.args(plain.get_args());
        plain.get_envs().for_each(|(name, value)| {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        });
        let output = command.output().unwrap();
        let partial = std::fs::read(user.partial()).unwrap_or_default();
        assert!(weights.starts_with(&partial), "with {limit} blocks");
        if output.status.success() {
            break;
        }
        check_error(&output, "file", &["cannot ", user.repo().to_str().unwrap()]);
        assert!(!user.snapshot(WEIGHTS).exists() && !user.repo().join("refs/main").exists(), "with {limit} blocks");
        assert!(partial.len() >= before.len(), "with {limit} blocks: {} bytes are left of {}", partial.len(), before.len());
        // What has its name is whole.
        for file in user.files() {
            assert_eq!(
                read(user.snapshot(&file)),
                whole().into_iter().find(|(name, _)| *name == file).unwrap().1,
                "{file} with {limit} blocks"
            );
        }
        (limit, runs, before) = (if limit < 8 { limit + 1 } else { limit * 3 / 2 }, runs + 1, partial);
        assert!(limit < 1 << 16, "{}", stderr(&output));
    }
    assert!(runs > 10 && before.len() > weights.len() / 2, "{runs} runs");
    assert_eq!((read(user.snapshot(WEIGHTS)), user.leftovers()), (weights.clone(), 0));
    // The weights came in pieces, none of them twice.
    let asked =
        server.requests().into_iter().filter(|request| request.gets(WEIGHTS)).filter_map(|request| request.range).collect::<Vec<_>>();
    assert!(asked.windows(2).all(|pair| start(&pair[0]) <= start(&pair[1])) && start(asked.last().unwrap()) == before.len(), "{asked:?}");

    // A model that is there can be had while the disk is full.
    let copies = |folder: PathBuf| names(&folder).into_iter().map(|name| (read(folder.join(&name)), name)).collect::<Vec<_>>();
    let snapshot = copies(user.snapshot(""));
    let mut command = limited(0);
    command.args(["inspect", NAME, "--device", "cpu", "--offline"]).env("HF_HOME", user.home.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(copies(user.snapshot("")), snapshot);
    println!("hub: the disk full at each of {runs} sizes");
}

/// The first byte that a range asks for.
fn start(range: &str) -> usize {
    range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).unwrap().parse().unwrap()
}
