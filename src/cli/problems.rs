//! Problems with known answers, as JSON lines: `{"prompt": …, "queries": 2, "answers": ["c", "d"], "hops": [3, 0]}`.
//!
//! The last `queries` tokens of the prompt are questions; the prediction at each is its answer. `hops`, optional, says how hard
//! each question is. Other keys are ignored.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::paint;
use crate::error::{Error, Result};
use crate::generate::{Model, Params, Prompt, Step};
use crate::model::files::Source;
use crate::tokenizer::Tokenizer;

/// The name of the file in a model's folder.
pub(super) const FILE: &str = "problems.jsonl";

/// One line of the file.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Problem {
    pub prompt: String,
    pub queries: usize,
    /// One a query; none at all where they are not known.
    pub answers: Vec<String>,
    pub hops: Option<Vec<usize>>,
    /// Where it was read, for messages.
    #[serde(skip)]
    pub place: String,
}

/// What a model said to a problem.
pub(super) struct Solution {
    /// One a token of the prompt.
    pub steps: Vec<Step>,
    pub time: Duration,
}

/// The problems in a file. [`Error::Format`] names the first line that is none.
pub(super) fn parse(path: &str, bytes: &[u8]) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let place = format!("{path}:{number}");
        let fail = |expected: &str, found: String| Error::Format { path: place.clone(), expected: expected.into(), found };
        let problem: Problem = serde_json::from_slice(line).map_err(|error| {
            // Each line is read by itself: its number in the file is in the place.
            let error = error.to_string().replace(" at line 1 column ", " at column ");
            fail("a JSON object with prompt, queries, answers and, if they are known, hops", format!("a fault: {error}"))
        })?;
        if problem.queries == 0 {
            return Err(fail("queries of at least 1", "0".into()));
        }
        let counts = [("answers", Some(problem.answers.len())), ("hops", problem.hops.as_ref().map(Vec::len))];
        for (name, count) in counts {
            if let Some(count) = count.filter(|count| *count != problem.queries) {
                return Err(fail(&format!("{} {name}, one a query", problem.queries), count.to_string()));
            }
        }
        problems.push(Problem { place, ..problem });
    }
    if problems.is_empty() {
        return Err(Error::Format { path: path.into(), expected: "a problem a line".into(), found: "no problem".into() });
    }
    Ok(problems)
}

/// The problems that come with a model.
pub(super) fn of(source: &Source) -> Result<Vec<Problem>> {
    let path = source.path(FILE);
    match source.read_small(FILE)? {
        Some(bytes) => parse(&path, &bytes),
        None => Err(Error::File { path, doing: "read", source: std::io::ErrorKind::NotFound.into() }),
    }
}

/// Numbers of loops to ask a problem with: the first, twice that and so on, and the last.
pub(super) fn doublings(first: usize, last: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(first), |n: &usize| n.checked_mul(2)).take_while(|n| *n < last);
    powers.chain([last]).collect()
}

impl Problem {
    /// The prompt's tokens; [`Error::Format`] with the place where the model cannot read it, or where there are fewer than
    /// queries.
    pub fn encode(&self, model: &Model) -> Result<Vec<u32>> {
        let fail = |expected: &str, found| Error::Format { path: self.place.clone(), expected: expected.into(), found };
        let tokens = self.tokens(model.tokenizer()?)?;
        match tokens.len() {
            n if n < self.queries => Err(fail("at least as many tokens as queries", format!("{n} tokens and {} queries", self.queries))),
            n if n > model.engine().context() => {
                Err(fail(&format!("a prompt of at most {} tokens", model.engine().context()), format!("{n} tokens")))
            }
            _ => Ok(tokens),
        }
    }

    /// The prompt's tokens, however many; [`Error::Format`] with the place where the tokenizer cannot read it.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let expected = "a prompt that the model can read".into();
        tokenizer.encode(&self.prompt).map_err(|error| Error::Format {
            path: self.place.clone(),
            expected,
            found: format!("a fault: {error}"),
        })
    }

    /// Asks a model, with at most so many loops a token.
    pub fn solve(&self, model: &mut Model, tokens: &[u32], loops: usize) -> Result<Solution> {
        let start = Instant::now();
        let params = Params { loops: Some(loops), ..Params::default() };
        let steps = pollster::block_on(model.answer(Prompt::Tokens(tokens.to_vec()), params))?;
        Ok(Solution { steps, time: start.elapsed() })
    }
}

impl Solution {
    /// The steps at a problem's queries, each with the answer that was given.
    pub fn queries(&self, problem: &Problem) -> impl Iterator<Item = (&Step, String)> {
        let first = self.steps.len().saturating_sub(problem.queries);
        self.steps[first..].iter().map(|step| (step, paint::visible(&step.next.text)))
    }

    /// Whether each query was answered right; empty where the answers are not known.
    pub fn right(&self, problem: &Problem) -> Vec<bool> {
        self.queries(problem).zip(&problem.answers).map(|((_, said), answer)| said == answer.trim()).collect()
    }
}
