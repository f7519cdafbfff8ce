//! refrain
pub mod backend;
pub mod error;
pub mod generate;
pub mod kernel;
pub mod kernels;
pub mod model;
pub mod sampler;
pub mod shipped;
pub mod tensor;
pub mod tokenizer;
pub use error::{Error, Result};
