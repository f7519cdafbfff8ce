//! What [`fetch`](super::fetch) is told, by its caller or else by the variables that the Hub's other tools follow.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

/// Longest wait for a connection or for the next bytes of an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where to fetch from and to. What is `None` follows the environment.
#[derive(Clone, Default)]
pub struct Options {
    /// The access token; else `HF_TOKEN`, else the file that logging in writes (`HF_TOKEN_PATH`, `HF_HOME/token`).
    pub token: Option<String>,
    /// The address of the Hub or of a mirror; else `HF_ENDPOINT`, else the Hub itself.
    pub endpoint: Option<String>,
    /// The cache; else `HF_HUB_CACHE`, else `HF_HOME/hub`, else `huggingface/hub` in the user's cache folder.
    pub cache: Option<PathBuf>,
    /// Whether to stay off the network and take only what the cache has; else whether `HF_HUB_OFFLINE` is 1.
    pub offline: Option<bool>,
    /// Longest wait for a connection or for the next bytes; else `HF_HUB_DOWNLOAD_TIMEOUT` in seconds, else 30 s.
    pub timeout: Option<Duration>,
}

impl fmt::Debug for Options {
    /// Without the token: what is printed ends in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Options");
        shown.field("token", &self.token.as_ref().map(|_| "…")).field("endpoint", &self.endpoint).field("cache", &self.cache);
        shown.field("offline", &self.offline).field("timeout", &self.timeout).finish()
    }
}

/// The options with the environment read.
pub(super) struct Settings {
    pub token: Option<String>,
    /// Without a slash at its end; `None` is the Hub.
    pub endpoint: Option<String>,
    pub cache: PathBuf,
    pub offline: bool,
    pub timeout: Duration,
}

impl Settings {
    pub fn new(options: &Options) -> Result<Self> {
        let home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")));
        let of_home = |file: &str| home.as_ref().map(|home| home.join(file));
        let cache = options.cache.clone().or_else(|| path("HF_HUB_CACHE")).or_else(|| of_home("hub"));
        let cache = cache.ok_or_else(|| Error::Argument {
            name: "HF_HOME".into(),
            expected: "the folder of the Hub's cache, since this user has no home".into(),
            found: "nothing".into(),
        })?;
        let endpoint = options.endpoint.clone().or_else(|| variable("HF_ENDPOINT"));
        let endpoint = endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_string());
        if let Some(found) = endpoint.as_ref().filter(|text| !text.starts_with("https://") && !text.starts_with("http://")) {
            let expected = "an address that begins with https:// or http://".into();
            return Err(Error::Argument { name: "HF_ENDPOINT".into(), expected, found: format!("{found:?}") });
        }
        let stored = || {
            let file = path("HF_TOKEN_PATH").or_else(|| of_home("token"))?;
            std::fs::read_to_string(file).ok()
        };
        let token = options.token.clone().or_else(|| variable("HF_TOKEN")).or_else(stored).map(|token| token.trim().to_string());
        let token = token.filter(|token| !token.is_empty());
        // Not shown: a token with one wrong character is still a token.
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            let (expected, found) = ("a token of visible ASCII characters".into(), "other characters".into());
            return Err(Error::Argument { name: "HF_TOKEN".into(), expected, found });
        }
        let offline = options.offline.unwrap_or_else(|| {
            variable("HF_HUB_OFFLINE").is_some_and(|text| ["1", "true", "yes", "on"].contains(&text.to_ascii_lowercase().as_str()))
        });
        let timeout = match (options.timeout, variable("HF_HUB_DOWNLOAD_TIMEOUT")) {
            (Some(timeout), _) => timeout,
            (None, None) => TIMEOUT,
            (None, Some(text)) => text.parse().map(Duration::from_secs).map_err(|_| Error::Argument {
                name: "HF_HUB_DOWNLOAD_TIMEOUT".into(),
                expected: "whole seconds".into(),
                found: format!("{text:?}"),
            })?,
        };
        Ok(Self { token, endpoint, cache, offline, timeout: timeout.max(Duration::from_secs(1)) })
    }
}

/// A variable of the environment; an empty one is none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|text| !text.is_empty()).map(PathBuf::from)
}
