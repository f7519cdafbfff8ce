//! The facts of `inspect` as a page for people, 80 columns wide where names allow it.

use serde_json::Value;

use super::{Facts, Files};
use crate::cli::common::thousands;
use crate::error::{Error, size};
use crate::model::config::Attention;

/// Columns before the text of a line.
const MARGIN: usize = 15;
/// Columns of a page.
const WIDTH: usize = 80;

pub(super) fn page(facts: &Facts) -> String {
    let mut page = Page(String::new());
    match &facts.files {
        Some(files) => {
            page.line("model", facts.name);
            page.fields("config", &facts.config.fields());
            files_of(facts, files, &mut page);
        }
        None => {
            page.line("published size", facts.name);
            page.fields("config", &facts.config.fields());
            if facts.list {
                page.line("tensors", &number(facts.tensors().len()));
                list(facts, &mut page);
            }
        }
    }
    parameters(facts, &mut page);
    per_token(facts, &mut page);
    if let Some(files) = &facts.files {
        // A stops at exp(-exp(-20)), which is 1 in f32.
        let stable = if files.radius < 1.0 { "below 1, so the loop is stable" } else { "not below 1: A was trained to its bound" };
        page.line("ρ(A)", &format!("{}: {stable}", files.radius));
    }
    memory(facts, &mut page);
    page.0
}

/// What only files can tell.
fn files_of(facts: &Facts, files: &Files, page: &mut Page) {
    let defaults = facts.set_defaults();
    if defaults.is_empty() {
        page.line("defaults", "none: the folder has no generation_config.json, or an empty one");
    } else {
        page.fields("defaults", &defaults);
    }
    let words = files.vocabulary.map(|words| format!("{} tokens", number(words)));
    page.line("tokenizer", words.as_deref().unwrap_or("none: takes token ids, not text"));
    let (dtypes, all) = (files.dtypes(), files.weights.tensors().count());
    let without_scales = dtypes.values().map(|(tensors, _)| *tensors as usize).sum();
    let scales = if all > without_scales { format!(", and {} of scales", number(all - without_scales)) } else { String::new() };
    page.line("tensors", &format!("{}{scales}", number(without_scales)));
    for (dtype, (tensors, bytes)) in dtypes {
        page.line("", &format!("{dtype}: {} bytes in {tensors}", thousands(bytes)));
    }
    page.line(
        "",
        if files.checked { "checked: every number is finite" } else { "checked: names, shapes, dtypes (--check reads every number)" },
    );
    files.notes.iter().for_each(|note| page.text("", note));
    if facts.list {
        list(facts, page);
    }
}

fn list(facts: &Facts, page: &mut Page) {
    let tensors = facts.tensors();
    let longest = tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0);
    for tensor in tensors {
        let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
        let dtype = tensor.dtype.map_or(String::new(), |dtype| format!("{dtype:4}  "));
        page.line("", &format!("{:longest$}  {dtype}({})", tensor.name, shape.join(", ")));
    }
}

fn parameters(facts: &Facts, page: &mut Page) {
    let parameters = facts.config.parameters();
    let (total, trained) = (thousands(parameters.total + parameters.buffers), thousands(parameters.total));
    page.line("parameters", &format!("{total} ({trained} trained + {} router biases)", parameters.buffers));
    page.line("", &format!("{} active a token", thousands(parameters.active)));
}

/// What the cache takes.
fn per_token(facts: &Facts, page: &mut Page) {
    let (config, needs) = (&facts.config, &facts.needs);
    let (slots, width) = (number(config.cache_slots(needs.loops)), number(config.cache_width()));
    page.line(
        "cache a token",
        &format!("slots {slots} = {} + {} + {} loops", config.prelude_layers, config.coda_layers, number(needs.loops)),
    );
    let width = match config.attention {
        Attention::Gqa { n_kv_heads, head_dim } => format!("{width} numbers = 2 · {n_kv_heads} key/value heads · {head_dim}"),
        Attention::Mla { kv_lora_rank, rope, .. } => format!("{width} numbers = {kv_lora_rank} latent + {rope} RoPE"),
    };
    page.line("", &format!("× {width}"));
    page.line("", &format!("× 4 bytes = {} bytes", thousands(config.cache_bytes_per_token(needs.loops))));
    if needs.context != config.max_seq_len {
        let all = config.cache_bytes_per_token(needs.loops).saturating_mul(config.max_seq_len as u64);
        page.line("", &format!("{} at all {} positions of the model", size(all), number(config.max_seq_len)));
    }
    let bytes = thousands(config.state_bytes_per_token());
    page.line("state a token", &format!("2 · {} numbers × 4 bytes = {bytes} bytes:", number(config.dim)));
    page.line("", "h where its loops stopped, and e");
}

/// What takes memory on the device, and whether it has it.
fn memory(facts: &Facts, page: &mut Page) {
    let needs = &facts.needs;
    page.line("device", &facts.device.name);
    let positions = format!("{} positions", number(needs.context));
    let positions = match needs.sequences {
        1 => positions,
        sequences => format!("{} × {positions}", number(sequences)),
    };
    let matrices = needs.matrices.iter().map(|(precision, bytes)| (*bytes, format!("weight matrices in {precision}")));
    let pieces = matrices.chain([
        (needs.tables, "other weights and tables, in f32".to_string()),
        (needs.cache, format!("cache of {positions}, {} loops", number(needs.loops))),
        (needs.states, format!("states of {positions}")),
        (needs.work, "work of a pass".to_string()),
        (needs.total(), "in all".to_string()),
    ]);
    for (i, (bytes, what)) in pieces.enumerate() {
        page.line(if i == 0 { "needs" } else { "" }, &format!("{:>10}  {what}", size(bytes)));
    }
    if let Some(memory) = facts.memory {
        page.line("has", &format!("{:>10}  to spare", size(memory)));
    }
    match &facts.fault {
        None if facts.memory.is_some() => page.line("fits", "yes"),
        None => page.text("fits", "if there is memory for it: graphics cards do not tell how much they have (--memory SIZE does)"),
        Some(Error::Memory { needed, available: Some(available), .. }) => {
            page.line("fits", &format!("no: {} too little", size(needed.saturating_sub(*available))));
        }
        Some(fault) => page.text("fits", &format!("no: {fault}")),
    }
    if let Some(hint) = facts.fault.as_ref().and_then(Error::hint) {
        page.text("", &hint);
    }
}

/// Lines of a heading and what belongs to it.
struct Page(String);

impl Page {
    fn line(&mut self, heading: &str, text: &str) {
        self.0.push_str(format!("{heading:MARGIN$}{text}").trim_end());
        self.0.push('\n');
    }

    /// Sentences, broken between words.
    fn text(&mut self, heading: &str, text: &str) {
        let (mut heading, mut line) = (heading, String::new());
        for word in text.split_whitespace() {
            if !line.is_empty() && MARGIN + line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(std::mem::take(&mut heading), &std::mem::take(&mut line));
            }
            line = if line.is_empty() { word.to_string() } else { format!("{line} {word}") };
        }
        self.line(heading, &line);
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

fn number(number: usize) -> String {
    thousands(number as u64)
}
