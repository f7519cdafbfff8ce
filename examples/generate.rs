//! Ask a shipped model, or a model folder: `cargo run --release --example generate [FOLDER PROMPT]`

#![allow(clippy::print_stdout, clippy::expect_used)] // an example prints, and knows the shipped models

use refrain::generate::{Model, Params};
use refrain::{Options, Result, shipped};

fn main() -> Result<()> {
    pollster::block_on(async {
        let mut arguments = std::env::args().skip(1);
        let (mut model, prompt) = match (arguments.next(), arguments.next()) {
            (Some(folder), Some(prompt)) => (Model::load(folder, Options::default()).await?, prompt),
            _ => {
                let source = shipped::source(shipped::NAMES[0]).expect("the first shipped model");
                (Model::open(&source, &Options::default(), &mut |_| {}).await?, "c >c a >b b >c e >e ?a ?e".to_string())
            }
        };
        println!("{} on {}", prompt, model.engine().device().name);
        // What the model predicts at every token of the prompt, and how many loops it took to get there.
        for step in model.answer(prompt.as_str(), Params::default()).await? {
            println!("{:>6}  {:>2} loops  → {}", step.text.trim(), step.loops, step.next.text);
        }
        Ok(())
    })
}
