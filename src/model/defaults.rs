//! `generation_config.json`: how the maker of a model wants it to be run, where the user says nothing.
//!
//! The file is optional and so is every key. It is also the place where Hugging Face tools keep keys of their own: those
//! are ignored, and `null` means absent.

use super::files::{Fields, shorten};
use crate::error::Result;

/// The keys that this engine knows; `None` where the file has no such key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    /// Cap of the loops of each token, at least 1.
    pub n_loops: Option<usize>,
    /// Loops before which no token halts; 0 is none.
    pub min_loops: Option<usize>,
    /// When a token stops looping.
    pub exit: Option<Exit>,
    /// Whether the model answers at the prompt's own tokens instead of continuing it.
    pub in_place: Option<bool>,
    /// Tokens to generate, at least 1.
    pub max_new_tokens: Option<usize>,
    /// Sampling temperature; 0 is greedy.
    pub temperature: Option<f32>,
    /// Tokens kept by top-k; 0 is off.
    pub top_k: Option<usize>,
    /// Probability kept by top-p, in (0, 1]; 1 is off.
    pub top_p: Option<f32>,
    /// Smallest probability kept, as a share of the largest, in [0, 1); 0 is off.
    pub min_p: Option<f32>,
    /// Tokens that end a generation; empty where the file names none.
    pub eos_token_id: Vec<u32>,
}

/// When a token stops looping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exit {
    /// When the model's halting probabilities reach its threshold; the output is their weighted sum.
    #[default]
    Model,
    /// After exactly n_loops loops; the output is the state after the last.
    Fixed,
}

impl Defaults {
    /// Reads and checks the file, `None` where the model has no such file. `path` is only for messages.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) where `json` is no JSON object, [`Error::Config`](crate::Error::Config) for
    /// a known key with a wrong type or value.
    pub fn parse(path: &str, json: Option<&[u8]>) -> Result<Self> {
        let Some(json) = json else { return Ok(Self::default()) };
        let fields = Fields::parse(path, json)?;
        let exit = match fields.optional_word("exit")? {
            None => None,
            Some("model") => Some(Exit::Model),
            Some("fixed") => Some(Exit::Fixed),
            Some(other) => return Err(fields.error("exit", "\"model\" or \"fixed\"", &format!("{:?}", shorten(other)))),
        };
        let number = |name, expected, good: fn(f32) -> bool| {
            let value = fields.optional_number(name, expected, |x| good(x as f32))?;
            Ok::<_, crate::error::Error>(value.map(|x| x as f32))
        };
        Ok(Self {
            n_loops: fields.optional_size("n_loops", 1, 4096)?,
            min_loops: fields.optional_size("min_loops", 0, 4096)?,
            exit,
            in_place: fields.optional_bool("in_place")?,
            max_new_tokens: fields.optional_size("max_new_tokens", 1, i32::MAX as usize)?,
            temperature: number("temperature", "a number of at least 0", |x| x >= 0.0 && x.is_finite())?,
            top_k: fields.optional_size("top_k", 0, i32::MAX as usize)?,
            top_p: number("top_p", "a number above 0 and at most 1", |x| x > 0.0 && x <= 1.0)?,
            min_p: number("min_p", "a number from 0 to below 1", |x| (0.0..1.0).contains(&x))?,
            eos_token_id: fields.optional_ids("eos_token_id")?,
        })
    }
}
