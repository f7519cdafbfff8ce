//! `refrain sweep`: the same problems at several numbers of loops, to see how deep a model must go and whether it knows.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::common::{self, Common, Loading};
use super::problems::{self, Problem};
use super::results::{Answer, Row, many, one};
use super::show::line;
use crate::error::{Error, Result};
use crate::model::files::Source;
use crate::model::{Options, read_config};
use crate::shipped;

const HELP: &str = r#"A file of problems is JSON lines:
  {"prompt": "a >b b >b ?a ?b", "queries": 2, "answers": ["b", "b"], "hops": [1, 0]}
The last `queries` tokens of the prompt are questions, and the prediction at
each is the answer; `hops`, which may be missing, says how hard each is.
--format jsonl counts problems from 0.

Where hops are known, Spearman is the rank correlation of hops and loops used
over all queries, cut off after two decimals: 1.00 where each harder query took
more loops and equally hard ones took the same; – where all hops or all loops
are equal.

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
    /// A shipped model, hf:owner/repo[@revision] or a model folder [default: the folder of FILE; with -p follow]
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
    #[command(flatten)]
    loading: Loading,
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
    let (source, mut problems) = task(args, common)?;
    if let Some(limit) = args.limit {
        if limit == 0 {
            return Err(Error::Argument { name: "--limit".into(), expected: "at least 1".into(), found: "0".into() });
        }
        problems.truncate(limit);
    }
    let (config, defaults) = read_config(&source)?;
    let depths = match args.loops.is_empty() {
        true => problems::doublings(1, defaults.n_loops.unwrap_or(config.max_loop_iters)),
        false => args.loops.clone(),
    };
    // A 0 among them is refused like any other number of loops that cannot be.
    let asked = if depths.contains(&0) { Some(0) } else { depths.iter().max().copied() };
    let mut model = common.load(&source, &Options { loops: asked, ..args.loading.options(common) })?;
    // Every prompt is read before any is run.
    let tokens = problems.iter().map(|problem| problem.encode(&model)).collect::<Result<Vec<_>>>()?;
    let bar = common.bar("solving {bar:30} {pos}/{len} {eta}");
    bar.set_length((problems.len() * depths.len()) as u64);
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
fn task(args: &Args, common: &Common) -> Result<(Source, Vec<Problem>)> {
    if let Some(prompt) = &args.prompt {
        let answers: Vec<String> = args.expect.iter().flat_map(|text| text.split_whitespace()).map(String::from).collect();
        let queries = args.queries.unwrap_or(answers.len().max(1));
        if queries == 0 {
            return Err(Error::Argument { name: "--queries".into(), expected: "at least 1".into(), found: "0".into() });
        }
        let problem = Problem { prompt: prompt.clone(), queries, answers, hops: None, place: "--prompt".into() };
        return Ok((common::source(args.model.as_deref().unwrap_or(shipped::NAMES[0]), common)?, vec![problem]));
    }
    let name = args.problems.as_deref().unwrap_or(shipped::NAMES[0]);
    if let Some(own) = shipped::source(name) {
        let problems = problems::of(&own)?;
        return Ok((args.model.as_deref().map_or(Ok(own), |model| common::source(model, common))?, problems));
    }
    // A folder stands for the problems in it.
    let path = if Path::new(name).is_dir() { Path::new(name).join(problems::FILE) } else { PathBuf::from(name) };
    let shown = path.display().to_string();
    let bytes = std::fs::read(&path).map_err(|source| Error::File { path: shown.clone(), doing: "read", source })?;
    let problems = problems::parse(&shown, &bytes)?;
    let source = match (&args.model, path.parent().filter(|folder| !folder.as_os_str().is_empty())) {
        (Some(model), _) => common::source(model, common)?,
        (None, Some(folder)) => Source::folder(folder)?,
        (None, None) => Source::folder(".")?,
    };
    Ok((source, problems))
}
