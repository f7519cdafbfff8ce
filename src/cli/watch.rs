//! What `run` shows of the loops themselves: a block of columns a token for `--show experts|lens`, a line for `--show debt`, and the
//! JSON lines of `--trace`.

use serde::Serialize;

use crate::backend::Counters;
use crate::cli::paint::{self, Cell};
use crate::cli::show::{JsonStep, line};
use crate::generate::{Halt, Step};
use crate::model::{Detail, LoopTrace, PassTrace};
use crate::tokenizer::Tokenizer;

/// What is shown beside the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Show {
    /// How often each token looped
    Loops,
    /// Which experts each loop chose, in the order of the router's choice
    Experts,
    /// What the state after each loop says, and what the token predicts in the end
    Lens,
    /// Rows computed since the line before, rows that caught up, rows that a token as deep as the cap would have to take along
    Debt,
}

impl Show {
    /// What has to be taken down for it.
    pub fn detail(self) -> Option<Detail> {
        match self {
            Self::Loops | Self::Debt => None,
            Self::Experts => Some(Detail { experts: true, ..Detail::default() }),
            Self::Lens => Some(Detail { lens: 1, ..Detail::default() }),
        }
    }
}

/// What a token is called: its text, or its id.
pub(super) fn name(tokenizer: Option<&Tokenizer>, token: u32) -> String {
    tokenizer.and_then(|tokenizer| tokenizer.text(token)).map_or_else(|| token.to_string(), |text| paint::visible(&text))
}

/// The columns of `--show debt`.
const DEBT: [&str; 5] = ["token", "loops", "rows", "caught up", "debt"];

/// The lines of one token; `first` says whether a heading is due.
pub(super) fn lines(show: Show, step: &Step, first: bool, tokenizer: Option<&Tokenizer>) -> String {
    let text = name(tokenizer, step.token);
    let row = |cells: [&str; 5]| {
        let [token, rest @ ..] = cells;
        format!("{token:<12}{}\n", rest.map(|cell| format!("{cell:>10}")).concat())
    };
    if show == Show::Debt {
        let heading = if first { row(DEBT) } else { String::new() };
        let loops = paint::count(step.loops, step.exit);
        let numbers = [step.work.rows, step.work.rows_catching_up, step.debt as u64].map(|number| number.to_string());
        return heading + &row([&text, loops.trim_start_matches('·'), &numbers[0], &numbers[1], &numbers[2]]);
    }
    let loops = step.trace.iter().flat_map(|trace| trace.loops.iter().take(step.loops));
    let columns: Vec<Vec<Cell>> = loops.enumerate().map(|(t, at)| column(show, t, at, tokenizer)).collect();
    let settled = match (show, settled(step)) {
        (Show::Lens, at) => {
            let since = at.map_or_else(|| ", which no last loop alone says".to_string(), |at| format!(" since loop {at}"));
            format!("  predicts {}{since}", name(tokenizer, step.next.token))
        }
        _ => String::new(),
    };
    format!("{text}{}{settled}\n{}", paint::count(step.loops, step.exit), paint::rows(&columns, 2))
}

/// One loop of a token.
fn column(show: Show, t: usize, at: &LoopTrace, tokenizer: Option<&Tokenizer>) -> Vec<Cell> {
    let mut cells = vec![format!("{}", t + 1)];
    match show {
        Show::Experts => cells.extend(at.experts.iter().map(|(id, gate)| format!("{id}:{gate:.2}"))),
        _ => cells.extend(at.lens.first().iter().flat_map(|(token, p)| [name(tokenizer, *token), format!("{p:.2}")])),
    }
    cells.into_iter().map(Cell::from).collect()
}

/// The loop from which on the lens shows what the token predicts in the end: the weighted sum of its states need not say what the last
/// of them says.
fn settled(step: &Step) -> Option<usize> {
    let loops = step.trace.as_ref()?.loops.get(..step.loops)?;
    let says_it = |at: &LoopTrace| at.lens.first().is_some_and(|(token, _)| *token == step.next.token);
    let before = loops.iter().rposition(|at| !says_it(at)).map_or(0, |before| before + 1);
    (before < loops.len()).then_some(before + 1)
}

/// The JSON lines of a step: its passes, then itself.
pub(super) fn json_lines(step: &Step, tokenizer: Option<&Tokenizer>) -> String {
    let passes: String = step.passes.iter().map(|pass| line(&JsonLine::Pass(JsonPass::from(pass)))).collect();
    let mut cum = 0.0;
    let loops = step.trace.iter().flat_map(|trace| &trace.loops).enumerate();
    let loops = loops
        .map(|(t, at)| {
            cum += if t < step.loops && step.exit != Halt::Fixed { at.halt_p } else { 0.0 };
            JsonLoop {
                number: t + 1,
                halt_p: at.halt_p,
                cum,
                weight: at.weight,
                delta: at.delta,
                experts: at.experts.iter().map(|(id, gate)| JsonExpert { id: *id, gate: *gate }).collect(),
                router_margin: at.router_margin,
                lens: at.lens.iter().map(|(token, p)| JsonLens { token: *token, text: name(tokenizer, *token), p: *p }).collect(),
            }
        })
        .collect();
    passes
        + &line(&JsonLine::Token(JsonToken { step: JsonStep::from(step), debt: step.debt, work: JsonWork::from(&step.work), trace: loops }))
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum JsonLine<'a> {
    Pass(JsonPass<'a>),
    Token(JsonToken<'a>),
}

#[derive(Serialize)]
struct JsonPass<'a> {
    rows: usize,
    rows_catching_up: usize,
    /// (loop, rows).
    loops: &'a [(usize, usize)],
    dispatches: usize,
    weight_bytes: u64,
}

impl<'a> From<&'a PassTrace> for JsonPass<'a> {
    fn from(pass: &'a PassTrace) -> Self {
        let PassTrace { rows, rows_catching_up, loops, dispatches, weight_bytes } = pass;
        Self { rows: *rows, rows_catching_up: *rows_catching_up, loops, dispatches: *dispatches, weight_bytes: *weight_bytes }
    }
}

#[derive(Serialize)]
struct JsonToken<'a> {
    #[serde(flatten)]
    step: JsonStep<'a>,
    debt: usize,
    work: JsonWork,
    trace: Vec<JsonLoop>,
}

#[derive(Serialize)]
struct JsonLoop {
    #[serde(rename = "loop")]
    number: usize,
    halt_p: f32,
    cum: f32,
    weight: f32,
    delta: f32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    experts: Vec<JsonExpert>,
    router_margin: f32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lens: Vec<JsonLens>,
}

#[derive(Serialize)]
struct JsonExpert {
    id: u32,
    gate: f32,
}

#[derive(Serialize)]
struct JsonLens {
    token: u32,
    text: String,
    p: f32,
}

/// What the device did, as `forward --counters` writes it and `run --trace` too.
#[derive(Serialize)]
pub(super) struct JsonWork {
    passes: u64,
    rows: u64,
    rows_catching_up: u64,
    dispatches: u64,
    empty_dispatches: u64,
    submits: u64,
    read_backs: u64,
    polls: u64,
    weight_bytes: u64,
}

impl From<&Counters> for JsonWork {
    fn from(counters: &Counters) -> Self {
        let Counters { passes, rows, rows_catching_up, dispatches, empty_dispatches, submits, read_backs, polls, weight_bytes } = *counters;
        Self { passes, rows, rows_catching_up, dispatches, empty_dispatches, submits, read_backs, polls, weight_bytes }
    }
}
