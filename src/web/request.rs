//! What JavaScript asks for and is told, as JSON.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::backend::{DeviceChoice, DeviceOptions};
use crate::error::{Error, Result};
use crate::generate::{Choice, Finish, Halt, Model, Params, Prompt, Role, Step};
use crate::model::defaults::Exit;
use crate::model::{Depth, Detail, Options, TokenTrace};
use crate::sampler::Sampling;

/// Reads a request.
pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(|fault| Error::Argument {
        name: "options".into(),
        expected: "the options that the documentation names, with values of their types".into(),
        found: fault.to_string(),
    })
}

/// How to load.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Load {
    backend: String,
    dtype: Option<String>,
    context_length: Option<usize>,
    max_loops: Option<usize>,
    memory: Option<u64>,
}

impl Default for Load {
    fn default() -> Self {
        Self { backend: "auto".into(), dtype: None, context_length: None, max_loops: None, memory: None }
    }
}

impl Load {
    pub fn options(self) -> Result<Options> {
        let (device, allow_software) = match self.backend.as_str() {
            "auto" => (DeviceChoice::Auto, false),
            // Who asks for WebGPU by name gets what the browser has, even if it is a program.
            "webgpu" => (DeviceChoice::Gpu, true),
            "cpu" => (DeviceChoice::Cpu, false),
            found => {
                let expected = "auto, webgpu or cpu".into();
                return Err(Error::Argument { name: "backend".into(), expected, found: found.into() });
            }
        };
        Ok(Options {
            device: DeviceOptions { device, allow_software, memory: self.memory, ..Default::default() },
            dtype: self.dtype.map(|dtype| dtype.parse()).transpose()?,
            context: self.context_length,
            loops: self.max_loops,
            ..Default::default()
        })
    }
}

/// How to generate; what is missing is as the model's folder says.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Generate {
    text: Option<String>,
    tokens: Vec<u32>,
    max_tokens: Option<usize>,
    stop: Vec<String>,
    seed: Option<u64>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    loops: Option<usize>,
    min_loops: Option<usize>,
    exit: Option<String>,
    echo: bool,
    in_place: bool,
    trace: Option<Trace>,
}

/// What to take down of every loop, beside halting and the change of the state.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Trace {
    experts: bool,
    lens: usize,
}

impl Generate {
    fn exit(&self) -> Result<Option<Exit>> {
        Ok(match self.exit.as_deref() {
            None => None,
            Some("model") => Some(Exit::Model),
            Some("fixed") => Some(Exit::Fixed),
            Some(found) => {
                return Err(Error::Argument { name: "exit".into(), expected: "model or fixed".into(), found: found.into() });
            }
        })
    }

    pub fn is_watched(&self) -> bool {
        self.trace.is_some()
    }

    /// The depth of a pass of one's own.
    pub fn depth(&self, model: &Model) -> Result<Depth> {
        let own = model.engine().default_depth();
        let loops = self.loops.unwrap_or(own.loops);
        let min_loops = self.min_loops.unwrap_or(own.min_loops.min(loops));
        Ok(Depth { loops, min_loops, exit: self.exit()?.unwrap_or(own.exit) })
    }

    pub fn params(self, model: &Model) -> Result<(Prompt, Params)> {
        let (exit, defaults) = (self.exit()?, model.defaults());
        let sampling = Sampling {
            temperature: self.temperature.or(defaults.temperature).unwrap_or(0.0),
            top_k: self.top_k.or(defaults.top_k).unwrap_or(0),
            top_p: self.top_p.or(defaults.top_p).unwrap_or(1.0),
            min_p: self.min_p.or(defaults.min_p).unwrap_or(0.0),
            seed: self.seed.unwrap_or(0),
        };
        let prompt = match self.text {
            Some(text) => Prompt::Text(text),
            None => Prompt::Tokens(self.tokens),
        };
        let params = Params {
            max_tokens: self.max_tokens,
            sampling: Some(sampling),
            loops: self.loops,
            min_loops: self.min_loops,
            exit,
            stop: self.stop,
            echo: self.echo,
            in_place: self.in_place,
            trace: self.trace.map(|trace| Detail { experts: trace.experts, lens: trace.lens, ..Default::default() }),
        };
        Ok((prompt, params))
    }
}

pub(super) fn exit_name(exit: Exit) -> &'static str {
    match exit {
        Exit::Model => "model",
        Exit::Fixed => "fixed",
    }
}

/// A step as the package's `Step`. Numbers that are not finite are null.
pub(super) fn step(step: &Step) -> Value {
    let choice = |choice: &Choice| json!({ "token": choice.token, "text": choice.text, "logprob": choice.logprob });
    json!({
        "index": step.index,
        "role": match step.role { Role::Prompt => "prompt", Role::Output => "output" },
        "token": step.token,
        "text": step.text,
        "logprob": step.logprob,
        "loops": step.loops,
        "exit": match step.exit { Halt::Halted => "halted", Halt::Max => "max", Halt::Fixed => "fixed" },
        "ms": step.time.as_secs_f64() * 1e3,
        "next": choice(&step.next),
        "finish": step.finish.map(|finish| match finish { Finish::End => "end", Finish::Stop => "stop", Finish::Length => "length", Finish::InPlace => "in-place" }),
        "debt": step.debt,
        "reached": step.reached,
        "trace": step.trace.as_ref().map(trace),
    })
}

fn trace(trace: &TokenTrace) -> Value {
    let each = |value: &dyn Fn(usize) -> Value| (0..trace.loops.len()).map(value).collect::<Vec<_>>();
    let pairs =
        |list: &[(u32, f32)]| (list.iter().map(|(id, _)| *id).collect::<Vec<_>>(), list.iter().map(|(_, x)| *x).collect::<Vec<_>>());
    json!({
        "haltProbabilities": each(&|t| trace.loops[t].halt_p.into()),
        "weights": each(&|t| trace.loops[t].weight.into()),
        "deltaNorm": each(&|t| trace.loops[t].delta.into()),
        "experts": each(&|t| { let (ids, gates) = pairs(&trace.loops[t].experts); json!({ "ids": ids, "gates": gates }) }),
        "lens": each(&|t| { let (ids, probabilities) = pairs(&trace.loops[t].lens); json!({ "ids": ids, "probabilities": probabilities }) }),
    })
}
