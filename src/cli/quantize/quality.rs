//! The table of `quantize --quality`: the same prompts with weights in f32 and in fewer bits.

use std::path::Path;

use pollster::block_on;
use serde_json::json;

use super::super::common::{self, Common};
use super::super::forward::Inputs;
use super::super::problems::{self, Problem};
use super::super::table::draw;
use super::{Args, Format};
use crate::error::{Error, Result, size};
use crate::generate::{Model, read_tokenizer};
use crate::model::config::Config;
use crate::model::files::Source;
use crate::model::{Observed, Options, Quality, read_config};
use crate::precision::Precision;
use crate::tokenizer::Tokenizer;

/// Prompts where a model has none of its own: so many, of so many tokens.
const RANDOM: (usize, usize) = (4, 64);

/// What is asked.
pub(super) struct Prompts {
    tokens: Vec<Vec<u32>>,
    /// Of each prompt, where answers are known: the tokens that are right at its last places.
    answers: Vec<Vec<String>>,
}

/// One line of the table.
struct Row {
    dtype: String,
    bytes: u64,
    /// Against f32; none for f32 itself.
    quality: Option<Quality>,
    /// Right answers, and all.
    right: (usize, usize),
}

impl Prompts {
    /// From the file that is named, or the model's own problems, or at random. Errors name the file.
    pub fn read(args: &Args, source: &Source) -> Result<Self> {
        let (config, _) = read_config(source)?;
        let mut prompts = match &args.prompts {
            Some(path) => Self::from_file(path, source, &config)?,
            None if source.read_small(problems::FILE)?.is_some() => Self::from_problems(&problems::of(source)?, source)?,
            None => Self::random(&config),
        };
        if let Some(limit) = args.limit {
            prompts.tokens.truncate(limit);
            prompts.answers.truncate(limit);
        }
        let name = args.prompts.as_ref().map_or("--prompts".into(), |path| path.display().to_string());
        if prompts.tokens.is_empty() {
            let expected = "at least one prompt".into();
            return Err(Error::Format { path: name, expected, found: "none".into() });
        }
        let longest = prompts.tokens.iter().map(Vec::len).max().unwrap_or(0);
        if longest > config.max_seq_len || prompts.tokens.iter().any(Vec::is_empty) {
            let expected = format!("prompts of 1 to {} tokens", config.max_seq_len);
            let found = if longest > config.max_seq_len { longest } else { 0 };
            return Err(Error::Format { path: name, expected, found: format!("one of {found}") });
        }
        Ok(prompts)
    }

    fn from_file(path: &Path, source: &Source, config: &Config) -> Result<Self> {
        let shown = path.display().to_string();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => {
                let inputs = Inputs::read(path, config)?;
                Ok(Self { tokens: inputs.ids.chunks(inputs.tokens).map(<[u32]>::to_vec).collect(), answers: Vec::new() })
            }
            Some("jsonl") => {
                let bytes = std::fs::read(path).map_err(|source| Error::File { path: shown.clone(), doing: "read", source })?;
                Self::from_problems(&problems::parse(&shown, &bytes)?, source)
            }
            _ => {
                let file = std::fs::File::open(path).map_err(|source| Error::File { path: shown.clone(), doing: "read", source })?;
                let fail = |place: String, expected: &str, found: String| Error::Format { path: place, expected: expected.into(), found };
                let text = String::from_utf8(common::read_text(&shown, file)?)
                    .map_err(|error| fail(shown.clone(), "text in UTF-8", format!("a fault: {}", error.utf8_error())))?;
                let tokenizer = tokenizer(source)?;
                let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
                let tokens = lines.map(|(number, line)| {
                    let place = format!("{shown}:{}", number + 1);
                    tokenizer.encode(line).map_err(|error| fail(place, "a prompt that the model can read", format!("a fault: {error}")))
                });
                Ok(Self { tokens: tokens.collect::<Result<_>>()?, answers: Vec::new() })
            }
        }
    }

    fn from_problems(problems: &[Problem], source: &Source) -> Result<Self> {
        let tokenizer = tokenizer(source)?;
        Ok(Self {
            tokens: problems.iter().map(|problem| problem.tokens(&tokenizer)).collect::<Result<_>>()?,
            answers: problems.iter().map(|problem| problem.answers.clone()).collect(),
        })
    }

    /// Tokens that any model knows, the same in every run.
    fn random(config: &Config) -> Self {
        let (prompts, length) = (RANDOM.0, RANDOM.1.min(config.max_seq_len));
        let token = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % config.vocab_size as u64;
        let prompt = |n: usize| (0..length).map(|i| token(n * length + i + 1) as u32).collect();
        Self { tokens: (0..prompts).map(prompt).collect(), answers: Vec::new() }
    }

    /// Asks in f32 and in each dtype, one model after the other, and prints the table.
    pub fn measure(&self, args: &Args, source: &Source, common: &Common) -> Result<()> {
        let (reference, row) = self.ask(args, source, Precision::F32, None, common)?;
        let mut rows = vec![row];
        let written = args.out.as_deref().map(Source::folder).transpose()?;
        for dtype in &args.dtype {
            // What was written is judged as it was written: there, asking for its own dtype changes nothing.
            rows.push(self.ask(args, written.as_ref().unwrap_or(source), *dtype, Some(&reference), common)?.1);
        }
        common::print(&match args.format {
            Format::Text => draw(&table(&rows), false),
            Format::Md => draw(&table(&rows), true),
            Format::Jsonl => rows.iter().map(|row| format!("{}\n", json(row))).collect(),
        })
    }

    /// What a model in this precision makes of the prompts.
    fn ask(
        &self,
        args: &Args,
        source: &Source,
        dtype: Precision,
        reference: Option<&[Observed]>,
        common: &Common,
    ) -> Result<(Vec<Observed>, Row)> {
        let context = self.tokens.iter().map(Vec::len).max();
        let options = Options { device: common.device(), dtype: Some(dtype), context, loops: args.loops, ..Options::default() };
        let mut model = common.load(source, &options)?;
        let mut depth = model.engine().default_depth();
        depth.loops = args.loops.unwrap_or(depth.loops);
        let bar = common.bar("asking in {msg} {bar:30} {pos}/{len} prompts {eta}");
        bar.set_length(self.tokens.len() as u64);
        bar.set_message(dtype.name());
        let mut observed = Vec::new();
        for prompt in &self.tokens {
            observed.extend(block_on(model.engine_mut().observe(std::slice::from_ref(prompt), depth))?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let row = Row {
            dtype: dtype.to_string(),
            bytes: model.config().stored_bytes(dtype),
            quality: reference.map(|reference| Quality::of(reference, &observed)),
            right: self.right(&model, &observed)?,
        };
        Ok((observed, row))
    }

    /// Right answers, and all.
    fn right(&self, model: &Model, observed: &[Observed]) -> Result<(usize, usize)> {
        let (mut right, mut all, mut end) = (0, 0, 0);
        for (tokens, answers) in self.tokens.iter().zip(&self.answers) {
            end += tokens.len();
            let last = &observed[end - answers.len().min(tokens.len())..end];
            for (observed, answer) in last.iter().zip(answers) {
                let said = model.decode(&[observed.best() as u32])?;
                right += usize::from(said.trim() == answer.trim());
                all += 1;
            }
        }
        Ok((right, all))
    }
}

fn tokenizer(source: &Source) -> Result<Tokenizer> {
    let reason = "no such file: prompts of this model are input_ids in a .safetensors file".into();
    read_tokenizer(source)?.ok_or_else(|| Error::Tokenizer { path: source.path("tokenizer.json"), reason })
}

fn share(part: usize, all: usize) -> String {
    format!("{:.2}%", 100.0 * part as f64 / all.max(1) as f64)
}

fn table(rows: &[Row]) -> Vec<Vec<String>> {
    let answers = rows.iter().any(|row| row.right.1 > 0);
    let heads = ["dtype", "weights", "tokens", "KL mean", "KL max", "top-1", "loops", "experts"].map(String::from);
    let mut table = vec![heads.into_iter().chain(answers.then(|| "right".into())).collect::<Vec<_>>()];
    for row in rows {
        let mut cells = vec![row.dtype.clone(), size(row.bytes)];
        match &row.quality {
            None => cells.extend(vec!["–".to_string(); 6]),
            Some(q) => cells.extend([
                common::thousands(q.tokens as u64),
                format!("{:.2e}", q.kl_mean),
                format!("{:.2e}", q.kl_max),
                share(q.same_best, q.tokens),
                share(q.other_loops, q.tokens),
                share(q.other_experts, q.tokens),
            ]),
        }
        if answers {
            cells.push(format!("{}/{}", row.right.0, row.right.1));
        }
        table.push(cells);
    }
    table
}

fn json(row: &Row) -> serde_json::Value {
    let against = row.quality.as_ref().map(|q| {
        json!({
            "tokens": q.tokens, "kl_mean": q.kl_mean, "kl_max": q.kl_max, "same_best": q.same_best,
            "other_loops": q.other_loops, "other_experts": q.other_experts,
        })
    });
    json!({ "dtype": row.dtype, "weights_bytes": row.bytes, "against_f32": against, "right": row.right.0, "answers": row.right.1 })
}
