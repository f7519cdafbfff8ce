//! The models inside the binary: small, trained, and each with problems whose answers are known.

use std::borrow::Cow;

use crate::model::files::Source;

/// Names of the shipped models; the first is the default.
pub const NAMES: [&str; 2] = ["follow", "cups"];

/// A shipped model by name.
pub fn source(name: &str) -> Option<Source> {
    macro_rules! files {
        ($model:literal) => {
            files!($model, "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "problems.jsonl")
        };
        ($model:literal, $($file:literal),*) => {
            vec![$(($file.to_string(), Cow::Borrowed(&include_bytes!(concat!("../examples/models/", $model, "/", $file))[..]))),*]
        };
    }
    let files = match name {
        "follow" => files!("follow"),
        "cups" => files!("cups"),
        _ => return None,
    };
    Some(Source::Memory { name: name.to_string(), files })
}
