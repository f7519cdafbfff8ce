//! `refrain` alone: each shipped model solves a problem that came with it, first with too few loops and then with enough.
//!
//! It is also a self-test: every answer at the model's own number of loops must be right, or it ends with [`Error::WrongAnswer`].

use std::collections::BTreeSet;

use super::common::{self, Common};
use super::paint::{self, Cell, Paint};
use super::problems::{self, Problem, Solution};
use crate::error::{Error, Result};
use crate::generate::{Halt, Model};
use crate::model::Options;
use crate::shipped;

/// Loops that are too few for a deep problem.
const DEEP: usize = 8;

/// Depths of its questions, at least, so that some are easy.
const DEPTHS: usize = 3;

/// Tokens of the problem of a model that answers at every token: as many as go into one line.
const CHAIN: usize = 12;

/// Loops that the ladder begins with.
const FEW: usize = 2;

/// Problems that are tried before one is shown.
const TRIED: usize = 8;

const NEXT: &str = r#"  refrain run -p "a >b b >c c >d d >d ?a" --show loops   your own problem
  refrain run -m cups -i                                 a problem a line
  refrain sweep follow                                   right answers by loops
  refrain devices                                        this machine's GPUs
  refrain --help                                         all the rest
"#;

pub(super) fn main(common: &Common) -> Result<()> {
    let mut wrong = None;
    for name in shipped::NAMES {
        let source = common::source(name, common)?;
        let mut model = common.load(&source, &Options { device: common.device(), ..Options::default() })?;
        let paint = Paint { colored: common.colored(true), cap: model.engine().default_depth().loops };
        if name == shipped::NAMES[0] {
            common::print(&head(&model, paint))?;
        }
        common::print(&format!("\n{}: {}\n", paint.bold(name), shipped::about(name).unwrap_or_default()))?;
        if let Some(problem) = sample(&mut model, problems::of(&source)?)? {
            let failed = show(&mut model, &problem, paint)?;
            wrong = wrong.or(failed);
        }
    }
    if let Some(error) = wrong {
        return Err(error);
    }
    common::print(&format!("\nNext:\n{NEXT}"))
}

fn head(model: &Model, paint: Paint) -> String {
    let title = format!("refrain {}", env!("CARGO_PKG_VERSION"));
    format!(
        "{} on {}\n\
         Each model solves a problem with more and more loops: {} is right, {} is wrong.\n\
         Below, the prompt as the last line solved it: {} looped 7 times, {} once.\n",
        paint.bold(&title),
        model.engine().device().name,
        paint.verdict("b✓".into(), true),
        paint.verdict("a✗".into(), false),
        paint.token("word", 7, Halt::Halted),
        paint.plain("word", 1),
    )
}

/// The problem to show: one that [`DEEP`] loops cannot solve, with questions of at least [`DEPTHS`] depths; where every token is
/// a question, one with [`CHAIN`] tokens of which each is harder than the one before; the deepest where there is no such problem.
/// Of the shortest of those, the one that [`FEW`] loops solve least: a guess is often right.
fn sample(model: &mut Model, problems: Vec<Problem>) -> Result<Option<Problem>> {
    let hops = |problem: &Problem| problem.hops.clone().unwrap_or_default();
    let words = |problem: &Problem| problem.prompt.split_whitespace().count();
    let rank = |problem: &Problem| {
        let deepest = hops(problem).into_iter().max().unwrap_or(0);
        let chain = problem.queries == words(problem) && words(problem) == CHAIN && deepest + 1 == CHAIN;
        let depths = hops(problem).into_iter().collect::<BTreeSet<_>>().len();
        // The first is 0 for every deep problem, and least for the deepest where there is none.
        (DEEP.saturating_sub(deepest), !chain, depths < DEPTHS)
    };
    let best = problems.iter().map(rank).min();
    let mut some: Vec<Problem> = problems.into_iter().filter(|problem| Some(rank(problem)) == best).collect();
    some.sort_by_key(words);
    some.truncate(TRIED);
    let mut least: Option<(f64, Problem)> = None;
    for problem in some {
        let tokens = problem.encode(model)?;
        let verdicts = problem.solve(model, &tokens, FEW)?.right(&problem);
        let share = verdicts.iter().filter(|right| **right).count() as f64 / problem.queries as f64;
        if least.as_ref().is_none_or(|(other, _)| share < *other) {
            least = Some((share, problem));
        }
    }
    Ok(least.map(|(_, problem)| problem))
}

/// Solves a problem with more and more loops until every answer is right; gives the error if not all are at full depth.
fn show(model: &mut Model, problem: &Problem, paint: Paint) -> Result<Option<Error>> {
    let tokens = problem.encode(model)?;
    let all = model.engine().default_depth().loops;
    let mut tries: Vec<(usize, Solution)> = Vec::new();
    for loops in problems::doublings(FEW, all) {
        let solution = problem.solve(model, &tokens, loops)?;
        let solved = !solution.right(problem).contains(&false);
        tries.push((loops, solution));
        if solved {
            break;
        }
    }
    common::print(&paint::rows(&ladder(problem, &tries, paint), 2))?;
    let Some((loops, last)) = tries.pop() else { return Ok(None) };
    common::print(&format!("\n{}", paint::rows(&prompt(problem, &last, paint), 2)))?;
    // What a model says by default is what the self-test is about.
    let full = if loops == all { last } else { problem.solve(model, &tokens, all)? };
    Ok(full.right(problem).contains(&false).then(|| Error::WrongAnswer {
        problem: problem.place.clone(),
        expected: problem.answers.join(" "),
        found: full.queries(problem).map(|(_, said)| said).collect::<Vec<_>>().join(" "),
    }))
}

/// A line a number of loops, a column a question.
fn ladder(problem: &Problem, tries: &[(usize, Solution)], paint: Paint) -> Vec<Vec<Cell>> {
    let mut loops = vec![Cell::from("loops".to_string())];
    let mut right = vec![Cell::from(" right ".to_string())];
    let mut questions: Vec<Vec<Cell>> = Vec::new();
    for (number, solution) in tries {
        let verdicts = solution.right(problem);
        // The colour that this many loops have in the prompt.
        loops.push(paint.plain(&format!("{number:>5}"), *number));
        let count = verdicts.iter().filter(|right| **right).count();
        right.push(format!("{:>6} ", format!("{count}/{}", verdicts.len())).into());
        questions.resize(verdicts.len(), Vec::new());
        for ((column, right), (step, said)) in questions.iter_mut().zip(verdicts).zip(solution.queries(problem)) {
            if column.is_empty() {
                column.push(paint::visible(&step.text).into());
            }
            column.push(paint.verdict(format!("{said}{}", if right { "✓" } else { "✗" }), right));
        }
    }
    [loops, right].into_iter().chain(questions).collect()
}

/// The prompt's tokens with their loops, each answer with its verdict below its question; where it is wrong, the right one
/// behind it.
fn prompt(problem: &Problem, solution: &Solution, paint: Paint) -> Vec<[Cell; 2]> {
    let first = solution.steps.len() - problem.queries;
    let verdicts = solution.queries(problem).zip(&problem.answers).map(|((_, said), answer)| match said == answer.trim() {
        true => paint.verdict(format!("{said}✓"), true),
        false => paint.verdict(format!("{said}✗{answer}"), false),
    });
    let below = std::iter::repeat_n(Cell::default(), first).chain(verdicts);
    let above = solution.steps.iter().map(|step| {
        let name = paint::visible(&step.text);
        match step.loops {
            1 if step.exit == Halt::Halted => paint.plain(&name, 1),
            loops => paint.token(&name, loops, step.exit),
        }
    });
    above.zip(below).map(<[Cell; 2]>::from).collect()
}
