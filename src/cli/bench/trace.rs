//! `bench --trace`: what ran when, in the trace event format that Perfetto and Chrome's tracing open.
//!
//! Two tracks: the device, where each dispatch is an event with what it had to do, and the host, where each token is one, with the submits
//! and waits within it. Times are microseconds since the first row that was profiled began.

use serde_json::{Map, Value, json};

use super::time::{Kind, Profiled};
use crate::backend::profile::DispatchTime;

/// The tracks, by their thread ids.
const DEVICE: u32 = 1;
const HOST: u32 = 2;

/// Something with a beginning and an end, in nanoseconds.
struct Event {
    name: String,
    begin: i64,
    end: i64,
    args: Value,
}

/// The whole file.
pub(super) fn json(model: &str, device: &str, rows: &[Profiled]) -> Value {
    let mut events = vec![name("process_name", DEVICE, &format!("refrain bench, {model}"))];
    events.push(name("thread_name", DEVICE, device));
    events.push(name("thread_name", HOST, "host"));
    let first = rows.iter().map(|row| row.profile.start).min();
    let (mut kernels, mut host) = (Vec::new(), Vec::new());
    for row in rows {
        let profile = &row.profile;
        let later = first.map_or(0.0, |first| profile.start.saturating_duration_since(first).as_secs_f64());
        let event = |name: &str, begin: f64, seconds: f64, args: Value| {
            let at = |seconds: f64| (1e9 * (later + seconds)).round() as i64;
            Event { name: name.to_string(), begin: at(begin), end: at(begin + seconds), args }
        };
        kernels.extend(profile.dispatches.iter().map(|ran| event(ran.load.kernel, ran.begin, ran.seconds, args(ran))));
        host.extend(profile.host.iter().map(|did| event(did.name, did.begin, did.seconds, json!({}))));
        let what = if row.test.kind == Kind::Prompt { "prompt" } else { "token" };
        let test = json!({ "test": row.test.name(), "loops": row.test.loops });
        let at = |time| profile.start.max(time).duration_since(profile.start).as_secs_f64();
        let begins = std::iter::once(&row.run.begin).chain(&row.run.ends);
        host.extend(begins.zip(&row.run.ends).map(|(begin, end)| event(what, at(*begin), at(*end) - at(*begin), test.clone())));
    }
    events.extend(track(DEVICE, kernels));
    events.extend(track(HOST, host));
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

fn name(what: &str, track: u32, name: &str) -> Value {
    json!({ "ph": "M", "pid": 1, "tid": track, "name": what, "args": { "name": name } })
}

/// What is known of a dispatch: work that is not has no entry.
fn args(ran: &DispatchTime) -> Value {
    let (load, seconds) = (&ran.load, ran.seconds.max(1e-9));
    let mut args = Map::new();
    args.insert("kernel".into(), load.kernel.into());
    args.insert("weights".into(), load.precision.name().into());
    args.extend(load.rows.map(|rows| ("rows".into(), rows.into())));
    args.insert("workgroups".into(), json!(load.grid));
    for (work, amount, rate) in [(load.bytes, "bytes", "GB/s"), (load.flops, "flops", "GFLOP/s")] {
        if work > 0 {
            args.insert(amount.into(), work.into());
            args.insert(rate.into(), (work as f64 / seconds / 1e9).into());
        }
    }
    Value::Object(args)
}

/// The events of a track in the order of their beginnings. One that begins within another ends within it, whatever the clocks' last digits
/// say: a viewer would draw it under the wrong one.
fn track(track: u32, mut events: Vec<Event>) -> Vec<Value> {
    events.sort_by_key(|event| (event.begin, -event.end));
    let mut around: Vec<i64> = Vec::new();
    let mut written = Vec::with_capacity(events.len());
    for Event { name, begin, end, args } in events {
        while around.last().is_some_and(|last| *last <= begin) {
            around.pop();
        }
        let end = around.last().map_or(end, |last| end.min(*last));
        around.push(end);
        let (ts, dur) = (begin as f64 / 1e3, (end - begin) as f64 / 1e3);
        written.push(json!({ "ph": "X", "pid": 1, "tid": track, "name": name, "ts": ts, "dur": dur, "args": args }));
    }
    written
}
