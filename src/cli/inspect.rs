//! `refrain inspect`: what a model is and what it takes, from its files or from a published size; nothing is loaded onto a device.

mod json;
mod text;

use std::collections::BTreeMap;

use pollster::block_on;

use super::common::{self, Common, Loading, Report};
use crate::backend::{Backend, DeviceChoice, DeviceInfo, adapters, choose};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::defaults::{Defaults, Exit};
use crate::model::files::{Source, Weights};
use crate::model::{Needs, Options, read_config, spectral_radius};
use crate::tokenizer::Tokenizer;
use serde_json::Value;

/// Options of `inspect`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["model", "config"]))]
pub(super) struct Args {
    /// A shipped model, hf:owner/repo[@revision] or the path of a model folder
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// Instead of a model a published size, of which there are no weights: mythos_1b, mythos_3b, mythos_10b, mythos_50b, mythos_100b,
    /// mythos_500b or mythos_1t
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// Loops that the cache is to have slots for [default: the model's own]
    #[arg(long, value_name = "N")]
    loops: Option<usize>,
    /// Positions that the cache is to have [default: the model's own, at most 4096]
    #[arg(short, long, value_name = "N")]
    ctx_size: Option<usize>,
    /// Sequences that are to be held at once [default: 1]
    #[arg(long, value_name = "N")]
    sequences: Option<usize>,
    #[command(flatten)]
    loading: Loading,
    /// List every tensor too
    #[arg(long)]
    tensors: bool,
    /// Read every weight, as loading does, instead of the files' headers only
    #[arg(long, conflicts_with = "config")]
    check: bool,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Report::Text, value_name = "FORMAT")]
    format: Report,
}

/// Reads the files, if there are any, counts what the model takes and reports.
pub(super) fn main(args: &Args, common: &Common) -> Result<()> {
    let options = Options { loops: args.loops, context: args.ctx_size, sequences: args.sequences, ..args.loading.options(common) };
    // One of both is there: clap saw to it.
    let source = args.model.as_deref().map(|model| common::source(model, common)).transpose()?;
    let (config, defaults) = match (&source, &args.config) {
        (Some(source), _) => read_config(source)?,
        (None, name) => (common::published(name.as_deref().unwrap_or_default())?, Defaults::default()),
    };
    let weights = source.as_ref().map(Weights::open).transpose()?;
    let files = match (&source, &weights) {
        (Some(source), Some(weights)) => Some(Files::read(source, weights, &config, args.check)?),
        _ => None,
    };
    let device = device(common)?;
    let (needs, fault) = Needs::of(&device, &config, &defaults, &options, weights.as_ref())?;
    let facts = Facts {
        name: args.model.as_deref().or(args.config.as_deref()).unwrap_or_default(),
        files,
        list: args.tensors,
        config,
        defaults,
        needs,
        memory: Backend::imagined(&device, &options.device).memory(),
        device,
        fault,
    };
    common::print(&match args.format {
        Report::Text => text::page(&facts),
        Report::Json => format!("{:#}\n", json::value(&facts)),
    })
}

/// The device that the model would run on.
fn device(common: &Common) -> Result<DeviceInfo> {
    let mut found = if common.device == DeviceChoice::Cpu { Vec::new() } else { block_on(adapters()) };
    Ok(match choose(&common.device(), &found)? {
        Some(index) => DeviceInfo::gpu(found.swap_remove(index)),
        None => DeviceInfo::cpu(),
    })
}

/// All that is reported.
struct Facts<'a> {
    /// Of the model, or of the published size.
    name: &'a str,
    config: Config,
    defaults: Defaults,
    needs: Needs,
    /// `None` of a published size.
    files: Option<Files<'a>>,
    /// Whether every tensor is listed.
    list: bool,
    device: DeviceInfo,
    /// Why the device cannot run it.
    fault: Option<Error>,
    /// Bytes that the device has to spare, where it is known.
    memory: Option<u64>,
}

/// What the files say beside the sizes.
struct Files<'a> {
    weights: &'a Weights<'a>,
    /// Whether every number was read, or only the headers.
    checked: bool,
    notes: Vec<String>,
    /// ρ(A).
    radius: f32,
    /// Words of the tokenizer, where there is one.
    vocabulary: Option<usize>,
}

impl<'a> Files<'a> {
    fn read(source: &Source, weights: &'a Weights<'a>, config: &Config, check: bool) -> Result<Self> {
        let specs = config.tensors();
        let notes = weights.check(&specs)?;
        if check {
            for spec in specs.iter().filter(|spec| weights.tensors().any(|tensor| tensor.name == spec.name)) {
                weights.read(&spec.name, &spec.shape)?;
            }
        }
        let vocabulary = match source.read_small("tokenizer.json")? {
            Some(json) => Some(Tokenizer::parse(&source.path("tokenizer.json"), &json, config.vocab_size)?.vocab_size()),
            None => None,
        };
        Ok(Self { weights, checked: check, notes, radius: spectral_radius(weights, config)?, vocabulary })
    }

    /// Tensors and bytes for each dtype. Blocks go by the name of their precision, and their scales with them.
    fn dtypes(&self) -> BTreeMap<String, (u64, u64)> {
        let all: BTreeMap<&str, _> = self.weights.tensors().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut dtypes = BTreeMap::new();
        for tensor in self.weights.tensors() {
            let matrix = tensor.name.strip_suffix(".scales").and_then(|name| all.get(name));
            let dtype = match matrix.unwrap_or(&tensor).dtype.to_string() {
                blocks if blocks == "U8" => "Q4".into(),
                blocks if blocks == "I8" => "Q8".into(),
                plain => plain,
            };
            let (tensors, bytes) = dtypes.entry(dtype).or_insert((0, 0));
            *tensors += u64::from(matrix.is_none());
            *bytes += tensor.bytes;
        }
        dtypes
    }
}

/// A tensor that is listed.
struct Listed {
    name: String,
    /// Where there are files.
    dtype: Option<String>,
    shape: Vec<usize>,
    bytes: Option<u64>,
}

impl Facts<'_> {
    /// The tensors of the files, or those that files of this size would have.
    fn tensors(&self) -> Vec<Listed> {
        match &self.files {
            Some(files) => {
                let listed = files.weights.tensors().map(|tensor| Listed {
                    name: tensor.name.to_string(),
                    dtype: Some(tensor.dtype.to_string()),
                    shape: tensor.shape.to_vec(),
                    bytes: Some(tensor.bytes),
                });
                listed.collect()
            }
            None => {
                let needed = self.config.tensors().into_iter().filter(|spec| !spec.optional);
                needed.map(|spec| Listed { name: spec.name, dtype: None, shape: spec.shape, bytes: None }).collect()
            }
        }
    }

    /// The keys of `generation_config.json` that are set.
    fn set_defaults(&self) -> Vec<(&'static str, Value)> {
        let own = &self.defaults;
        let exit = own.exit.map(|exit| match exit {
            Exit::Model => "model".into(),
            Exit::Fixed => "fixed".into(),
        });
        let keys: [(&str, Option<Value>); 9] = [
            ("n_loops", own.n_loops.map(Into::into)),
            ("min_loops", own.min_loops.map(Into::into)),
            ("exit", exit),
            ("in_place", own.in_place.map(Into::into)),
            ("max_new_tokens", own.max_new_tokens.map(Into::into)),
            ("temperature", own.temperature.map(shortest)),
            ("top_k", own.top_k.map(Into::into)),
            ("top_p", own.top_p.map(shortest)),
            ("min_p", own.min_p.map(shortest)),
        ];
        keys.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

/// An f32 with the digits that it was written with: 0.99, not 0.9900000095367432.
fn shortest(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Into::into)
}
