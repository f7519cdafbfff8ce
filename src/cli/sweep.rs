//! `refrain sweep`: the same problems at several numbers of loops, to see how deep a model must go and whether it knows.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::common::{self, Common};
use super::problems::{self, Problem, Solution};
use super::show::line;
use crate::error::{Error, Result};
use crate::generate::Model;
use crate::model::files::Source;
use crate::model::{Options, read_config};
use crate::shipped;

const HELP: &str = r#"A file of problems is JSON lines:
  {"prompt": "a >b b >b ?a ?b", "queries": 2, "answers": ["b", "b"], "hops": [1, 0]}
The last `queries` tokens of the prompt are questions, and the prediction at
each is the answer; `hops`, which may be missing, says how hard each is.
--format jsonl counts problems from 0.

Examples:
  refrain sweep follow                    a shipped model's own problems
  refrain sweep cups --loops 2,4,6 --format md
  refrain sweep -p "a >b b >c c >c ?a" --expect c"#;

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// A file of problems, or the name of a shipped model: its problems
    #[arg(value_name = "FILE|NAME", required_unless_present = "prompt", conflicts_with = "prompt")]
    problems: Option<String>,
    /// A shipped model or a model folder [default: the folder of FILE; with -p follow]
    #[arg(short, long, value_name = "NAME|DIR")]
    model: Option<String>,
    /// One problem: a prompt
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// The right answers at the last tokens of -p, with a space between
    #[arg(long, value_name = "WORDS", requires = "prompt")]
    expect: Option<String>,
    /// Tokens at the end of -p that are asked [default: as many as --expect has, else 1]
    #[arg(long, value_name = "N", requires = "prompt", conflicts_with = "expect")]
    queries: Option<usize>,
    /// The numbers of loops [default: 1,2,4,8,… to the model's own]
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    loops: Vec<usize>,
    /// Only the first N problems
    #[arg(short, long, value_name = "N")]
    limit: Option<usize>,
    /// How to write the results
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Text,
    /// A table in Markdown
    Md,
    /// One JSON object for each problem and number of loops
    Jsonl,
}

pub(super) fn main(args: &Args, common: &Common) -> Result<()> {
    let (source, mut problems) = task(args)?;
    if let Some(limit) = args.limit {
        if limit == 0 {
            return Err(Error::Argument { name: "--limit".into(), expected: "at least 1".into(), found: "0".into() });
        }
        problems.truncate(limit);
    }
    let (config, defaults) = read_config(&source)?;
    let depths = match args.loops.is_empty() {
        true => doublings(defaults.n_loops.unwrap_or(config.max_loop_iters)),
        false => args.loops.clone(),
    };
    // A 0 among them is refused like any other number of loops that cannot be.
    let asked = if depths.contains(&0) { Some(0) } else { depths.iter().max().copied() };
    let mut model = common.load(&source, &Options { device: common.device(), loops: asked, ..Options::default() })?;
    // Every prompt is read before any is run.
    let tokens = problems.iter().map(|problem| problem.encode(&model)).collect::<Result<Vec<_>>>()?;
    let bar = progress(common, problems.len() * depths.len());
    let mut results: Vec<Row> = Vec::new();
    for loops in depths {
        let mut row = Row { loops, answers: Vec::new() };
        for (index, (problem, tokens)) in problems.iter().zip(&tokens).enumerate() {
            let solution = problem.solve(&mut model, tokens, loops)?;
            let answer = Answer::new(index, problem, loops, &solution);
            if args.format == Format::Jsonl {
                bar.suspend(|| common::print(&line(&answer)))?;
            }
            row.answers.push(answer);
            bar.inc(1);
        }
        results.push(row);
    }
    bar.finish_and_clear();
    match (args.format, &args.prompt) {
        (Format::Jsonl, _) => Ok(()),
        (format, Some(_)) => common::print(&one(&results, format == Format::Md)),
        (format, None) => common::print(&many(&problems, &results, &model, format == Format::Md)),
    }
}

/// The model and the problems.
fn task(args: &Args) -> Result<(Source, Vec<Problem>)> {
    if let Some(prompt) = &args.prompt {
        let answers: Vec<String> = args.expect.iter().flat_map(|text| text.split_whitespace()).map(String::from).collect();
        let queries = args.queries.unwrap_or(answers.len().max(1));
        if queries == 0 {
            return Err(Error::Argument { name: "--queries".into(), expected: "at least 1".into(), found: "0".into() });
        }
        let problem = Problem { prompt: prompt.clone(), queries, answers, hops: None, place: "--prompt".into() };
        return Ok((common::source(args.model.as_deref().unwrap_or(shipped::NAMES[0]))?, vec![problem]));
    }
    let name = args.problems.as_deref().unwrap_or(shipped::NAMES[0]);
    if let Some(own) = shipped::source(name) {
        let problems = problems::of(&own)?;
        return Ok((args.model.as_deref().map_or(Ok(own), common::source)?, problems));
    }
    // A folder stands for the problems in it.
    let path = if Path::new(name).is_dir() { Path::new(name).join(problems::FILE) } else { PathBuf::from(name) };
    let shown = path.display().to_string();
    let bytes = std::fs::read(&path).map_err(|source| Error::File { path: shown.clone(), doing: "read", source })?;
    let problems = problems::parse(&shown, &bytes)?;
    let source = match (&args.model, path.parent().filter(|folder| !folder.as_os_str().is_empty())) {
        (Some(model), _) => common::source(model)?,
        (None, Some(folder)) => Source::folder(folder)?,
        (None, None) => Source::folder(".")?,
    };
    Ok((source, problems))
}

/// 1, 2, 4, … and the last.
fn doublings(last: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |n: &usize| n.checked_mul(2)).take_while(|n| *n < last);
    powers.chain([last]).collect()
}

fn progress(common: &Common, total: usize) -> ProgressBar {
    let hidden = common.quiet || !std::io::stderr().is_terminal();
    let bar = if hidden { ProgressBar::hidden() } else { ProgressBar::new(total as u64) };
    let style = ProgressStyle::with_template("solving {bar:30} {pos}/{len} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// All problems at one number of loops.
struct Row {
    loops: usize,
    answers: Vec<Answer>,
}

/// One problem at one number of loops; lists are over its queries.
#[derive(Serialize)]
struct Answer {
    problem: usize,
    loops: usize,
    predicted: Vec<String>,
    loops_used: Vec<usize>,
    /// Empty where the answers are not known.
    correct: Vec<bool>,
    ms: f64,
}

impl Answer {
    fn new(problem: usize, asked: &Problem, loops: usize, solution: &Solution) -> Self {
        let (loops_used, predicted) = solution.queries(asked).map(|(step, said)| (step.loops, said)).unzip();
        let ms = (solution.time.as_secs_f64() * 1e6).round() / 1e3;
        Self { problem, loops, predicted, loops_used, correct: solution.right(asked), ms }
    }
}

/// The table of one problem.
fn one(results: &[Row], markdown: bool) -> String {
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
fn many(problems: &[Problem], results: &[Row], model: &Model, markdown: bool) -> String {
    let columns = columns(problems);
    let names = |last: Option<&str>| {
        let ranges = columns.iter().map(Column::name);
        ["loops".to_string(), "all".into()].into_iter().chain(ranges).chain(last.map(String::from)).collect::<Vec<_>>()
    };
    let sums =
        |row: &Row| -> Vec<Sum> { std::iter::once(None).chain(columns.iter().map(Some)).map(|c| Sum::of(problems, row, c)).collect() };
    let (mut right, mut used) = (vec![names(Some("ms"))], vec![names(None)]);
    for row in results {
        let (sums, ms) = (sums(row), row.answers.iter().map(|answer| answer.ms).sum::<f64>() / problems.len() as f64);
        // Rounded down: 100 is all of them.
        let shares = sums.iter().map(|sum| (100 * sum.right / sum.queries.max(1)).to_string());
        right.push(std::iter::once(row.loops.to_string()).chain(shares).chain([format!("{ms:.1}")]).collect());
        let loops = sums.iter().map(|sum| format!("{:.1}", sum.loops as f64 / sum.queries.max(1) as f64));
        used.push(std::iter::once(row.loops.to_string()).chain(loops).collect());
    }
    let queries = results.first().map(sums).unwrap_or_default();
    right.push(
        std::iter::once("queries".to_string()).chain(queries.iter().map(|sum| sum.queries.to_string())).chain([String::new()]).collect(),
    );
    let by = if columns.is_empty() { "" } else { ", by hops" };
    let total: usize = problems.iter().map(|problem| problem.queries).sum();
    let gap = if markdown { "\n\n" } else { "\n" };
    format!(
        "{} with {} on {}\n\nRight answers in %{by}; ms a problem{gap}{}\nLoops used on average{by}{gap}{}",
        counted(problems.len(), "problem", "problems"),
        counted(total, "query", "queries"),
        model.engine().device().name,
        draw(&right, markdown),
        draw(&used, markdown)
    )
}

fn counted(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
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
    fn of(problems: &[Problem], row: &Row, column: Option<&Column>) -> Self {
        let mut sum = Self::default();
        for (problem, answer) in problems.iter().zip(&row.answers) {
            for (query, right) in answer.correct.iter().enumerate() {
                let hops = problem.hops.as_ref().map(|hops| hops[query]);
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

/// A table, the first row its head; numbers stand right.
fn draw(table: &[Vec<String>], markdown: bool) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in table.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        match markdown {
            true => text.push_str(&format!("| {} |\n", cells.join(" | "))),
            false => text.push_str(&format!("{}\n", cells.join("  ").trim_end())),
        }
        if markdown && number == 0 {
            let rule: Vec<String> = widths.iter().map(|width| format!("{}:", "-".repeat(*width.max(&2) - 1))).collect();
            text.push_str(&format!("| {} |\n", rule.join(" | ")));
        }
    }
    text
}
