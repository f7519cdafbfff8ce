//! Runs recurrent-depth (looped) transformers on any GPU through wgpu compute shaders, or on the CPU.
//!
//! A looped transformer has one block where others have many layers, and runs it again and again until each token has been
//! thought about enough: depth is a number of loops, chosen by the model token by token. The family is OpenMythos:
//!
//! ```text
//! tokens ─ embed ─ prelude ─ e ┬──────────────── loop t = 0, 1, … ───────────────┬ coda ─ norm ─ head ─ logits
//!                              │ x = block(RMSNorm(h + loop_emb(t) + e))         │
//!                              │ x = x + LoRA_t(x)                               │  block: attention (GQA or MLA)
//!                              │ h = A ⊙ h + B ⊙ e + x         0 < A < 1: stable │         and a mixture of experts
//!                              │ p = sigmoid(w · h + b)   out += weight(p) · h   │
//!                              └── until Σ p ≥ threshold, or the loops run out ──┘
//! ```
//!
//! # Generate
//!
//! ```
//! use refrain::{generate::{Model, Params}, shipped};
//!
//! # pollster::block_on(async {
//! let source = shipped::source("follow").expect("a shipped model");
//! let mut model = Model::open(&source, &Default::default(), &mut |_| {}).await?;
//! // Two arrows from a: a → b → c. This model answers in place, at the query.
//! let steps = model.answer("a >b b >c c >c ?a", Params::default()).await?;
//! let query = steps.last().expect("a step for every token");
//! assert_eq!(query.next.text, "c");
//! assert_eq!(query.loops, 3); // two hops and a look
//! # Ok::<(), refrain::Error>(()) }).unwrap();
//! ```
//!
//! [`generate::Model::load`] takes a folder with `config.json`, `model.safetensors` (or shards with their index) and
//! `tokenizer.json`; [`generate::Model::generate`] gives a [`Stream`](futures_util::Stream) of steps, each with its token, its
//! text, its loops and the prediction made there. Under it [`model::Engine::forward`] runs any number of sequences in one pass:
//!
//! ```
//! use refrain::model::{Depth, Engine, Feed, Logits, Options, defaults::Exit};
//!
//! # pollster::block_on(async {
//! let source = refrain::shipped::source("cups").expect("a shipped model");
//! let options = Options { sequences: Some(2), ..Options::default() };
//! let mut engine = Engine::load(&source, &options, &mut |_| {}).await?;
//! let (mut a, mut b) = (engine.sequence()?, engine.sequence()?);
//! let mut feeds = [Feed { sequence: &mut a, tokens: &[0, 5] }, Feed { sequence: &mut b, tokens: &[3] }];
//! let depth = Depth { loops: 8, min_loops: 0, exit: Exit::Model };
//! let output = engine.forward(&mut feeds, depth, Logits::GREEDY).await?;
//! assert_eq!(output.rows.len(), 3); // loops of every token
//! assert_eq!(output.predictions.len(), 2); // the best next token of every sequence
//! # Ok::<(), refrain::Error>(()) }).unwrap();
//! ```
//!
//! # The rooms
//!
//! Each knows only those above it; a test holds the walls.
//!
//! | module | what it is |
//! |---|---|
//! | [`error`] | one error type with stable codes: what was expected, what was found, how to mend it |
//! | [`precision`] | how weights are stored: f32, f16, blocks of 8 or 4 bits |
//! | [`tensor`] | handles to memory on a device |
//! | [`kernel`] | what a kernel is: shader, arguments, parameters, grid, CPU twin |
//! | [`backend`] | devices: the GPU through wgpu, the CPU through the twins, or both with a comparison after every kernel |
//! | [`kernels`] | the kernels, a file each with its formula |
//! | [`model`] | files, weights, cache, and the equations above on flat rows |
//! | [`tokenizer`], [`sampler`] | text to tokens and back; logits to a token |
//! | `hub` | with the feature `hub`: models by name, into the cache that other tools share |
//! | [`generate`] | prompts to steps |
//! | [`shipped`] | the models inside the binary |
//!
//! # A row is one token at one loop of one sequence
//!
//! Every kernel works on a flat list of rows, and a small table says of each row its token, sequence, position and loop. The
//! loop's weights are the same at every depth, and all that depends on the loop (its embedding, the LoRA's scale, the cache slot)
//! is a look-up by row. So prefill, chunks of it, decoding, batches and tokens that catch up are one code path with different lists.
//!
//! # Depth on demand
//!
//! A token that has halted stops looping. What its later loops would have left in the cache only a later token that goes deeper
//! can ask for, and then they are run: whoever runs loop t takes along every earlier position of its sequence that stands there
//! ([`model::Ledger`]). The logits are those of running every loop for everybody ([`model::Schedule::Full`]). It saves passes over
//! the loop's weights, hence time where weights are what takes time: decoding, one sequence or a few. It does not save
//! arithmetic for long: where some tokens go deep, nearly all rows are computed in the end, only many in one pass. A prompt, or
//! a large batch, gains little: its deepest token decides. [`model::Engine::batch`] runs sequences together that stand at different loops.
//!
//! # Weights
//!
//! Weight matrices lie on the device as the files have them, or as [`Options::dtype`] says: f32, f16, or blocks of 32 numbers with a scale,
//! 8.5 or 4.5 bits a weight ([`precision`]). A kernel that reads weights is linked with the decoder of their precision; sums are always f32.
//! Router, halting head, norms, injection and LoRA are always f32: a choice that flips costs more than they weigh. Files are
//! read piece by piece. What a model takes is counted beforehand, by building it on an imagined device ([`model::Needs`]).
//!
//! # Cache
//!
//! A token takes `slots × width × 4` bytes of cache, f32: slots = prelude + coda + loops, width = 2 · n_kv_heads · head size (GQA)
//! or kv_lora_rank + rope (MLA, absorbed: keys and values are never expanded). Beside it the state of the loop where the token
//! stopped is kept, h and e: 2 · dim numbers. On the device a row is padded to a multiple of 4 numbers.
//!
//! # Features
//!
//! `cli` (default) is the command line; a library that embeds the engine turns it off. `wgpu-interop` re-exports wgpu and lets a
//! program bring its own device. `hub` fetches models by name (`hub::fetch`, and `hf:owner/repo` wherever the command line takes a model); it
//! needs files and sockets, hence not wasm32. `web` is what the npm package calls, on wasm32. On wasm32 build without default features.

pub mod backend;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod error;
pub mod generate;
#[cfg(all(feature = "hub", not(target_arch = "wasm32")))]
pub mod hub;
pub mod kernel;
pub mod kernels;
pub mod model;
pub mod precision;
pub mod sampler;
pub mod shipped;
pub mod tensor;
pub mod tokenizer;
#[cfg(all(feature = "web", target_arch = "wasm32"))]
#[doc(hidden)]
pub mod web;

pub use error::{Error, Result};
pub use generate::{Model, Params};
pub use model::Options;
#[cfg(all(feature = "hub", target_arch = "wasm32"))]
compile_error!("the feature `hub` needs files and sockets, which wasm32 lacks: build without it");
/// The wgpu that the engine uses, for programs that bring their own device.
#[cfg(feature = "wgpu-interop")]
pub use wgpu;
