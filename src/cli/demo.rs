//! `refrain` alone: the shipped models solve problems that come with them, first with too few loops and then with enough.
//!
//! It is also a self-test: every answer at full depth must be right, or it ends with [`Error::WrongAnswer`].

use super::common::{self, Common};
use super::paint::{self, Cell, Paint};
use super::problems::{self, Problem, Solution};
use crate::error::{Error, Result};
use crate::generate::{Halt, Model};
use crate::model::Options;

/// Loops that are too few for a deep problem.
const FEW: usize = 4;

/// The most questions of a problem of a model that answers at the end.
const QUESTIONS: usize = 4;

/// Tokens of the problem of a model that answers at every token.
const CHAIN: usize = 12;

/// What the shipped models do.
const ABOUT: [(&str, &str); 2] = [
    ("follow", "letters point to letters, x >y; where does ?x end?\nTrained on at most 6 hops."),
    ("cups", "@3 puts a ball under cup 3, 25 swaps cups 2 and 5; where is the ball now?\nTrained on at most 8 swaps in a row."),
];

const NEXT: &str = r#"  refrain run -p "a >b b >c c >d d >d ?a" --show loops   your own problem
  refrain run -m cups -i                                 a problem a line
  refrain sweep follow                                   right answers by loops
  refrain devices                                        this machine's GPUs
  refrain --help                                         all the rest
"#;

pub(super) fn main(common: &Common) -> Result<()> {
    let mut wrong = None;
    for (number, (name, about)) in ABOUT.into_iter().enumerate() {
        let source = common::source(name)?;
        let mut model = common.load(&source, &Options { device: common.device(), ..Options::default() })?;
        let paint = Paint { colored: common.colored(true), cap: model.engine().default_depth().loops };
        if number == 0 {
            common::print(&head(&model, paint))?;
        }
        common::print(&format!("\n{}: {about}\n", paint.bold(name)))?;
        for problem in samples(problems::of(&source)?) {
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
    let sample = |text: &str, loops, exit| paint.token(text, loops, exit);
    format!(
        "{} on {}\n{} looped 7 times, {} once, {} was cut off after {FEW} loops.\n\
         Below a question stands the answer: {} is right, {} is wrong and should be b.\n",
        paint.bold(&title),
        model.engine().device().name,
        sample("word", 7, Halt::Halted),
        paint.plain("word", 1),
        sample("word", FEW, Halt::Max),
        paint.verdict("b✓".into(), true),
        paint.verdict("a✗b".into(), false)
    )
}

/// Of the problems with a few questions that few loops cannot solve, the shortest and the deepest. Where every token is a
/// question, one problem shows every depth: the first with [`CHAIN`] tokens of which each is harder than the one before.
fn samples(problems: Vec<Problem>) -> Vec<Problem> {
    let deepest = |problem: &Problem| problem.hops.iter().flatten().copied().max().unwrap_or(0);
    let mut deep: Vec<Problem> = problems.into_iter().filter(|problem| deepest(problem) >= FEW && problem.queries > 1).collect();
    let words = |problem: &Problem| problem.prompt.split_whitespace().count();
    let everywhere = deep.iter().all(|problem| problem.queries == words(problem));
    if everywhere {
        deep.retain(|problem| words(problem) == CHAIN && deepest(problem) + 1 == CHAIN);
        deep.truncate(1);
        return deep;
    }
    deep.retain(|problem| problem.queries <= QUESTIONS);
    let shortest = deep.iter().min_by_key(|problem| words(problem)).cloned();
    // Ties to the shortest.
    let hardest = deep.iter().max_by_key(|problem| (deepest(problem), std::cmp::Reverse(words(problem)))).cloned();
    shortest.into_iter().chain(hardest).collect()
}

/// Solves a problem with few loops and with all; gives the error if it is wrong then.
fn show(model: &mut Model, problem: &Problem, paint: Paint) -> Result<Option<Error>> {
    let tokens = problem.encode(model)?;
    let all = model.engine().default_depth().loops;
    let mut failed = None;
    for loops in [FEW, all] {
        let solution = problem.solve(model, &tokens, loops)?;
        let right = solution.right(problem);
        let mut line = format!("at most {loops} loops: {} of {} right", right.iter().filter(|right| **right).count(), problem.queries);
        if loops == all {
            let deepest = solution.queries(problem).map(|(step, _)| step.loops).max().unwrap_or(0);
            line.push_str(&format!(", the hardest after {deepest} loops"));
            if right.contains(&false) {
                failed = Some(Error::WrongAnswer {
                    problem: problem.place.clone(),
                    expected: problem.answers.join(" "),
                    found: solution.queries(problem).map(|(_, said)| said).collect::<Vec<_>>().join(" "),
                });
            }
        }
        common::print(&format!("\n  {line}\n{}", paint::rows(&cells(problem, &tokens, &solution, model, paint), 2)))?;
    }
    Ok(failed)
}

/// The prompt's tokens, each answer with its verdict below its question; where it is wrong, the right one behind it.
fn cells(problem: &Problem, tokens: &[u32], solution: &Solution, model: &Model, paint: Paint) -> Vec<(Cell, Cell)> {
    let first = tokens.len() - problem.queries;
    let verdicts = solution.queries(problem).zip(&problem.answers).map(|((_, said), answer)| match said == answer.trim() {
        true => paint.verdict(format!("{said}✓"), true),
        false => paint.verdict(format!("{said}✗{answer}"), false),
    });
    let below = std::iter::repeat_n(Cell::default(), first).chain(verdicts);
    let above = solution.steps.iter().map(|step| {
        let name = model.tokenizer().ok().and_then(|tokenizer| tokenizer.text(step.token)).unwrap_or_default();
        match step.loops {
            1 if step.exit == Halt::Halted => paint.plain(&name, 1),
            loops => paint.token(&name, loops, step.exit),
        }
    });
    above.zip(below).collect()
}
