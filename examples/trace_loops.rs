//! What happens in every loop of a token: halting, change of the state, experts, and what the state says after it.
//! `cargo run --release --example trace_loops`

#![allow(clippy::print_stdout, clippy::expect_used)] // an example prints, and knows the shipped models

use refrain::generate::{Model, Params};
use refrain::model::Detail;
use refrain::{Options, Result, shipped};

fn main() -> Result<()> {
    pollster::block_on(async {
        let source = shipped::source("follow").expect("a shipped model");
        let mut model = Model::open(&source, &Options::default(), &mut |_| {}).await?;
        // Four arrows from a: a → b → c → d → e.
        let detail = Detail { experts: true, lens: 1, ..Detail::default() };
        let steps = model.answer("c >d a >b d >e b >c e >e ?a", Params { trace: Some(detail), ..Params::default() }).await?;
        let query = steps.last().expect("a step for every token");
        println!("the query took {} loops and predicts {}", query.loops, query.next.text);
        println!("loop   halt p   weight   ‖Δh‖/‖h‖   experts   it would say");
        for (t, at) in query.trace.iter().flat_map(|trace| &trace.loops).enumerate() {
            let experts: Vec<String> = at.experts.iter().map(|(id, _)| id.to_string()).collect();
            let (token, p) = at.lens[0];
            let text = model.tokenizer()?.text(token).unwrap_or_default();
            let (p_halt, weight, delta) = (at.halt_p, at.weight, at.delta);
            println!("{:4}   {p_halt:6.3}   {weight:6.3}   {delta:8.3}   {:>7}   {text} ({p:.2})", t + 1, experts.join(" "));
        }
        Ok(())
    })
}
