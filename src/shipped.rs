//! The models inside the binary: small, trained, and each with problems whose answers are known.

use std::borrow::Cow;

use crate::model::files::Source;

/// Takes a line a model: its name, which is that of its folder in `examples/models/`, and what it does.
macro_rules! models {
    ($($name:literal: $about:literal,)*) => {
        /// Names of the shipped models; the first is the default.
        pub const NAMES: [&str; [$($name),*].len()] = [$($name),*];

        /// What a shipped model does, in lines for people, of which the first goes behind its name.
        pub fn about(name: &str) -> Option<&'static str> {
            match name {
                $($name => Some($about),)*
                _ => None,
            }
        }

        /// A shipped model by name.
        pub fn source(name: &str) -> Option<Source> {
            let files = match name {
                $($name => files!($name, "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "problems.jsonl"),)*
                _ => return None,
            };
            Some(Source::Memory { name: name.to_string(), files })
        }
    };
}

macro_rules! files {
    ($model:literal, $($file:literal),*) => {
        vec![$(($file.to_string(), Cow::Borrowed(&include_bytes!(concat!("../examples/models/", $model, "/", $file))[..]))),*]
    };
}

models! {
    "follow": "letters point to letters, x >y; where does ?x end?\nTrained on at most 6 hops.",
    "cups": "@3 puts a ball under cup 3, 25 swaps cups 2 and 5; where is the ball now?\nTrained on at most 8 swaps in a row.",
    "add": "6+7 8+4 5+8 = adds 586 and 847, columns from the right: 3 3 4 1\nTrained on sums of at most 8 columns.",
}
