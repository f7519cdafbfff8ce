//! What a sweep found: one answer for each problem and number of loops, and the tables of all of them.

use serde::Serialize;

use super::common::thousands;
use super::problems::{Problem, Solution};
use super::rank::{correlation, spearman};
use super::table::draw;
use crate::generate::Model;

/// All problems at one number of loops.
pub(super) struct Row<'a> {
    pub loops: usize,
    pub answers: Vec<Answer<'a>>,
}

impl Row<'_> {
    /// Of every query whose hops are known.
    fn hops_and_loops(&self) -> Vec<(usize, usize)> {
        let pairs = |answer: &Answer| answer.hops.unwrap_or_default().iter().copied().zip(answer.loops_used.clone()).collect::<Vec<_>>();
        self.answers.iter().flat_map(pairs).collect()
    }
}

/// One problem at one number of loops; lists are over its queries.
#[derive(Serialize)]
pub(super) struct Answer<'a> {
    problem: usize,
    loops: usize,
    /// Missing where they are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<&'a [usize]>,
    predicted: Vec<String>,
    loops_used: Vec<usize>,
    /// Empty where the answers are not known.
    correct: Vec<bool>,
    ms: f64,
}

impl<'a> Answer<'a> {
    pub fn new(problem: usize, asked: &'a Problem, loops: usize, solution: &Solution) -> Self {
        let (loops_used, predicted) = solution.queries(asked).map(|(step, said)| (step.loops, said)).unzip();
        let ms = (solution.time.as_secs_f64() * 1e6).round() / 1e3;
        Self { problem, loops, hops: asked.hops.as_deref(), predicted, loops_used, correct: solution.right(asked), ms }
    }
}

/// The table of one problem.
pub(super) fn one(results: &[Row], markdown: bool) -> String {
    let mut table = vec![["loops", "answer", "right", "loops used", "ms"].map(String::from).to_vec()];
    for answer in results.iter().flat_map(|row| &row.answers) {
        let marks = answer.correct.iter().map(|right| if *right { "✓" } else { "✗" });
        table.push(vec![
            answer.loops.to_string(),
            answer.predicted.join(" "),
            if answer.correct.is_empty() { "?".into() } else { marks.collect::<Vec<_>>().join(" ") },
            answer.loops_used.iter().map(usize::to_string).collect::<Vec<_>>().join(" "),
            format!("{:.1}", answer.ms),
        ]);
    }
    draw(&table, markdown)
}

/// The tables of many problems: right answers and loops used, by difficulty.
pub(super) fn many(problems: &[Problem], results: &[Row], model: &Model, markdown: bool) -> String {
    let columns = columns(problems);
    let known = !columns.is_empty();
    let names = |last: Option<&str>| {
        let ranges = columns.iter().map(Column::name);
        ["loops".to_string(), "all".into()].into_iter().chain(ranges).chain(last.map(String::from)).collect::<Vec<_>>()
    };
    let sums = |row: &Row| -> Vec<Sum> { std::iter::once(None).chain(columns.iter().map(Some)).map(|c| Sum::of(row, c)).collect() };
    let (mut right, mut used) = (vec![names(Some("ms"))], vec![names(known.then_some("Spearman"))]);
    for row in results {
        let (sums, ms) = (sums(row), row.answers.iter().map(|answer| answer.ms).sum::<f64>() / problems.len() as f64);
        // Rounded down: 100 is all of them.
        let shares = sums.iter().map(|sum| (100 * sum.right / sum.queries.max(1)).to_string());
        right.push(std::iter::once(row.loops.to_string()).chain(shares).chain([format!("{ms:.1}")]).collect());
        let loops = sums.iter().map(|sum| format!("{:.1}", sum.loops as f64 / sum.queries.max(1) as f64));
        let rank = known.then(|| correlation(spearman(&row.hops_and_loops())));
        used.push(std::iter::once(row.loops.to_string()).chain(loops).chain(rank).collect());
    }
    let queries = results.first().map(sums).unwrap_or_default();
    let queries = queries.iter().map(|sum| thousands(sum.queries as u64));
    right.push(std::iter::once("queries".to_string()).chain(queries).chain([String::new()]).collect());
    let (by, rank) = if known { (", by hops", "; Spearman of hops and loops") } else { ("", "") };
    let total: usize = problems.iter().map(|problem| problem.queries).sum();
    let gap = if markdown { "\n\n" } else { "\n" };
    format!(
        "{} with {} on {}\n\nRight answers in %{by}; ms a problem{gap}{}\nLoops used on average{by}{rank}{gap}{}",
        counted(problems.len(), "problem", "problems"),
        counted(total, "query", "queries"),
        model.engine().device().name,
        draw(&right, markdown),
        draw(&used, markdown)
    )
}

fn counted(number: usize, one: &str, more: &str) -> String {
    format!("{} {}", thousands(number as u64), if number == 1 { one } else { more })
}

/// Queries of similar difficulty.
struct Column {
    first: usize,
    last: usize,
}

impl Column {
    fn name(&self) -> String {
        if self.first == self.last { self.first.to_string() } else { format!("{}–{}", self.first, self.last) }
    }
}

/// A column for each number of hops, or, where there are many, for 0, 1, 2–3, 4–7, 8–15 and so on: what one more doubling of
/// the loops brings within reach.
fn columns(problems: &[Problem]) -> Vec<Column> {
    let mut hops: Vec<usize> = problems.iter().filter_map(|problem| problem.hops.as_deref()).flatten().copied().collect();
    hops.sort_unstable();
    hops.dedup();
    let single = hops.len() <= 8;
    let mut columns: Vec<Column> = Vec::new();
    for hops in hops {
        let first = if single || hops == 0 { hops } else { 1 << hops.ilog2() };
        if columns.last().is_none_or(|column| column.first != first) {
            columns.push(Column { first, last: if single || hops == 0 { hops } else { 2 * first - 1 } });
        }
    }
    columns
}

/// Sums over the queries of one column, or of all.
#[derive(Default)]
struct Sum {
    queries: usize,
    right: usize,
    loops: usize,
}

impl Sum {
    fn of(row: &Row, column: Option<&Column>) -> Self {
        let mut sum = Self::default();
        for answer in &row.answers {
            for (query, right) in answer.correct.iter().enumerate() {
                let hops = answer.hops.map(|hops| hops[query]);
                if column.is_none_or(|column| hops.is_some_and(|hops| (column.first..=column.last).contains(&hops))) {
                    sum.queries += 1;
                    sum.right += usize::from(*right);
                    sum.loops += answer.loops_used[query];
                }
            }
        }
        sum
    }
}
