//! The rows of a bench as a Markdown table, as CSV or as JSON.

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::roofline::Roofline;
use super::time::{Kind, Profiled, Row, median};
use crate::backend::DeviceInfo;
use crate::cli::common::thousands;
use crate::cli::table::draw;
use crate::error::size;
use crate::model::Needs;
use crate::model::config::Parameters;

/// How the results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// A table in Markdown
    Md,
    /// A line a row, with a head
    Csv,
    /// One JSON object, with the seconds of every run
    Json,
}

/// Known where whoever builds puts it into the environment; a package from a registry has none.
const COMMIT: Option<&str> = option_env!("REFRAIN_COMMIT");

/// What all rows have in common.
pub(super) struct About<'a> {
    /// The model, or the published size.
    pub name: &'a str,
    /// Whether the weights were made on the device.
    pub untrained: bool,
    pub repeat: usize,
    /// Whether Ctrl-C or an error ended it before all was measured.
    pub interrupted: bool,
    pub device: DeviceInfo,
    pub parameters: Parameters,
    pub needs: Needs,
    /// What the device can do, and the rows whose kernels were timed, if that was asked for.
    pub roofline: Option<(&'a Roofline, &'a [Profiled])>,
}

/// A rate over the runs of a row.
struct Rate {
    mean: f64,
    /// Standard deviation of a sample; none of a single run.
    sd: Option<f64>,
    median: f64,
}

impl Rate {
    /// `steps` a run.
    fn of(row: &Row, steps: usize) -> Self {
        // A clock that did not move is no reason to divide by zero.
        let rates: Vec<f64> = row.seconds.iter().map(|seconds| steps as f64 / seconds.max(1e-9)).collect();
        let n = rates.len();
        let mean = rates.iter().sum::<f64>() / n as f64;
        let squares = rates.iter().map(|rate| (rate - mean) * (rate - mean)).sum::<f64>();
        let sd = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Self { mean, sd, median: median(rates) }
    }

    /// Tokens a second, then loop-steps a second.
    fn both(row: &Row) -> [Self; 2] {
        [Self::of(row, row.test.tokens), Self::of(row, row.test.tokens * row.test.loops)]
    }

    fn json(&self) -> Value {
        json!({ "mean": self.mean, "sd": self.sd, "median": self.median })
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.mean < 100.0 { 2 } else { 1 };
        write!(f, "{:.digits$}", self.mean)?;
        self.sd.map_or(Ok(()), |sd| write!(f, " ± {sd:.digits$}"))
    }
}

/// All rows in a format.
pub(super) fn write(about: &About, rows: &[Row], format: Format) -> String {
    match format {
        Format::Md => markdown(about, rows),
        Format::Csv => csv(about, rows),
        Format::Json => format!("{:#}\n", json(about, rows)),
    }
}

impl About<'_> {
    /// `q4` or, where matrices differ, `f32+q8`.
    fn dtypes(&self) -> String {
        self.needs.matrices.keys().map(|dtype| dtype.name()).collect::<Vec<_>>().join("+")
    }
}

fn markdown(about: &About, rows: &[Row]) -> String {
    let mut table = vec![["test", "loops", "t/s", "loop-steps/s"].map(String::from).to_vec()];
    for row in rows {
        let [tokens, steps] = Rate::both(row);
        table.push(vec![row.test.name(), row.test.loops.to_string(), tokens.to_string(), steps.to_string()]);
    }
    format!(
        "{}{}: {} parameters in {}, {} on the device  \n{}  \nrefrain {}{}, {} run{} a row\n\n{}",
        about.name,
        if about.untrained { ", untrained" } else { "" },
        thousands(about.parameters.total),
        about.dtypes(),
        size(about.needs.total()),
        about.device.name,
        env!("CARGO_PKG_VERSION"),
        COMMIT.map_or(String::new(), |commit| format!(" ({commit})")),
        about.repeat,
        if about.repeat == 1 { "" } else { "s" },
        draw(&table, true)
    ) + &about.roofline.map_or(String::new(), |(roofline, rows)| roofline.markdown(rows))
}

fn csv(about: &About, rows: &[Row]) -> String {
    // Names come from drivers and users: quoted where they need it.
    let cell = |text: &str| match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    };
    let mut text = String::from("version,model,parameters,dtype,device,test,tokens,cached,loops,runs,");
    text.push_str("tokens_per_second,sd,median,loop_steps_per_second,loop_steps_sd,loop_steps_median\n");
    for row in rows {
        let (test, [tokens, steps]) = (&row.test, Rate::both(row));
        let names = [env!("CARGO_PKG_VERSION"), about.name, &about.parameters.total.to_string(), &about.dtypes(), &about.device.name];
        let names: Vec<String> = names.into_iter().map(cell).collect();
        let sd = |rate: &Rate| rate.sd.map_or(String::new(), |sd| format!("{sd:.4}"));
        let rates = [tokens, steps].map(|rate| format!("{:.4},{},{:.4}", rate.mean, sd(&rate), rate.median)).join(",");
        let counts = format!("{},{},{},{},{}", test.name(), test.tokens, test.cached, test.loops, row.seconds.len());
        text.push_str(&format!("{},{counts},{rates}\n", names.join(",")));
    }
    text
}

fn json(about: &About, rows: &[Row]) -> Value {
    let About { device, needs, parameters, .. } = about;
    let adapter = device
        .adapter
        .as_ref()
        .map(|adapter| json!({ "name": adapter.name, "driver": adapter.driver, "api": adapter.api, "kind": adapter.kind.to_string() }));
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let (test, [tokens, steps]) = (&row.test, Rate::both(row));
            json!({
                "test": test.name(),
                "kind": if test.kind == Kind::Prompt { "prompt" } else { "generation" },
                "tokens": test.tokens,
                "cached": test.cached,
                "loops": test.loops,
                "seconds": row.seconds,
                "tokens_per_second": tokens.json(),
                "loop_steps_per_second": steps.json(),
            })
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": COMMIT,
        "interrupted": about.interrupted,
        "model": (!about.untrained).then_some(about.name),
        "config": about.untrained.then_some(about.name),
        "parameters": { "total": parameters.total, "active": parameters.active },
        "device": { "name": device.name, "adapter": adapter, "threads": device.threads },
        "dtypes": needs.matrices.iter().map(|(dtype, bytes)| (dtype.name().into(), (*bytes).into())).collect::<Map<_, _>>(),
        "memory": {
            "weights_bytes": needs.weights(),
            "cache_bytes": needs.cache,
            "state_bytes": needs.states,
            "work_bytes": needs.work,
            "total_bytes": needs.total(),
            "context": needs.context,
        },
        "repeat": about.repeat,
        "rows": rows,
        "roofline": about.roofline.map(|(roofline, rows)| roofline.json(rows)),
    })
}
