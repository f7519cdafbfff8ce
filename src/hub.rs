//! Models by name: fetches `hf:owner/repo[@revision]` from the Hub into the cache that other tools share, and gives the folder.
//!
//! ```text
//! name ── GET api/models/owner/repo/revision/main ── the commit and its files
//!           └ of each file that is needed and that the cache lacks:
//!               HEAD owner/repo/resolve/COMMIT/file ── its length, and its ETag: for weights their SHA-256
//!               GET  the same, from the byte at which an earlier run stopped ── checked, and only then given its name
//! ```
//!
//! Fetched are `config.json`, `model.safetensors` (or the index and the shards that it names) and, where they are,
//! `generation_config.json` and `tokenizer.json`; nothing else. The URLs and the layout of the cache come from the crate
//! `hf-hub`. Its downloads are not used: version 0.5 sends the token on to the host that it is redirected to, appends to a partial file
//! what a server sends that ignores the range, and checks neither length nor hash.

mod cache;
mod http;
mod settings;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use self::cache::Cache;
use self::http::{Client, Remote};
pub use self::settings::Options;
use self::settings::Settings;
use crate::error::{Error, Result};
use crate::model::files::{Source, parse_index};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Longest part of a name, and longest revision.
const LONGEST: usize = 96;

/// The name of a model on the Hub: `hf:owner/repo` or `hf:owner/repo@revision`.
///
/// ```
/// let name: refrain::hub::HubName = "hf:owner/repo@v1".parse()?;
/// assert_eq!((name.repo(), name.revision()), ("owner/repo", "v1"));
/// assert!("hf:owner".parse::<refrain::hub::HubName>().is_err());
/// # Ok::<(), refrain::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    repo: String,
    revision: Option<String>,
}

impl HubName {
    /// "owner/repo".
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The branch, tag or commit; "main" where the name has none.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl FromStr for HubName {
    type Err = Error;

    /// # Errors
    /// [`Error::Argument`] where the text has another form.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.strip_prefix("hf:").and_then(|rest| {
            let (repo, revision) = rest.split_once('@').map_or((rest, None), |(repo, revision)| (repo, Some(revision)));
            let (owner, name) = repo.split_once('/')?;
            let good = is_part(owner) && is_part(name) && revision.is_none_or(is_revision);
            good.then(|| Self { repo: repo.into(), revision: revision.map(String::from) })
        });
        parsed.ok_or_else(|| Error::Argument {
            name: "the name of a model on the Hub".into(),
            expected: "hf:owner/repo or hf:owner/repo@revision (a branch, tag or commit), of letters, digits, '-', '_' and '.'".into(),
            found: format!("{text:?}"),
        })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = self.revision.as_ref().map(|revision| format!("@{revision}")).unwrap_or_default();
        write!(f, "hf:{}{revision}", self.repo)
    }
}

/// An owner or a repository, as the Hub allows it; "--" is what the cache puts between the two.
fn is_part(text: &str) -> bool {
    let inner = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let edge = |c: char| c == '-' || c == '.';
    let no_doubles = !text.contains("--") && !text.contains("..");
    !text.is_empty() && text.len() <= LONGEST && inner && no_doubles && !text.starts_with(edge) && !text.ends_with(edge)
}

/// Parts between slashes that are safe as names of files, since the cache keeps a file for each.
fn is_revision(text: &str) -> bool {
    let is_part = |part: &str| {
        let inner = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c));
        !part.is_empty() && inner && !part.contains("..") && !part.starts_with(['.', '-']) && !part.ends_with('.')
    };
    text.len() <= LONGEST && text.split('/').all(is_part)
}

/// A commit by its full name.
fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What [`fetch`] tells while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Bytes so far, over all files that the cache lacked; `total` is always the same, and `fetched` never falls.
    Progress {
        /// Bytes that are in the cache.
        fetched: u64,
        /// Bytes that will be.
        total: u64,
    },
    /// Something that the user may want to know.
    Note(String),
}

/// The folder in the cache that holds the model, for [`Source::folder`]. Fetches what the cache lacks, and goes on where an
/// earlier call was cut off.
///
/// It blocks: an asynchronous program gives it a thread. Where the Hub cannot be reached at all, or `offline` is set, a model that is
/// whole in the cache is taken as it is.
///
/// # Errors
/// [`Error::Hub`] where the Hub has no such model or does not give it, or what it sends is damaged; [`Error::File`] where the
/// cache cannot be written; [`Error::Format`] for a bad index of shards; [`Error::Argument`] for an unusable option or variable.
pub fn fetch(name: &HubName, options: &Options, report: &mut dyn FnMut(Event)) -> Result<PathBuf> {
    let settings = Settings::new(options)?;
    let cache = Cache::new(&settings.cache, name);
    if settings.offline {
        return cache.snapshot().map_err(|lack| {
            let mend = "fetch it once without --offline and HF_HUB_OFFLINE, or check HF_HOME, which says where the cache is";
            error(name, "take it from the cache, since this is offline", lack, mend)
        });
    }
    let client = Client::new(name, &settings)?;
    let repo = match client.repo() {
        Ok(repo) => repo,
        Err(trouble) => {
            let (true, Ok(folder)) = (trouble.away, cache.snapshot()) else { return Err(trouble.error) };
            report(Event::Note(format!("{}; taking what the cache has", trouble.error)));
            return Ok(folder);
        }
    };
    let commit = repo.sha.as_str();
    let files: BTreeSet<&str> = repo.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    let lacks = |what: &str, mend: &str| error(name, "use it", format!("the repository has no {what}"), mend);
    if !files.contains(CONFIG) {
        return Err(lacks(CONFIG, "give a repository that holds a model: config.json and its weights as safetensors"));
    }
    let mut wanted: Vec<&str> = vec![CONFIG];
    wanted.extend(["generation_config.json", "tokenizer.json"].iter().filter(|file| files.contains(**file)));
    let shards;
    if files.contains(WEIGHTS) {
        wanted.push(WEIGHTS);
    } else if files.contains(INDEX) {
        if !cache.has(commit, INDEX) {
            let index = client.ask(commit, INDEX)?;
            fetch_file(&client, &cache, commit, &index, &mut Meter { fetched: 0, shown: 0, total: index.length, report: &mut |_| {} })?;
        }
        shards = shards_of(&Source::Folder(cache.folder(commit)))?;
        if let Some(shard) = shards.iter().find(|shard| !files.contains(shard.as_str())) {
            return Err(lacks(&format!("{shard}, which its {INDEX} names"), "the repository is incomplete: tell its owner"));
        }
        wanted.extend(shards.iter().map(String::as_str));
    } else {
        let what = format!("{WEIGHTS} and no {INDEX}");
        return Err(lacks(&what, "convert the weights to safetensors and give the folder that holds them"));
    }
    let missing: Vec<Remote> =
        wanted.iter().filter(|file| !cache.has(commit, file)).map(|file| client.ask(commit, file)).collect::<Result<_>>()?;
    let total = missing.iter().map(|remote| remote.length).sum();
    let mut meter = Meter { fetched: 0, shown: 0, total, report };
    for remote in &missing {
        fetch_file(&client, &cache, commit, remote, &mut meter)?;
    }
    // Last, so that a branch never stands for a commit that is not there whole.
    cache.point_to(commit)?;
    Ok(cache.folder(commit))
}

/// The names of the shards, each once.
fn shards_of(folder: &Source) -> Result<BTreeSet<String>> {
    let json = folder.read_small(INDEX)?.unwrap_or_default();
    Ok(parse_index(&folder.path(INDEX), &json)?.into_values().collect())
}

/// Puts one file into the cache.
fn fetch_file(client: &Client, cache: &Cache, commit: &str, remote: &Remote, meter: &mut Meter) -> Result<()> {
    let mut waited = false;
    let lock = loop {
        if let Some(lock) = cache.lock(&remote.etag)? {
            break lock;
        }
        if !std::mem::replace(&mut waited, true) {
            (meter.report)(Event::Note(format!("waiting for another process that fetches {}", remote.file)));
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    if cache.has_blob(remote) {
        meter.add(remote.length);
    } else {
        let mut partial = cache.partial(remote)?;
        meter.add(partial.length());
        let resumed = partial.length() > 0;
        client.fill(commit, remote, &mut partial, meter)?;
        if resumed && !partial.is_whole() {
            // What an earlier run left was damaged, or written by a tool that does not write in order.
            meter.take_back(partial.length());
            partial.clear()?;
            client.fill(commit, remote, &mut partial, meter)?;
        }
        if !partial.is_whole() {
            partial.remove()?;
            let reason = "what the server sent has another SHA-256 than it said".into();
            return Err(error(client.name(), &format!("fetch {}", remote.file), reason, "try again; what was fetched is discarded"));
        }
        partial.keep()?;
    }
    drop(lock);
    cache.link(commit, remote)
}

/// Counts bytes over all files.
struct Meter<'a> {
    fetched: u64,
    shown: u64,
    total: u64,
    report: &'a mut dyn FnMut(Event),
}

impl Meter<'_> {
    fn add(&mut self, bytes: u64) {
        self.fetched += bytes;
        if self.fetched > self.shown {
            self.shown = self.fetched.min(self.total);
            (self.report)(Event::Progress { fetched: self.shown, total: self.total });
        }
    }

    /// Bytes that have to be fetched again; what was shown stays until they are.
    fn take_back(&mut self, bytes: u64) {
        self.fetched = self.fetched.saturating_sub(bytes);
    }
}

fn error(name: &HubName, doing: &str, reason: String, mend: &str) -> Error {
    Error::Hub { name: name.to_string(), doing: doing.into(), reason, mend: mend.into() }
}
