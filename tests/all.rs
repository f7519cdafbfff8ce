//! All tests in one binary: one link, one list.

mod config;
mod devices;
mod files;
mod goldens;
mod layering;
mod sampler;
mod tokenizer;
