//! `bench --roofline`: what each kernel reaches of what the device could do.
//!
//! A kernel that reads `bytes` and computes `flops` takes at least max(bytes / bandwidth, flops / rate): the roofline (Williams, Waterman
//! and Patterson 2009). Bandwidth and rate are not looked up but measured on the device in the same run, with kernels that do nothing else.

use pollster::block_on;
use serde_json::{Value, json};

use super::time::Profiled;
use crate::backend::profile::{Clock, KernelTime};
use crate::backend::{AdapterKind, Backend, DeviceOptions};
use crate::cli::table::draw;
use crate::error::Result;
use crate::kernels::fma_rate::fma_rates;
use crate::kernels::read_rate::{Rate, read_rates};

/// What a device can do.
pub(super) struct Roofline {
    /// Bytes a second, in each pattern.
    read: Vec<Rate>,
    /// Operations a second, written in each way.
    fma: Vec<Rate>,
    /// When it was measured.
    when: &'static str,
}

/// In a table: nobody knows.
const UNKNOWN: &str = "–";

/// An amount of work, and the seconds of those kernels of which it is known.
#[derive(Clone, Copy, Default)]
struct Work {
    amount: f64,
    seconds: f64,
}

impl Work {
    /// Of one kernel; 0 is unknown.
    fn of(amount: f64, seconds: f64) -> Self {
        if amount > 0.0 { Self { amount, seconds: seconds.max(1e-9) } } else { Self::default() }
    }

    fn and(self, other: Self) -> Self {
        Self { amount: self.amount + other.amount, seconds: self.seconds + other.seconds }
    }

    fn known(self) -> Option<f64> {
        (self.amount > 0.0).then_some(self.amount)
    }

    fn rate(self) -> Option<f64> {
        self.known().map(|amount| amount / self.seconds)
    }
}

/// What a kernel did, or all of them.
#[derive(Default)]
struct Did {
    bytes: Work,
    flops: Work,
    /// The seconds that it takes at least, so that its rate is a share of the roofline.
    least: Work,
}

impl Roofline {
    /// Measures the device that a model will be loaded on, while it is not.
    pub fn measure(options: &DeviceOptions) -> Result<Self> {
        let mut backend = block_on(Backend::open(options))?;
        // More than caches hold, as far as there is memory for it.
        let most = match backend.info().adapter.as_ref().map(|adapter| adapter.kind) {
            Some(AdapterKind::Software) => 128 << 20,
            None => 256 << 20,
            Some(_) => 512 << 20,
        };
        let bytes = backend.memory().map_or(most, |free| most.min(free / 2)).max(64 << 20);
        let (read, fma) = (block_on(read_rates(&mut backend, bytes as usize))?, block_on(fma_rates(&mut backend))?);
        Ok(Self { read, fma, when: "before the rows" })
    }

    /// Measures it once more, for what else the machine did the first time, and keeps the better of each.
    pub fn measure_again(&mut self, options: &DeviceOptions) -> Result<()> {
        let again = Self::measure(options)?;
        for (rate, again) in self.read.iter_mut().chain(&mut self.fma).zip(again.read.iter().chain(&again.fma)) {
            rate.per_second = rate.per_second.max(again.per_second);
        }
        self.when = "before the rows and after them, the better of both";
        Ok(())
    }

    fn did(&self, sum: &KernelTime) -> Did {
        let (bytes, flops) = (sum.bytes as f64, sum.flops as f64);
        let least = (bytes / Rate::best(&self.read)).max(flops / Rate::best(&self.fma));
        Did { bytes: Work::of(bytes, sum.seconds), flops: Work::of(flops, sum.seconds), least: Work::of(least, sum.seconds) }
    }

    /// A table for each of the rows.
    pub fn markdown(&self, rows: &[Profiled]) -> String {
        let best = |rates: &[Rate], unit: &str| {
            let best = rates.iter().max_by(|a, b| a.per_second.total_cmp(&b.per_second));
            best.map_or(String::new(), |rate| format!("{:.1} {unit} ({})", rate.per_second / 1e9, rate.how))
        };
        let (read, fma) = (best(&self.read, "GB/s read"), best(&self.fma, "GFLOP/s"));
        let mut text = format!("\nRoofline: {read}, {fma}, measured {}\n", self.when);
        for row in rows {
            text.push_str(&self.table(row));
        }
        text
    }

    fn table(&self, row: &Profiled) -> String {
        let profile = &row.profile;
        let head = ["kernel", "weights", "calls", "ms", "% of time", "MB", "GB/s", "GFLOP/s", "% of roofline"];
        let mut table = vec![head.map(String::from).to_vec()];
        let busy = profile.busy().max(1e-9);
        let figure = |figure: Option<f64>, digits: usize| figure.map_or(UNKNOWN.to_string(), |figure| format!("{figure:.digits$}"));
        let mut line = |name: &str, dtype: &str, calls: usize, seconds: f64, did: &Did| {
            table.push(vec![
                name.to_string(),
                dtype.to_string(),
                calls.to_string(),
                format!("{:.3}", 1e3 * seconds),
                format!("{:.1}", 100.0 * seconds / busy),
                figure(did.bytes.known().map(|bytes| bytes / 1e6), 2),
                figure(did.bytes.rate().map(|rate| rate / 1e9), 2),
                figure(did.flops.rate().map(|rate| rate / 1e9), 2),
                figure(did.least.rate().map(|share| 100.0 * share), 1),
            ]);
        };
        let (mut all, mut calls) = (Did::default(), 0);
        for sum in profile.kernels() {
            let did = self.did(&sum);
            line(sum.kernel, sum.precision.name(), sum.calls, sum.seconds, &did);
            all = Did { bytes: all.bytes.and(did.bytes), flops: all.flops.and(did.flops), least: all.least.and(did.least) };
            calls += sum.calls;
        }
        if calls > 0 {
            line("all", "", calls, profile.busy(), &all);
        }
        let unknown = match table.iter().flatten().any(|cell| cell == UNKNOWN) {
            true => format!("\n{UNKNOWN}: known to the device alone, or not counted; `all` leaves such kernels out there\n"),
            false => String::new(),
        };
        let lost = match profile.lost() {
            Some(lost) => format!("{:.1} ms between them", 1e3 * lost),
            None => "a round trip to the device in each".to_string(),
        };
        let clock = match profile.clock {
            Clock::Device => "times by the device's clock, with a compute pass for each kernel",
            Clock::Host => "times by the clock of the CPU",
            Clock::RoundTrip => "the device has no timestamps: each kernel was run alone and waited for",
        };
        format!(
            "\n{}{}: {:.1} ms in kernels, {lost}, {:.1} ms in all (plain run {:.1} ms); {clock}\n\n{}{unknown}",
            row.test.whole_name(),
            if row.runs == 1 { String::new() } else { format!(", the fastest of {} runs", row.runs) },
            1e3 * profile.busy(),
            1e3 * row.run.seconds(),
            1e3 * row.plain,
            draw(&table, true)
        )
    }

    /// All of it.
    pub fn json(&self, rows: &[Profiled]) -> Value {
        let rates = |rates: &[Rate], how: &str, unit: &str| {
            let each: Vec<Value> = rates.iter().map(|rate| json!({ how: rate.how, unit: rate.per_second })).collect();
            json!({ unit: Rate::best(rates), "measured": each })
        };
        let kernel = |sum: &KernelTime| {
            let (did, known) = (self.did(sum), |work: u64| (work > 0).then_some(work));
            json!({
                "kernel": sum.kernel,
                "weights": sum.precision.name(),
                "calls": sum.calls,
                "seconds": sum.seconds,
                "bytes": known(sum.bytes),
                "flops": known(sum.flops),
                "bytes_per_second": did.bytes.rate(),
                "flops_per_second": did.flops.rate(),
                "share_of_roofline": did.least.rate(),
            })
        };
        let row = |row: &Profiled| {
            json!({
                "test": row.test.name(),
                "loops": row.test.loops,
                "clock": row.profile.clock.name(),
                "runs": row.runs,
                "seconds": row.run.seconds(),
                "plain_seconds": row.plain,
                "kernel_seconds": row.profile.busy(),
                "lost_seconds": row.profile.lost(),
                "kernels": row.profile.kernels().iter().map(kernel).collect::<Vec<_>>(),
            })
        };
        json!({
            "read": rates(&self.read, "pattern", "bytes_per_second"),
            "fma": rates(&self.fma, "written", "flops_per_second"),
            "rows": rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}
