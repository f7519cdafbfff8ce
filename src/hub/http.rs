//! What is asked of the server, and what each of its answers means.
//!
//! Redirects are followed here, one by one: the token goes to the scheme, host and port of the endpoint and nowhere else.

use std::io::Read;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder};
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::cache::{Partial, repo_of};
use super::settings::Settings;
use super::{HubName, Meter, error, is_commit};
use crate::error::{Error, Result};
use crate::model::files::stranger;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 17;

/// Largest description of a repository: of some 100,000 files.
const LARGEST_LIST: u64 = 32 << 20;

const MOST_REDIRECTS: usize = 10;

const CHECK_TOKEN: &str = "check the name; for a private or gated repository set HF_TOKEN to a token that may read it";
const CHECK_NETWORK: &str =
    "check the network, and HF_ENDPOINT if it is set; what was fetched is kept, and the next run goes on from there";
const CHECK_ENDPOINT: &str = "check HF_ENDPOINT if it is set, and that no proxy or login page stands in between";

/// A file as the server describes it.
pub(super) struct Remote {
    pub file: String,
    pub length: u64,
    /// Safe as the name of a file.
    pub etag: String,
}

impl Remote {
    /// The SHA-256 of its bytes in lower-case hex, for files in large file storage.
    pub fn sha256(&self) -> Option<String> {
        let is_hash = self.etag.len() == 64 && self.etag.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then(|| self.etag.to_ascii_lowercase())
    }
}

/// An error, and whether it is that the server cannot be reached or is out of order.
pub(super) struct Trouble {
    pub error: Error,
    pub away: bool,
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        trouble.error
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { error, away: false }
    }
}

/// Asks one server about one repository.
pub(super) struct Client<'a> {
    name: &'a HubName,
    agent: Agent,
    /// Makes the URLs; it never asks for them.
    api: Api,
    token: Option<String>,
    seconds: u64,
    home: Origin,
}

/// Scheme, host and port: who sees a token that is sent.
type Origin = (String, String, u16);

fn origin(url: &Uri) -> Origin {
    let scheme = url.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let port = url.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    (scheme, url.host().unwrap_or_default().to_ascii_lowercase(), port)
}

impl<'a> Client<'a> {
    pub fn new(name: &'a HubName, settings: &Settings) -> Result<Self> {
        let unusable = |reason: String| error(name, "fetch it", reason, CHECK_ENDPOINT);
        // Every setting is given: nothing of the environment is left for the builder to read.
        let mut builder = ApiBuilder::from_cache(hf_hub::Cache::new(settings.cache.clone())).with_token(None).with_progress(false);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let api = builder.build().map_err(|error| unusable(error.to_string()))?;
        let url = api.repo(repo_of(name, name.revision())).url("");
        let home = origin(&url.parse().map_err(|_| unusable(format!("{url} is no address")))?);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .accept_encoding("identity")
            .user_agent(concat!("refrain/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(settings.timeout))
            .timeout_connect(Some(settings.timeout))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout));
        if ["localhost", "127.0.0.1", "[::1]"].contains(&home.1.as_str()) {
            // A proxy of the environment cannot lead back to this machine.
            config = config.proxy(None);
        }
        let seconds = settings.timeout.as_secs();
        Ok(Self { name, agent: config.build().new_agent(), api, token: settings.token.clone(), seconds, home })
    }

    pub fn name(&self) -> &HubName {
        self.name
    }

    /// The commit that the revision stands for, and the names of its files.
    pub fn repo(&self) -> std::result::Result<RepoInfo, Trouble> {
        let doing = "look it up";
        let request = self.api.repo(repo_of(self.name, self.name.revision())).info_request();
        let url = request.uri_ref().map(Uri::to_string).unwrap_or_default();
        let response = self.send(&Method::GET, &url, 0, true, doing)?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(&response, doing));
        }
        let mut bytes = Vec::new();
        let read = response.into_body().into_reader().take(LARGEST_LIST).read_to_end(&mut bytes);
        read.map_err(|source| self.broken(&source, doing))?;
        let strange = |what: String| {
            error(self.name, doing, format!("expected a description of the repository in JSON, found {what}"), CHECK_ENDPOINT)
        };
        let info: RepoInfo = serde_json::from_slice(&bytes).map_err(|error| {
            let what = stranger(&bytes).map_or_else(|| format!("a fault: {error}"), String::from);
            strange(what)
        })?;
        if !is_commit(&info.sha) {
            return Err(strange(format!("the commit {:?}", plain(&info.sha))).into());
        }
        Ok(info)
    }

    /// What the server says of a file.
    pub fn ask(&self, commit: &str, file: &str) -> Result<Remote> {
        let doing = format!("ask about {file}");
        let response = self.send(&Method::HEAD, &self.url(commit, file), 0, false, &doing)?;
        if !response.status().is_success() && !response.status().is_redirection() {
            return Err(self.refused(&response, &doing).error);
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let strange = |what: &str| error(self.name, &doing, format!("the server's answer has {what}"), CHECK_ENDPOINT);
        // A redirect has a length of its own.
        let length = header("x-linked-size").or_else(|| header("content-length").filter(|_| response.status().is_success()));
        let length = length.and_then(|text| text.parse().ok()).ok_or_else(|| strange("no length of the file"))?;
        let etag = header("x-linked-etag").or_else(|| header("etag")).ok_or_else(|| strange("no ETag"))?;
        let etag = etag.trim().trim_start_matches("W/").trim_matches('"');
        let safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if etag.is_empty() || etag.len() > 128 || !etag.chars().all(safe) {
            return Err(strange(&format!("the ETag {:?}, which is no hash", plain(etag))));
        }
        Ok(Remote { file: file.into(), length, etag: etag.into() })
    }

    /// Fetches the part of a file that is lacking. An error leaves what has come.
    pub fn fill(&self, commit: &str, remote: &Remote, partial: &mut Partial, meter: &mut Meter) -> Result<()> {
        if partial.length() == remote.length {
            return Ok(());
        }
        let doing = format!("fetch {}", remote.file);
        let strange = |reason: String| error(self.name, &doing, reason, CHECK_ENDPOINT);
        let url = self.url(commit, &remote.file);
        let mut response = self.send(&Method::GET, &url, partial.length(), true, &doing)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            meter.take_back(partial.length());
            partial.clear()?;
            response = self.send(&Method::GET, &url, 0, true, &doing)?;
        }
        let headers = response.headers();
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (start, all) = (partial.length(), remote.length);
                let found = text(headers, "content-range");
                if found != format!("bytes {start}-{}/{all}", all - 1) {
                    return Err(strange(format!("asked for bytes {start} to {} of {all}, the server sends {found:?}", all - 1)));
                }
            }
            StatusCode::OK if partial.length() > 0 => {
                // It does not know ranges.
                meter.take_back(partial.length());
                partial.clear()?;
            }
            StatusCode::OK => {}
            _ => return Err(self.refused(&response, &doing).error),
        }
        if text(headers, "content-type").starts_with("text/html") {
            return Err(strange("expected the file, found an HTML page".into()));
        }
        let lacking = remote.length - partial.length();
        let length = text(headers, "content-length");
        if !length.is_empty() && length != lacking.to_string() {
            return Err(strange(format!("expected {lacking} bytes, the server sends {length}")));
        }
        let (mut reader, mut buffer) = (response.into_body().into_reader(), vec![0; CHUNK]);
        loop {
            let so_far = || format!("after {} of {} bytes", partial.length(), remote.length);
            let count = match reader.read(&mut buffer) {
                Ok(0) if partial.length() == remote.length => return Ok(()),
                Ok(0) => return Err(error(self.name, &doing, format!("the server ended {}", so_far()), CHECK_NETWORK)),
                Ok(count) => count,
                Err(source) if source.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(self.broken(&source, &format!("{doing} {}", so_far())).error),
            };
            let odd = if partial.length() == 0 { stranger(&buffer[..count]) } else { None };
            if let Some(what) = odd {
                return Err(strange(format!("expected the file, found {what}")));
            }
            if count as u64 > remote.length - partial.length() {
                return Err(strange(format!("expected {} bytes, the server sends more", remote.length)));
            }
            partial.append(&buffer[..count])?;
            meter.add(count as u64);
        }
    }

    fn url(&self, commit: &str, file: &str) -> String {
        let mut path = String::new();
        for byte in file.bytes() {
            match byte {
                b'-' | b'_' | b'.' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => path.push(char::from(byte)),
                other => path.push_str(&format!("%{other:02X}")),
            }
        }
        self.api.repo(repo_of(self.name, commit)).url(&path)
    }

    /// One request and the redirects that it leads to, to other hosts only with `leave`.
    fn send(&self, method: &Method, url: &str, from: u64, leave: bool, doing: &str) -> std::result::Result<Response<Body>, Trouble> {
        let strange = |reason: String| error(self.name, doing, reason, CHECK_ENDPOINT);
        let mut url: Uri = url.parse().map_err(|_| strange(format!("{url} is no address")))?;
        for _ in 0..MOST_REDIRECTS {
            let mut request = Request::builder().method(method).uri(&url);
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == self.home) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(|error| strange(error.to_string()))?;
            let response = self.agent.run(request).map_err(|source| self.unreachable(&source, &url, doing))?;
            let target = response.headers().get("location").filter(|_| response.status().is_redirection());
            let Some(target) = target.and_then(|value| value.to_str().ok()) else { return Ok(response) };
            let next = follow(&url, target).ok_or_else(|| strange("the server redirects to no https address".into()))?;
            if !leave && origin(&next) != origin(&url) {
                return Ok(response);
            }
            url = next;
        }
        Err(strange(format!("the server redirected {MOST_REDIRECTS} times")).into())
    }

    fn unreachable(&self, source: &ureq::Error, url: &Uri, doing: &str) -> Trouble {
        // The host only: the rest of a redirect's address may be a key to the file.
        let host = url.host().unwrap_or_default();
        let reason = match source {
            ureq::Error::HostNotFound => format!("the name {host} cannot be resolved"),
            ureq::Error::Timeout(_) => format!("{host} did not answer within {} s", self.seconds),
            // What the system's resolver says has no kind of its own.
            other if other.to_string().contains("lookup address") => format!("the name {host} cannot be resolved"),
            other => format!("no answer from {host}: {other}"),
        };
        Trouble { error: error(self.name, doing, reason, CHECK_NETWORK), away: true }
    }

    /// The connection failed in the middle of an answer.
    fn broken(&self, source: &std::io::Error, doing: &str) -> Trouble {
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
        let reason = match inner {
            Some(ureq::Error::Timeout(_)) => format!("the server sent nothing for {} s", self.seconds),
            _ => format!("the connection broke: {source}"),
        };
        Trouble { error: error(self.name, doing, reason, CHECK_NETWORK), away: true }
    }

    /// What a status that is no success means.
    fn refused(&self, response: &Response<Body>, doing: &str) -> Trouble {
        let (status, headers) = (response.status().as_u16(), response.headers());
        let revision = self.name.revision();
        let (meaning, mend) = match (status, text(headers, "x-error-code")) {
            (401, _) if self.token.is_some() => (
                "the token is not accepted, or there is no such repository".to_string(),
                "check the name, and that HF_TOKEN (or the stored token) is valid",
            ),
            (401, _) => ("there is no such repository, or it is private or gated".into(), CHECK_TOKEN),
            (403, _) if self.token.is_some() => (
                "the token may not read it".into(),
                "ask for access on the repository's page, and set HF_TOKEN to a token of that account that may read the repository",
            ),
            (403, _) => {
                ("it is gated or private".into(), "ask for access on the repository's page, then set HF_TOKEN to a token of that account")
            }
            (404, "RevisionNotFound") => (format!("it has no revision {revision}"), "check the branch, tag or commit after the @"),
            (404, "EntryNotFound") => ("the file is not there".into(), "the repository is incomplete: try again, or tell its owner"),
            (404, _) => (format!("there is no such repository with a revision {revision}, or it is private"), CHECK_TOKEN),
            (429, _) => ("it has had too many requests".into(), "wait a while; with a token in HF_TOKEN more are allowed"),
            (500.., _) => ("it is out of order".into(), "try again later; what was fetched is kept"),
            _ => ("which was not expected".into(), CHECK_ENDPOINT),
        };
        let said = Some(plain(text(headers, "x-error-message"))).filter(|said| !said.is_empty());
        let said = said.map(|said| format!(" ({said})")).unwrap_or_default();
        let reason = format!("the server answered {status}: {meaning}{said}");
        Trouble { error: error(self.name, doing, reason, mend), away: status >= 500 }
    }
}

/// Where a redirect leads; `None` where that is no address, or where it leaves https.
fn follow(from: &Uri, target: &str) -> Option<Uri> {
    let next: Uri = target.parse().ok()?;
    if next.host().is_some() {
        let good = next.scheme_str() == Some("https") || next.scheme_str() == Some("http") && from.scheme_str() == Some("http");
        return good.then_some(next);
    }
    let mut parts = from.clone().into_parts();
    parts.path_and_query = next.into_parts().path_and_query.filter(|path| path.as_str().starts_with('/'));
    parts.path_and_query.as_ref()?;
    Uri::from_parts(parts).ok()
}

/// A header as text, empty where there is none.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What a server says, short and without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
