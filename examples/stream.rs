//! Tokens as they come, from a `Stream`, with a seed: `cargo run --release --example stream`

#![allow(clippy::print_stdout, clippy::expect_used)] // an example prints, and knows the shipped models

use futures_util::TryStreamExt;
use refrain::generate::{Model, Params};
use refrain::sampler::Sampling;
use refrain::{Options, Result, shipped};

fn main() -> Result<()> {
    pollster::block_on(async {
        let source = shipped::source("cups").expect("a shipped model");
        let mut model = Model::open(&source, &Options::default(), &mut |_| {}).await?;
        let params = Params {
            max_tokens: Some(12),
            sampling: Some(Sampling { temperature: 0.8, top_k: 5, seed: 7, ..Sampling::default() }),
            ..Params::default()
        };
        // A `Stream` like any other; dropping it stops the generation.
        let steps = model.generate("@1 12 23", params)?;
        steps
            .try_for_each(|step| async move {
                println!("position {:>2}: {:>3} after {:>2} loops, {:?}", step.index, step.text.trim(), step.loops, step.exit);
                Ok(())
            })
            .await
    })
}
