//! A server that speaks what `refrain` asks of the Hub, on two ports: the Hub itself, and the host that it redirects to for
//! large files. It notes every request, and a test may spoil any answer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const REPO: &str = "owner/model";

#[derive(Clone, Debug)]
pub struct Request {
    /// Whether it came to the second host.
    pub elsewhere: bool,
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

impl Request {
    /// The last part of the path.
    pub fn file(&self) -> &str {
        self.path.split('?').next().unwrap().rsplit('/').next().unwrap()
    }

    /// Whether it asks for the bytes of this file, not for a redirect to them.
    pub fn gets(&self, file: &str) -> bool {
        self.elsewhere && self.method == "GET" && self.file() == file
    }
}

#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body that are sent before the connection is closed.
    pub cut: Option<usize>,
    /// How long to wait in the middle of the body.
    pub pause: Duration,
}

impl Answer {
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Self { status, headers, body: body.into(), ..Self::default() }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(old, _)| !old.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.into()));
    }
}

type Spoil = Box<dyn Fn(&Request, Answer) -> Answer + Send>;

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    elsewhere: u16,
    log: Vec<Request>,
    spoil: Option<Spoil>,
}

pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect();
        let (hub, elsewhere) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let endpoint = format!("http://127.0.0.1:{}", hub.local_addr().unwrap().port());
        let state = State { files, elsewhere: elsewhere.local_addr().unwrap().port(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        for (listener, elsewhere) in [(hub, false), (elsewhere, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    std::thread::spawn(move || serve(stream, elsewhere, &state));
                }
            });
        }
        Self { endpoint, state }
    }

    /// Changes every answer from now on.
    pub fn spoil(&self, spoil: impl Fn(&Request, Answer) -> Answer + Send + 'static) {
        self.state.lock().unwrap().spoil = Some(Box::new(spoil));
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().spoil = None;
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

fn serve(stream: TcpStream, elsewhere: bool, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(first) = lines.next() else { return };
    let mut words = first.split(' ').map(String::from);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut request = Request { elsewhere, method, path, range: None, token: None };
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.trim().into()),
            "authorization" => request.token = Some(value.trim().into()),
            _ => {}
        }
    }
    let answer = {
        let mut state = state.lock().unwrap();
        state.log.push(request.clone());
        let answer = if elsewhere { blob(&state, &request) } else { hub(&state, &request) };
        match &state.spoil {
            Some(spoil) => spoil(&request, answer),
            None => answer,
        }
    };
    send(stream, &request, answer);
}

fn send(mut stream: TcpStream, request: &Request, answer: Answer) {
    let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    answer.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
    let body = if request.method == "HEAD" { &[] } else { body };
    let (first, second) = body.split_at(body.len() / 2);
    // A client that has seen enough closes: no fault of the server.
    let _ = stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(first));
    std::thread::sleep(answer.pause);
    let _ = stream.write_all(second);
    let _ = stream.shutdown(Shutdown::Both);
}

fn hub(state: &State, request: &Request) -> Answer {
    let refuse = |status, code: &str, message: &str| Answer::new(status, &[("X-Error-Code", code), ("X-Error-Message", message)], "{}");
    if let Some(revision) = request.path.strip_prefix(&format!("/api/models/{REPO}/revision/")) {
        if !["main", "v1", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
            return refuse(404, "RevisionNotFound", "Invalid rev id");
        }
        let siblings: Vec<_> = state.files.keys().map(|file| serde_json::json!({ "rfilename": file })).collect();
        let info = serde_json::json!({ "id": REPO, "sha": COMMIT, "siblings": siblings });
        return Answer::new(200, &[("Content-Type", "application/json")], info.to_string());
    }
    // What the Hub does with small files: a redirect to another path of its own.
    let (plain, cached) = (format!("/{REPO}/resolve/{COMMIT}/"), format!("/api/resolve-cache/{REPO}/{COMMIT}/"));
    let file = request.path.strip_prefix(&plain).or_else(|| request.path.strip_prefix(&cached));
    let Some(file) = file else { return refuse(401, "RepoNotFound", "Invalid username or password.") };
    let Some(bytes) = state.files.get(file) else { return refuse(404, "EntryNotFound", "Entry not found") };
    if file.ends_with(".safetensors") {
        let (target, hash) = (format!("http://127.0.0.1:{}/blobs/{file}?key=secret", state.elsewhere), sha256(bytes));
        let (length, hash) = (bytes.len().to_string(), format!("\"{hash}\""));
        let headers = [("Location", target.as_str()), ("X-Linked-Size", &length), ("X-Linked-Etag", &hash), ("X-Repo-Commit", COMMIT)];
        return Answer::new(302, &headers, "Found. Redirecting");
    }
    if request.path.starts_with(&plain) {
        return Answer::new(307, &[("Location", &format!("{cached}{file}")), ("X-Repo-Commit", COMMIT)], "Temporary Redirect");
    }
    let etag = format!("W/\"{}\"", &sha256(bytes)[..40]);
    Answer::new(200, &[("ETag", &etag), ("X-Repo-Commit", COMMIT), ("Content-Type", "text/plain")], bytes.clone())
}

fn blob(state: &State, request: &Request) -> Answer {
    let Some(bytes) = state.files.get(request.file()) else { return Answer::new(404, &[], "") };
    let Some(range) = &request.range else { return Answer::new(200, &[("Accept-Ranges", "bytes")], bytes.clone()) };
    let start: usize = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).unwrap().parse().unwrap();
    if start >= bytes.len() {
        return Answer::new(416, &[("Content-Range", &format!("bytes */{}", bytes.len()))], "");
    }
    let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    Answer::new(206, &[("Content-Range", &range)], &bytes[start..])
}

pub fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
