//! From a prompt to text: the model with its tokenizer, and the stream of steps that one generation is.
//!
//! A [`Step`] is one position: the token there, the loops that it took, and the prediction that the model makes there. A model
//! may answer by continuing the prompt, or in place: at each token of the prompt ([`Params::in_place`]).
//!
//! # When the device is lost
//!
//! A GPU may be unplugged, reset or put to sleep. Then the stream ends with [`Error::DeviceLost`], and the model is of no use any more. Who
//! opens it again and generates with the same seed gets the same steps, and passes over those that are told already:
//!
//! ```
//! use refrain::{Error, Model, Params, Result, generate::Step, shipped};
//!
//! async fn generate(prompt: &str, params: Params, mut tell: impl FnMut(Step)) -> Result<()> {
//!     let (mut told, mut losses) = (0, 0);
//!     'open: loop {
//!         let source = shipped::source("follow").expect("a shipped model");
//!         let mut model = Model::open(&source, &Default::default(), &mut |_| {}).await?;
//!         let mut steps = model.generate(prompt, params.clone())?;
//!         let mut passed = 0;
//!         while let Some(step) = steps.next().await {
//!             match step {
//!                 Err(Error::DeviceLost { .. }) if losses < 3 => {
//!                     losses += 1;
//!                     continue 'open;
//!                 }
//!                 Ok(_) if passed < told => passed += 1,
//!                 step => {
//!                     tell(step?);
//!                     (told, passed) = (told + 1, passed + 1);
//!                 }
//!             }
//!         }
//!         return Ok(());
//!     }
//! }
//! # let mut text = String::new();
//! # pollster::block_on(generate("a >b b", Params { max_tokens: Some(3), ..Params::default() }, |step| text.push_str(&step.text))).unwrap();
//! # assert!(!text.is_empty());
//! ```

mod run;
mod stop;

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};

use crate::backend::{Backend, Counters};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::defaults::{Defaults, Exit};
use crate::model::files::Source;
use crate::model::{Depth, Detail, Engine, Feed, Logits, Options, Output, PassTrace, Progress, Sequence, TokenTrace};
use crate::sampler::Sampling;
use crate::tokenizer::Tokenizer;

/// A loaded model: an [`Engine`] and, where the folder has one, a tokenizer.
pub struct Model {
    engine: Engine,
    tokenizer: Option<Tokenizer>,
    tokenizer_path: String,
}

/// What to generate from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, for the model's tokenizer.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text(text.to_string())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Self::Tokens(tokens)
    }
}

/// How to generate. `None` takes what the model's folder says, else the built-in default. The rest does not follow the folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    /// Tokens to generate at most. Asking for more than there is room for is [`Error::Context`]; by default a generation ends at
    /// the model's `max_output_tokens` or at the end of the context, whichever comes first.
    pub max_tokens: Option<usize>,
    /// How tokens are picked. By default as the folder says, else greedy.
    pub sampling: Option<Sampling>,
    /// The most loops of a token.
    pub loops: Option<usize>,
    /// Loops, counted from 1, before which no token halts.
    pub min_loops: Option<usize>,
    /// Whether the model decides when a token stops.
    pub exit: Option<Exit>,
    /// Texts that end the generation; they are not part of the output.
    pub stop: Vec<String>,
    /// Whether to give a step for every prompt token too.
    pub echo: bool,
    /// Only the prompt's tokens, with the prediction at each; nothing is generated. [`Model::answer`] sets it; whether the model was
    /// made for it stands in [`Model::defaults`].
    pub in_place: bool,
    /// What to take down of every loop. It makes each pass slow; `None` costs nothing.
    pub trace: Option<Detail>,
}

/// Whose token a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Given.
    Prompt,
    /// Generated.
    Output,
}

/// How a token's loops ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The model stopped: the halting mass reached the threshold.
    Halted,
    /// The loops ran out first.
    Max,
    /// A fixed number was asked for.
    Fixed,
}

/// What ended a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The token that would come next ends the output.
    End,
    /// A stop text.
    Stop,
    /// As many tokens as were asked for, or as there was room for.
    Length,
    /// Every token of the prompt has its answer.
    InPlace,
}

/// A token with its text and log-probability (natural).
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The id.
    pub token: u32,
    /// Its text, empty where the model has no tokenizer.
    pub text: String,
    /// log p under the model, before temperature and filters.
    pub logprob: f32,
}

/// One position of a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The position, counted from 0 over prompt and output.
    pub index: usize,
    /// Whose token it is.
    pub role: Role,
    /// The token.
    pub token: u32,
    /// The text that this token completes: empty while a character is incomplete, or while it may be the start of a stop text.
    pub text: String,
    /// log p of this token; unknown for the first and, unless `echo` is on, for those of the prompt.
    pub logprob: Option<f32>,
    /// Loops that the token took.
    pub loops: usize,
    /// How its loops ended.
    pub exit: Halt,
    /// Time since the step before; a prompt's steps come together, their time is that of the pass divided among them.
    pub time: Duration,
    /// The prediction made at this position: picked by the sampling for outputs, the most likely token within the prompt.
    pub next: Choice,
    /// Of the last step: what ended the generation. A generation that has nothing to say, since its first token would end it, has no output
    /// to tell by.
    pub finish: Option<Finish>,
    /// What the device did since the step before. A prompt's steps come together: the first of them, or of the output, has it all.
    pub work: Counters,
    /// Rows, each an older token at a loop, that a token which goes to the cap now would have to take along: see [`Ledger::debt`](crate::model::Ledger::debt).
    pub debt: usize,
    /// With [`Params::trace`]: how many positions, from the first on, have run loop 1, 2, …; the staircase of the cache: see
    /// [`Ledger`](crate::model::Ledger).
    pub reached: Vec<usize>,
    /// With [`Params::trace`]: what happened in each loop of the token.
    pub trace: Option<TokenTrace>,
    /// With [`Params::trace`]: the passes since the step before.
    pub passes: Vec<PassTrace>,
}

/// The steps of one generation, a [`Stream`]. Dropping it cancels the generation and frees its place in the cache. A [`Model`] may
/// move to another thread, a generation stays on the one that polls it.
pub struct Generation<'a>(Pin<Box<dyn Stream<Item = Result<Step>> + 'a>>);

impl Generation<'_> {
    /// The next step, `None` at the end. After an error the stream ends.
    pub async fn next(&mut self) -> Option<Result<Step>> {
        self.0.next().await
    }
}

impl Stream for Generation<'_> {
    type Item = Result<Step>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl Model {
    /// Loads the model folder at `path`. Errors: see [`Engine::load`] and [`Tokenizer::parse`].
    pub async fn load(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        Self::open(&Source::folder(path)?, &options, &mut |_| {}).await
    }

    /// Loads a model from any source (see [`crate::shipped`]), with progress in bytes.
    pub async fn open(source: &Source, options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Self> {
        // The tokenizer first: it is quick to read, and quick to refuse.
        let tokenizer = read_tokenizer(source)?;
        let engine = Engine::load(source, options, progress).await?;
        Ok(Self { engine, tokenizer, tokenizer_path: source.path("tokenizer.json") })
    }

    /// Loads a model onto a backend that is already open. The device in `options` is not looked at.
    pub fn open_on(backend: Backend, source: &Source, options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Self> {
        let tokenizer = read_tokenizer(source)?;
        let engine = Engine::load_on(backend, source, options, progress)?;
        Ok(Self { engine, tokenizer, tokenizer_path: source.path("tokenizer.json") })
    }

    /// The engine under the text.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to run passes of one's own.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        self.engine.config()
    }

    /// What the folder's `generation_config.json` says.
    pub fn defaults(&self) -> &Defaults {
        self.engine.defaults()
    }

    /// The tokenizer; [`Error::Tokenizer`] where the folder has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| Error::Tokenizer {
            path: self.tokenizer_path.clone(),
            reason: "the model has no tokenizer.json: it takes token ids, not text".into(),
        })
    }

    /// The tokens of a text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer()?.encode(text)
    }

    /// The text of tokens.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer()?.decode(tokens)
    }

    /// An empty sequence, for [`forward`](Self::forward).
    pub fn sequence(&self) -> Result<Sequence> {
        self.engine.sequence()
    }

    /// Runs new tokens of one or several sequences: see [`Engine::forward`].
    pub async fn forward(&mut self, feeds: &mut [Feed<'_>], depth: Depth, logits: Logits) -> Result<Output> {
        self.engine.forward(feeds, depth, logits).await
    }

    /// Starts a generation. Errors of the prompt and the parameters come at once, those of the device from the stream.
    pub fn generate(&mut self, prompt: impl Into<Prompt>, params: Params) -> Result<Generation<'_>> {
        let prompt = match prompt.into() {
            Prompt::Text(text) => self.encode(&text)?,
            Prompt::Tokens(tokens) => tokens,
        };
        let run = run::Run::new(&mut self.engine, self.tokenizer.as_ref(), prompt, params)?;
        let steps = futures_util::stream::unfold(Some(run), |run| async {
            let mut run = run?;
            match run.step().await {
                Ok(None) => None,
                Ok(Some(step)) => Some((Ok(step), Some(run))),
                Err(error) => Some((Err(error), None)),
            }
        });
        // Fused: a stream that has ended may be asked again.
        Ok(Generation(Box::pin(steps.fuse())))
    }

    /// The predictions at every token of the prompt: how models that answer in place are asked.
    pub async fn answer(&mut self, prompt: impl Into<Prompt>, params: Params) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let mut generation = self.generate(prompt, Params { in_place: true, ..params })?;
        while let Some(step) = generation.next().await {
            steps.push(step?);
        }
        Ok(steps)
    }
}

/// The tokenizer of a model's folder, where there is one.
pub(crate) fn read_tokenizer(source: &Source) -> Result<Option<Tokenizer>> {
    let Some(json) = source.read_small("tokenizer.json")? else { return Ok(None) };
    let (config, _) = crate::model::read_config(source)?;
    Tokenizer::parse(&source.path("tokenizer.json"), &json, config.vocab_size).map(Some)
}
