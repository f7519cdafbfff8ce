//! Plays a case on the lazy engine and judges it by the schedule `full`.

use pollster::block_on;
use refrain::backend::{DeviceChoice, DeviceOptions};
use refrain::model::files::Source;
use refrain::model::{Engine, Options, Schedule};

use super::case::Case;
use super::judge::{depths_are_right, logits_are_the_same};
use super::play::{Checked, Play, Seen, at};

/// How far the logits may be apart, as a share of the largest.
pub const ON_THE_CPU: f32 = 1e-4;
pub const ON_DRIVERS: f32 = 5e-4;

fn load(source: &Source, options: &Options) -> Checked<Engine> {
    at("loading", block_on(Engine::load(source, options, &mut |_| {})))
}

/// Plays a case and judges it; None where it has to be drawn again.
pub fn check(case: &Case, device: &DeviceOptions) -> Checked<Option<(Seen, f32)>> {
    let source = case.model.source();
    let cpu = DeviceOptions { device: DeviceChoice::Cpu, ..DeviceOptions::default() };
    let full = Options { device: cpu, loops: Some(case.setup.loops), schedule: Schedule::Full, ..Options::default() };
    let mut lazy = load(&source, &case.setup.options(device.clone()))?;
    let mut play = Play::new(&mut lazy, case)?;
    play.play(&case.script)?;
    let (events, seen) = (std::mem::take(&mut play.events), play.seen);
    drop(play);
    let mut full = load(&source, &full)?;
    if !depths_are_right(&mut full, &events)? {
        return Ok(None);
    }
    let worst = if lazy.device().adapter.is_none() {
        logits_are_the_same(&mut full, &events, ON_THE_CPU)?
    } else {
        // Opening a second device would take longer than all else.
        lazy.set_schedule(Schedule::Full);
        logits_are_the_same(&mut lazy, &events, ON_DRIVERS)?
    };
    Ok(Some((seen, worst)))
}
