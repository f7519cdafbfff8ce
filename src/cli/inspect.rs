//! `refrain inspect`: what a model is and what it takes, from its files alone; nothing is loaded onto a device.

use std::collections::BTreeMap;

use pollster::block_on;
use serde_json::{Map, Value, json};

use super::common::{self, Common, Report, thousands};
use crate::backend::{Backend, DeviceChoice, DeviceInfo, adapters, choose};
use crate::error::{Error, Result, size};
use crate::model::config::{Attention, Config};
use crate::model::defaults::{Defaults, Exit};
use crate::model::files::{Source, Weights};
use crate::model::{Needs, Options, read_config, spectral_radius};
use crate::tokenizer::Tokenizer;

/// Options of `inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A shipped model, hf:owner/repo[@revision] or the path of a model folder
    #[arg(value_name = "MODEL")]
    model: String,
    /// Loops that the cache is to have slots for [default: the model's own]
    #[arg(long, value_name = "N")]
    loops: Option<usize>,
    /// Positions that the cache is to have [default: the model's own, at most 4096]
    #[arg(short, long, value_name = "N")]
    ctx_size: Option<usize>,
    /// List every tensor too
    #[arg(long)]
    tensors: bool,
    /// Read every weight, as loading does, instead of the files' headers only
    #[arg(long)]
    check: bool,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Report::Text, value_name = "FORMAT")]
    format: Report,
}

/// Reads the files and reports.
pub(super) fn main(args: &Args, common: &Common) -> Result<()> {
    let source = common::source(&args.model, common)?;
    let (config, defaults) = read_config(&source)?;
    let options = Options { loops: args.loops, context: args.ctx_size, ..Default::default() };
    let weights = Weights::open(&source)?;
    let notes = weights.check(&config.tensors())?;
    if args.check {
        for spec in config.tensors() {
            if weights.tensors().any(|tensor| tensor.name == spec.name) {
                weights.read(&spec.name, &spec.shape)?;
            }
        }
    }
    let device = device(common)?;
    let (needs, fault) = Needs::of(&device, &config, &defaults, &options, Some(&weights))?;
    let facts = Facts {
        model: &args.model,
        radius: spectral_radius(&weights, &config)?,
        vocabulary: vocabulary(&source, &config)?,
        list: args.tensors,
        checked: args.check,
        config,
        defaults,
        needs,
        weights: &weights,
        notes,
        memory: Backend::imagined(&device, &common.device()).memory(),
        device,
        fault,
    };
    common::print(&match args.format {
        Report::Text => facts.text(),
        Report::Json => format!("{:#}\n", facts.json()),
    })
}

/// Words of the tokenizer, where there is one.
fn vocabulary(source: &Source, config: &Config) -> Result<Option<usize>> {
    let Some(json) = source.read_small("tokenizer.json")? else { return Ok(None) };
    Ok(Some(Tokenizer::parse(&source.path("tokenizer.json"), &json, config.vocab_size)?.vocab_size()))
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
    model: &'a str,
    config: Config,
    defaults: Defaults,
    needs: Needs,
    weights: &'a Weights<'a>,
    list: bool,
    checked: bool,
    notes: Vec<String>,
    radius: f32,
    vocabulary: Option<usize>,
    device: DeviceInfo,
    /// Why the device cannot run it.
    fault: Option<Error>,
    /// Bytes that the device has to spare, where it is known.
    memory: Option<u64>,
}

impl Facts<'_> {
    /// Tensors and bytes in the files for each dtype.
    fn dtypes(&self) -> BTreeMap<String, (u64, u64)> {
        let mut dtypes = BTreeMap::new();
        for tensor in self.weights.tensors() {
            let (tensors, bytes) = dtypes.entry(tensor.dtype.to_string()).or_insert((0, 0));
            *tensors += 1;
            *bytes += tensor.bytes;
        }
        dtypes
    }

    /// The fields of `config.json` under its own names.
    fn fields(&self) -> Vec<(&'static str, Value)> {
        let config = &self.config;
        let mut fields: Vec<(&str, Value)> = vec![
            ("vocab_size", config.vocab_size.into()),
            ("dim", config.dim.into()),
            ("n_heads", config.n_heads.into()),
            ("max_seq_len", config.max_seq_len.into()),
            ("max_loop_iters", config.max_loop_iters.into()),
            ("prelude_layers", config.prelude_layers.into()),
            ("coda_layers", config.coda_layers.into()),
        ];
        match config.attention {
            Attention::Gqa { n_kv_heads, .. } => fields.extend([("attn_type", "gqa".into()), ("n_kv_heads", n_kv_heads.into())]),
            Attention::Mla { kv_lora_rank, q_lora_rank, rope, nope, v } => fields.extend([
                ("attn_type", "mla".into()),
                ("kv_lora_rank", kv_lora_rank.into()),
                ("q_lora_rank", q_lora_rank.into()),
                ("qk_rope_head_dim", rope.into()),
                ("qk_nope_head_dim", nope.into()),
                ("v_head_dim", v.into()),
            ]),
        }
        fields.extend([
            ("n_experts", config.n_experts.into()),
            ("n_shared_experts", config.n_shared_experts.into()),
            ("n_experts_per_tok", config.n_experts_per_tok.into()),
            ("expert_dim", config.expert_dim.into()),
            ("lora_rank", config.lora_rank.into()),
            ("act_threshold", shortest(config.act_threshold)),
            ("rope_theta", config.rope_theta.into()),
            ("max_output_tokens", config.max_output_tokens.into()),
        ]);
        fields
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

    fn json(&self) -> Value {
        let (config, needs, parameters) = (&self.config, &self.needs, self.config.parameters());
        let object = |fields: Vec<(&str, Value)>| Value::Object(fields.into_iter().map(|(key, value)| (key.into(), value)).collect());
        let dtypes = self.dtypes();
        let each = dtypes.iter().map(|(dtype, (tensors, bytes))| (dtype.clone(), json!({ "tensors": tensors, "bytes": bytes })));
        let list =
            self.weights.tensors().map(|t| json!({ "name": t.name, "dtype": t.dtype.to_string(), "shape": t.shape, "bytes": t.bytes }));
        let mut tensors = json!({ "count": self.weights.tensors().count(), "dtypes": each.collect::<Map<_, _>>() });
        if self.list {
            tensors["list"] = list.collect();
        }
        json!({
            "model": self.model,
            "config": object(self.fields()),
            "defaults": object(self.set_defaults()),
            "tensors": tensors,
            "checked": if self.checked { "every number" } else { "headers" },
            "notes": self.notes,
            "parameters": {
                "total": parameters.total + parameters.buffers,
                "trained": parameters.total,
                "active": parameters.active,
            },
            "cache": {
                "slots": config.cache_slots(needs.loops),
                "numbers": config.cache_width(),
                "bytes_per_token": config.cache_bytes_per_token(needs.loops),
                "loops": needs.loops,
                "context": needs.context,
                "bytes": needs.cache,
            },
            "state": { "numbers": 2 * config.dim, "bytes_per_token": config.state_bytes_per_token(), "bytes": needs.states },
            "spectral_radius": shortest(self.radius),
            "tokenizer": self.vocabulary.map(|words| json!({ "vocab_size": words })),
            "device": {
                "name": self.device.name,
                "max_binding_bytes": self.device.adapter.as_ref().map(|adapter| adapter.max_binding),
                "memory_bytes": self.memory,
                "matrices_bytes": self.needs.matrices.iter().map(|(p, bytes)| (p.name().into(), (*bytes).into())).collect::<Map<_, _>>(),
                "weights_bytes": needs.weights(),
                "cache_bytes": needs.cache,
                "state_bytes": needs.states,
                "work_bytes": needs.work,
                "total_bytes": needs.total(),
                "fits": self.fault.is_none(),
                "reason": self.fault.as_ref().map(ToString::to_string),
            },
        })
    }

    /// What takes memory on the device.
    fn pieces(&self) -> Vec<(String, u64)> {
        let needs = &self.needs;
        let matrices = needs.matrices.iter().map(|(precision, bytes)| (format!("weight matrices in {precision}"), *bytes));
        let positions = format!("{} positions", number(needs.context * needs.sequences));
        matrices
            .chain([
                ("other weights and tables, in f32".to_string(), needs.tables),
                (format!("cache of {positions}, {} loops", number(needs.loops)), needs.cache),
                (format!("states of {positions}"), needs.states),
                ("work of a pass".to_string(), needs.work),
            ])
            .collect()
    }

    fn text(&self) -> String {
        let (config, needs, parameters) = (&self.config, &self.needs, self.config.parameters());
        let mut page = Page(String::new());
        page.line("model", self.model);
        page.fields("config", &self.fields());
        let defaults = self.set_defaults();
        if defaults.is_empty() {
            page.line("defaults", "none: the folder has no generation_config.json, or an empty one");
        } else {
            page.fields("defaults", &defaults);
        }
        page.line(
            "tokenizer",
            &self.vocabulary.map_or("none: takes token ids, not text".into(), |words| format!("{} tokens", number(words))),
        );
        page.line("tensors", &number(self.weights.tensors().count()));
        for (dtype, (tensors, bytes)) in self.dtypes() {
            page.line("", &format!("{dtype}: {} bytes in {tensors}", thousands(bytes)));
        }
        page.line(
            "",
            if self.checked { "checked: every number is finite" } else { "checked: names, shapes and dtypes (--check reads every number)" },
        );
        self.notes.iter().for_each(|note| page.line("", note));
        if self.list {
            self.list(&mut page);
        }
        let total = thousands(parameters.total + parameters.buffers);
        page.line(
            "parameters",
            &format!("{total} ({} trained + {} of the router's bias)", thousands(parameters.total), parameters.buffers),
        );
        page.line("", &format!("{} active a token", thousands(parameters.active)));
        let (layers, slots, width) = ((config.prelude_layers, config.coda_layers), config.cache_slots(needs.loops), config.cache_width());
        let bytes = thousands(config.cache_bytes_per_token(needs.loops));
        let slots = number(slots);
        page.line("cache a token", &format!("slots {slots} = {} + {} + {} loops", layers.0, layers.1, number(needs.loops)));
        page.line(
            "",
            &match config.attention {
                Attention::Gqa { n_kv_heads, head_dim } => {
                    format!("× {} numbers = 2 · {n_kv_heads} key/value heads · {head_dim}", number(width))
                }
                Attention::Mla { kv_lora_rank, rope, .. } => format!("× {} numbers = {kv_lora_rank} latent + {rope} RoPE", number(width)),
            },
        );
        page.line("", &format!("× 4 bytes = {bytes} bytes"));
        page.line("cache", &format!("{} at {} positions", size(needs.cache), number(needs.context)));
        if needs.context != config.max_seq_len {
            let all = config.cache_bytes_per_token(needs.loops).saturating_mul(config.max_seq_len as u64);
            page.line("", &format!("{} at all {} of the model", size(all), number(config.max_seq_len)));
        }
        let bytes = thousands(config.state_bytes_per_token());
        page.line("state a token", &format!("2 · {} numbers × 4 bytes = {bytes} bytes: h where its loops stopped, and e", config.dim));
        page.line("states", &format!("{} at {} positions", size(needs.states), number(needs.context)));
        page.line(
            "ρ(A)",
            &format!(
                "{}: {}",
                self.radius,
                if self.radius < 1.0 {
                    "below 1, so the loop is stable"
                } else {
                    "not below 1. A stops at exp(-exp(-20)), which is 1 in f32"
                }
            ),
        );
        page.line("device", &self.device.name);
        for (i, (what, bytes)) in self.pieces().into_iter().enumerate() {
            page.line("", &format!("{} {:>10}  {what}", if i == 0 { "needs" } else { "     " }, size(bytes)));
        }
        page.line("", &format!("      {:>10}  in all", size(needs.total())));
        page.line(
            "",
            &match &self.fault {
                None if self.memory.is_some() => "fits".to_string(),
                None => "fits, if there is memory for it: graphics cards do not tell how much they have".to_string(),
                Some(fault) => format!("does not fit: {fault}"),
            },
        );
        if let Some(hint) = self.fault.as_ref().and_then(Error::hint) {
            page.line("", &hint);
        }
        page.0
    }

    fn list(&self, page: &mut Page) {
        let longest = self.weights.tensors().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0);
        for tensor in self.weights.tensors() {
            let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
            page.line("", &format!("{:longest$}  {:4}  ({})", tensor.name, tensor.dtype.to_string(), shape.join(", ")));
        }
    }
}

/// Lines of a heading and what belongs to it.
struct Page(String);

impl Page {
    fn line(&mut self, heading: &str, text: &str) {
        self.0.push_str(format!("{heading:15}{text}\n").trim_end_matches(' '));
    }

    /// Names and values, two a line.
    fn fields(&mut self, heading: &str, fields: &[(&str, Value)]) {
        for (i, pair) in fields.chunks(2).enumerate() {
            let cells: Vec<String> = pair.iter().map(|(name, value)| format!("{name:18}{:10}", plain(value))).collect();
            self.line(if i == 0 { heading } else { "" }, cells.join("    ").trim_end());
        }
    }
}

/// A value as people write it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_u64().map_or_else(|| number.as_f64().map_or(String::new(), |x| x.to_string()), thousands),
        other => other.to_string(),
    }
}

/// An f32 with the digits that it was written with: 0.99, not 0.9900000095367432.
fn shortest(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Into::into)
}

fn number(number: usize) -> String {
    thousands(number as u64)
}
