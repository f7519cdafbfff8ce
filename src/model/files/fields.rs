//! The fields of a JSON file of settings, each read with its type and its range.

use super::stranger;
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// The fields of one file. A `null` counts as absent.
pub(in crate::model) struct Fields<'a> {
    path: &'a str,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Parses a JSON object.
    pub fn parse(path: &'a str, json: &[u8]) -> Result<Self> {
        let format = |found: String| Error::Format { path: path.into(), expected: "a JSON object".into(), found };
        match serde_json::from_slice(json) {
            Ok(Value::Object(map)) => Ok(Self { path, map }),
            Ok(other) => Err(format(show(&other))),
            Err(error) => Err(format(stranger(json).map_or_else(|| format!("a fault: {error}"), str::to_string))),
        }
    }

    /// The error of one field.
    pub fn error(&self, field: &str, expected: &str, found: &str) -> Error {
        Error::Config { path: self.path.into(), field: field.into(), expected: expected.into(), found: found.into() }
    }

    /// A required integer in `min..=max`.
    pub fn size(&self, name: &str, min: usize, max: usize) -> Result<usize> {
        self.optional_size(name, min, max)?.ok_or_else(|| self.missing(name, &integer(min, max)))
    }

    /// An integer in `min..=max`, if present.
    pub fn optional_size(&self, name: &str, min: usize, max: usize) -> Result<Option<usize>> {
        self.optional(name, &integer(min, max), |value| {
            let size = usize::try_from(value.as_u64()?).ok()?;
            (min..=max).contains(&size).then_some(size)
        })
    }

    /// A required number for which `good` holds.
    pub fn number(&self, name: &str, expected: &str, good: impl Fn(f64) -> bool) -> Result<f64> {
        self.optional_number(name, expected, good)?.ok_or_else(|| self.missing(name, expected))
    }

    /// A number for which `good` holds, if present.
    pub fn optional_number(&self, name: &str, expected: &str, good: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        self.optional(name, expected, |value| value.as_f64().filter(|&x| good(x)))
    }

    /// A required string.
    pub fn word(&self, name: &str) -> Result<&str> {
        self.optional_word(name)?.ok_or_else(|| self.missing(name, "a string"))
    }

    /// A string, if present.
    pub fn optional_word(&self, name: &str) -> Result<Option<&str>> {
        self.optional(name, "a string", Value::as_str)
    }

    /// One token id or a list of them; empty if absent.
    pub fn optional_ids(&self, name: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.optional(name, "a token id or a list of them", |value| match value {
            Value::Array(list) => list.iter().map(id).collect(),
            value => id(value).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// A boolean, if present.
    pub fn optional_bool(&self, name: &str) -> Result<Option<bool>> {
        self.optional(name, "true or false", Value::as_bool)
    }

    fn optional<'v, T>(&'v self, name: &str, expected: &str, read: impl Fn(&'v Value) -> Option<T>) -> Result<Option<T>> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.error(name, expected, &show(value))),
        }
    }

    fn missing(&self, name: &str, expected: &str) -> Error {
        self.error(name, expected, if self.map.contains_key(name) { "null" } else { "no such field" })
    }
}

fn integer(min: usize, max: usize) -> String {
    format!("an integer from {min} to {max}")
}

/// A value as a message shows it: a long one is cut, a container only named.
fn show(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        other => shorten(&other.to_string()),
    }
}

/// At most the first 60 characters.
pub(in crate::model) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
