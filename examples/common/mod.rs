//! What measuring examples share: their arguments, a source of random numbers, sums of counters, and [crafted] models.

#![allow(dead_code)] // no example uses all of it

pub mod crafted;

use refrain::backend::{Counters, DeviceChoice, DeviceOptions};
use refrain::{Error, Result};

/// The arguments: words, `--name VALUE` and `--name`.
pub struct Args(Vec<String>);

impl Args {
    /// Those that the program was called with.
    pub fn new() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    /// The first argument, unless it is an option.
    pub fn word(&self) -> Option<&str> {
        self.0.first().map(String::as_str).filter(|word| !word.starts_with("--"))
    }

    /// Whether `--name` is there.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    /// What follows `--name`.
    pub fn value(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|word| word == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// The number that follows `--name`, else `default`.
    pub fn number(&self, name: &str, default: usize) -> Result<usize> {
        let Some(found) = self.value(name) else { return Ok(default) };
        found.parse().map_err(|_| wrong(name, "a number", found))
    }

    /// What `--device` names, else the CPU.
    pub fn device(&self) -> Result<DeviceOptions> {
        device(self.value("--device").unwrap_or("cpu"))
    }
}

/// A device by what `--device` would call it.
pub fn device(name: &str) -> Result<DeviceOptions> {
    Ok(DeviceOptions { device: name.parse::<DeviceChoice>()?, ..Default::default() })
}

/// The error of a wrong argument.
pub fn wrong(name: &str, expected: &str, found: &str) -> Error {
    Error::Argument { name: name.into(), expected: expected.into(), found: found.into() }
}

/// Random numbers from a seed (Knuth's multiplier for a linear congruence; the upper bits are good).
pub struct Random(pub u64);

impl Random {
    /// 24 random bits.
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as u32
    }

    /// A number from 0 to 1, without the 1.
    pub fn unit(&mut self) -> f32 {
        self.bits() as f32 / (1 << 24) as f32
    }
}

/// Adds what was counted between two moments.
pub fn count(sum: &mut Counters, before: Counters, after: Counters) {
    sum.passes += after.passes - before.passes;
    sum.rows += after.rows - before.rows;
    sum.rows_catching_up += after.rows_catching_up - before.rows_catching_up;
    sum.dispatches += after.dispatches - before.dispatches;
    sum.empty_dispatches += after.empty_dispatches - before.empty_dispatches;
    sum.submits += after.submits - before.submits;
    sum.read_backs += after.read_backs - before.read_backs;
    sum.polls += after.polls - before.polls;
    sum.weight_bytes += after.weight_bytes - before.weight_bytes;
}

/// The middle one of some numbers.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
