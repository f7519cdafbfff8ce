//! All tests in one binary: one link, one list.

mod cli_bench;
mod cli_forward;
mod cli_run;
mod cli_watch;
mod config;
mod convert;
mod convert_by_hand;
mod devices;
mod engine;
mod faults;
mod files;
mod findings;
mod goldens;
#[cfg(feature = "hub")]
mod hub;
mod isolation;
mod kernels;
mod layering;
mod lazy;
mod limits;
mod plan;
mod precision;
mod profile;
mod quantize;
mod random;
mod sampler;
mod shipped;
mod soak;
mod supply;
mod tokenizer;
mod trace;
mod wgsl;
