//! The engine behind wasm-bindgen: what the npm package calls, and nothing that it could do itself. Requests and answers are JSON, numbers
//! in bulk are typed arrays, errors are plain objects with the codes of [`Error`].

mod files;
mod paced;
mod request;

use std::cell::RefCell;

use futures_util::future::{Either, select};
use js_sys::{Function, JSON, Promise};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::error::{Error, Result};
use crate::generate::Model;
use crate::model::{Feed, Logits};
use crate::precision::Precision;
use files::JsFiles;
use paced::paced;
use request::{Generate, Load, parse};

/// A model on a device.
#[wasm_bindgen]
pub struct LoadedModel {
    /// Away while it works.
    model: RefCell<Option<Model>>,
    /// Gives the thread back to the event loop for once.
    rest: Function,
    name: String,
}

/// What a forward pass gives.
#[wasm_bindgen]
pub struct Forward {
    logits: Vec<f32>,
    loops: Vec<u32>,
    halted: Vec<u8>,
}

#[wasm_bindgen]
impl Forward {
    /// (tokens, vocabulary).
    #[wasm_bindgen(getter)]
    pub fn logits(&self) -> Vec<f32> {
        self.logits.clone()
    }

    /// Loops of each token.
    #[wasm_bindgen(getter)]
    pub fn loops(&self) -> Vec<u32> {
        self.loops.clone()
    }

    /// 1 for each token that the model stopped.
    #[wasm_bindgen(getter)]
    pub fn halted(&self) -> Vec<u8> {
        self.halted.clone()
    }
}

#[wasm_bindgen]
impl LoadedModel {
    /// Loads a model from files that JavaScript reads. `progress` is called with bytes loaded and bytes in all; `rest` gives a promise that
    /// is kept after the event loop went round.
    pub async fn open(
        name: String,
        files: files::FileReader,
        options: String,
        progress: Function,
        rest: Function,
    ) -> std::result::Result<LoadedModel, JsValue> {
        let open = async {
            let options = parse::<Load>(&options)?.options()?;
            let files = JsFiles::new(files);
            let mut report = |state: crate::model::Progress| {
                // It only shows: what it throws must not end a load.
                let _ = progress.call2(&JsValue::NULL, &(state.loaded as f64).into(), &(state.total as f64).into());
            };
            Model::open(&files.source(&name), &options, &mut report).await
        };
        let model = open.await.map_err(thrown)?;
        Ok(LoadedModel { model: RefCell::new(Some(model)), rest, name })
    }

    /// Facts of the model and its device.
    pub fn info(&self) -> std::result::Result<String, JsValue> {
        self.with(|model| Ok(info(&self.name, model).to_string()))
    }

    /// The tokens of a text.
    pub fn encode(&self, text: &str) -> std::result::Result<Vec<u32>, JsValue> {
        self.with(|model| model.encode(text))
    }

    /// The text of tokens.
    pub fn decode(&self, tokens: &[u32]) -> std::result::Result<String, JsValue> {
        self.with(|model| model.decode(tokens))
    }

    /// One pass over tokens, with every logit.
    pub async fn forward(&self, tokens: Vec<u32>, request: String) -> std::result::Result<Forward, JsValue> {
        let mut lent = self.lend()?;
        let model = lent.model()?;
        let run = async {
            let depth = parse::<Generate>(&request)?.depth(model)?;
            let mut sequence = model.sequence()?;
            let feed = Feed { sequence: &mut sequence, tokens: &tokens };
            model.forward(&mut [feed], depth, Logits { every: true, best: 1, all: true }).await
        };
        let output = paced(run, &self.rest).await.map_err(thrown)?;
        Ok(Forward {
            logits: output.predictions.into_iter().flat_map(|prediction| prediction.logits).collect(),
            loops: output.rows.iter().map(|row| row.loops as u32).collect(),
            halted: output.rows.iter().map(|row| row.halted.into()).collect(),
        })
    }

    /// Generates. Each step goes to `step`, which answers with a promise of whether it wants another. When `cancel` is kept, the generation
    /// ends within a pass, and its place in the cache is free.
    pub async fn generate(&self, request: String, step: Function, cancel: Promise) -> std::result::Result<(), JsValue> {
        let mut lent = self.lend()?;
        let model = lent.model()?;
        let request = parse::<Generate>(&request).map_err(thrown)?;
        // What a watched pass that was ended in the middle leaves in the cache is not known: those are waited for.
        let watched = request.is_watched();
        let (prompt, params) = request.params(model).map_err(thrown)?;
        let mut generation = model.generate(prompt, params).map_err(thrown)?;
        let mut cancelled = JsFuture::from(cancel);
        loop {
            let next = paced(generation.next(), &self.rest);
            let found = if watched {
                next.await
            } else {
                match select(Box::pin(next), &mut cancelled).await {
                    Either::Left((found, _)) => found,
                    Either::Right(_) => return Ok(()),
                }
            };
            let Some(found) = found else { return Ok(()) };
            let found = found.map_err(thrown)?;
            let answer = step.call1(&JsValue::NULL, &request::step(&found).to_string().into())?;
            match select(JsFuture::from(Promise::resolve(&answer)), &mut cancelled).await {
                Either::Left((more, _)) => {
                    if !more?.is_truthy() {
                        return Ok(());
                    }
                }
                Either::Right(_) => return Ok(()),
            }
        }
    }
}

impl LoadedModel {
    fn with<T>(&self, ask: impl FnOnce(&Model) -> Result<T>) -> std::result::Result<T, JsValue> {
        match &*self.model.borrow() {
            Some(model) => ask(model).map_err(thrown),
            None => Err(thrown(busy())),
        }
    }

    fn lend(&self) -> std::result::Result<Lent<'_>, JsValue> {
        let model = self.model.borrow_mut().take();
        if model.is_none() {
            return Err(thrown(busy()));
        }
        Ok(Lent { home: &self.model, model })
    }
}

fn busy() -> Error {
    Error::Usage { reason: "this model is at work: one call at a time".into() }
}

/// A model at work, which comes home however the work ends.
struct Lent<'a> {
    home: &'a RefCell<Option<Model>>,
    model: Option<Model>,
}

impl Lent<'_> {
    fn model(&mut self) -> std::result::Result<&mut Model, JsValue> {
        self.model.as_mut().ok_or_else(|| thrown(busy()))
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        *self.home.borrow_mut() = self.model.take();
    }
}

/// An error as JavaScript gets it: a plain object, since no class of its own outlives the way from a worker.
fn thrown(error: Error) -> JsValue {
    let hint = match &error {
        Error::NoAdapter { .. } => Some("probe() says what there is; backend: 'cpu' works everywhere".to_string()),
        Error::Gpu { .. } => Some("update the graphics driver, or load with backend: 'cpu'".to_string()),
        Error::Mismatch { .. } | Error::WrongAnswer { .. } => Some("please report it with what probe() says".to_string()),
        other => other.hint(),
    };
    let object = json!({
        "code": error.code(),
        "message": spelt(&error.to_string()),
        "hint": hint.as_deref().map(spelt),
        "details": details(&error),
    });
    JSON::parse(&object.to_string()).unwrap_or_else(|fault| fault)
}

/// A text of the crate with options as JavaScript spells them.
fn spelt(text: &str) -> String {
    let names = [("--ctx-size", "contextLength"), ("--loops", "loops"), ("min-loops", "minLoops"), ("--dtype", "dtype")];
    let samplings = [("top_k", "topK"), ("top_p", "topP"), ("min_p", "minP")];
    names.into_iter().chain(samplings).fold(text.to_string(), |text, (crates, ours)| text.replace(crates, ours))
}

/// Facts for programs.
fn details(error: &Error) -> Value {
    match error {
        Error::File { path, .. } | Error::Format { path, .. } | Error::Tokenizer { path, .. } => json!({ "path": path }),
        Error::Config { path, field, .. } => json!({ "path": path, "field": field }),
        Error::Tensor { path, tensor, .. } => json!({ "path": path, "tensor": tensor }),
        Error::UnknownWord { word, known } => json!({ "word": word, "known": known }),
        Error::Token { token, vocab_size } => json!({ "token": token, "vocabSize": vocab_size }),
        Error::Context { asked, limit, .. } | Error::Loops { asked, limit, .. } => json!({ "asked": asked, "limit": limit }),
        Error::Argument { name, .. } => json!({ "name": name }),
        Error::Memory { needed, available, .. } => json!({ "needed": needed, "available": available }),
        _ => Value::Null,
    }
}

fn info(name: &str, model: &Model) -> Value {
    let (config, engine, defaults) = (model.config(), model.engine(), model.defaults());
    let (parameters, needs, depth) = (config.parameters(), engine.needs(), engine.default_depth());
    let matrices: serde_json::Map<String, Value> =
        needs.matrices.iter().map(|(precision, bytes): (&Precision, &u64)| (precision.name().to_string(), (*bytes).into())).collect();
    json!({
        "name": name,
        "device": engine.device().name,
        "backend": if engine.device().adapter.is_some() { "webgpu" } else { "cpu" },
        "parameters": parameters.total,
        "activeParameters": parameters.active,
        "vocabSize": config.vocab_size,
        "dim": config.dim,
        "experts": config.n_experts,
        "expertsPerToken": config.n_experts_per_tok,
        "haltingThreshold": config.act_threshold,
        "trainedLoops": config.max_loop_iters,
        "maxLoops": engine.max_loops(),
        "contextLength": engine.context(),
        "spectralRadius": engine.spectral_radius(),
        "inPlace": defaults.in_place.unwrap_or(false),
        "defaults": { "loops": depth.loops, "minLoops": depth.min_loops, "exit": request::exit_name(depth.exit) },
        "endTokens": defaults.eos_token_id,
        "hasTokenizer": model.tokenizer().is_ok(),
        "bytes": { "total": needs.total(), "matrices": matrices, "tables": needs.tables, "cache": needs.cache, "states": needs.states, "work": needs.work },
        "notes": engine.notes(),
    })
}

/// SHA-256 of bytes that come piece by piece, which the browser's own cannot do.
#[wasm_bindgen(js_name = Sha256)]
#[derive(Default)]
pub struct Hash(Sha256);

#[wasm_bindgen(js_class = Sha256)]
impl Hash {
    /// Of nothing yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// 64 hexadecimal digits of all bytes so far.
    pub fn digest(&self) -> String {
        self.0.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[wasm_bindgen]
unsafe extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(text: &str);
}

/// Once, when the module is there: what should never happen says where it happened.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|fault| console_error(&fault.to_string())));
}
