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
}

impl Roofline {
    /// Measures the device that a model will be loaded on, before it is.
    pub fn measure(options: &DeviceOptions) -> Result<Self> {
        let mut backend = block_on(Backend::open(options))?;
        // More than caches hold, as far as there is memory for it.
        let most = match backend.info().adapter.as_ref().map(|adapter| adapter.kind) {
            Some(AdapterKind::Software) => 128 << 20,
            None => 256 << 20,
            Some(_) => 512 << 20,
        };
        let bytes = backend.memory().map_or(most, |free| most.min(free / 2)).max(64 << 20);
        Ok(Self { read: block_on(read_rates(&mut backend, bytes as usize))?, fma: block_on(fma_rates(&mut backend))? })
    }

    /// The seconds that this takes at least.
    fn least(&self, bytes: u64, flops: u64) -> f64 {
        (bytes as f64 / Rate::best(&self.read)).max(flops as f64 / Rate::best(&self.fma))
    }

    /// A table for each of the rows.
    pub fn markdown(&self, rows: &[Profiled]) -> String {
        let best = |rates: &[Rate], unit: &str| {
            let best = rates.iter().max_by(|a, b| a.per_second.total_cmp(&b.per_second));
            best.map_or(String::new(), |rate| format!("{:.1} {unit} ({})", rate.per_second / 1e9, rate.how))
        };
        let (read, fma) = (best(&self.read, "GB/s read"), best(&self.fma, "GFLOP/s"));
        let mut text = format!("\nRoofline: {read}, {fma}, both measured in this run\n");
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
        // Work that only the device knows is said to be none.
        let known = |work: u64, figure: String| if work == 0 { "–".to_string() } else { figure };
        let mut line = |name: &str, dtype: &str, sum: &KernelTime, least: f64| {
            let seconds = sum.seconds.max(1e-9);
            table.push(vec![
                name.to_string(),
                dtype.to_string(),
                sum.calls.to_string(),
                format!("{:.3}", 1e3 * sum.seconds),
                format!("{:.1}", 100.0 * sum.seconds / busy),
                known(sum.bytes, format!("{:.2}", sum.bytes as f64 / 1e6)),
                known(sum.bytes, format!("{:.2}", sum.bytes as f64 / seconds / 1e9)),
                known(sum.flops, format!("{:.2}", sum.flops as f64 / seconds / 1e9)),
                known(sum.bytes + sum.flops, format!("{:.1}", 100.0 * least / seconds)),
            ]);
        };
        let kernels = profile.kernels();
        for sum in &kernels {
            line(sum.kernel, sum.precision.name(), sum, self.least(sum.bytes, sum.flops));
        }
        if let Some(first) = kernels.first() {
            let mut all = KernelTime { calls: 0, seconds: 0.0, bytes: 0, flops: 0, ..*first };
            let mut least = 0.0;
            for sum in &kernels {
                all.calls += sum.calls;
                all.seconds += sum.seconds;
                all.bytes += sum.bytes;
                all.flops += sum.flops;
                least += self.least(sum.bytes, sum.flops);
            }
            line("all", "", &all, least);
        }
        let lost = match profile.lost() {
            Some(lost) => format!("{:.1} ms between them", 1e3 * lost),
            None => "a round trip to the device in each".to_string(),
        };
        let clock = match profile.clock {
            Clock::Device => "times by the device's clock",
            Clock::Host => "times by the clock of the CPU",
            Clock::RoundTrip => "the device has no timestamps: each kernel was run alone and waited for",
        };
        format!(
            "\n{}, {} loop{}: {:.1} ms in kernels, {lost}, {:.1} ms in all; {clock}\n\n{}",
            row.test.name(),
            row.test.loops,
            if row.test.loops == 1 { "" } else { "s" },
            1e3 * profile.busy(),
            1e3 * row.run.seconds(),
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
            let seconds = sum.seconds.max(1e-9);
            json!({
                "kernel": sum.kernel,
                "weights": sum.precision.name(),
                "calls": sum.calls,
                "seconds": sum.seconds,
                "bytes": sum.bytes,
                "flops": sum.flops,
                "bytes_per_second": sum.bytes as f64 / seconds,
                "flops_per_second": sum.flops as f64 / seconds,
                "share_of_roofline": self.least(sum.bytes, sum.flops) / seconds,
            })
        };
        let row = |row: &Profiled| {
            json!({
                "test": row.test.name(),
                "loops": row.test.loops,
                "clock": row.profile.clock.name(),
                "seconds": row.run.seconds(),
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
