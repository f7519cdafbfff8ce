//! Judges what the lazy engine gave: the same tokens by the schedule `full`, sequence by sequence and from the start, and the depth of
//! every token worked out from the halting probabilities of one whole pass.

use pollster::block_on;
use refrain::model::defaults::Exit;
use refrain::model::{Depth, Detail, Engine, Feed, Output, Sequence};

use super::play::{ALL, Checked, Event, Path, at, ensure};

/// Below this distance between the last expert chosen and the best left out, or of the halting mass from its threshold, two correct
/// programs may decide differently.
const SMALLEST_MARGIN: f32 = 1e-4;

/// The sequences of the events, each as far as it came; those that are the beginning of another are not named again.
fn longest(events: &[Event]) -> Vec<&Path> {
    let goes_on = |path: &Path, other: &Path| other.len() > path.len() && other.starts_with(path);
    let mut paths: Vec<&Path> = Vec::new();
    for Event { path, .. } in events {
        if !paths.contains(&path) && !events.iter().any(|other| goes_on(path, &other.path)) {
            paths.push(path);
        }
    }
    paths
}

fn sequence(engine: &Engine) -> Checked<Sequence> {
    at("a sequence", engine.sequence())
}

/// Loops until a token halts, and whether it does, given its halting probability at every loop; and the smallest distance of its
/// mass from the threshold.
fn depth_of(depth: Depth, threshold: f32, probabilities: &[f32]) -> (usize, bool, f32) {
    if depth.exit == Exit::Fixed {
        return (depth.loops, false, f32::INFINITY);
    }
    let (mut mass, mut margin) = (0f32, f32::INFINITY);
    for (loops, p) in (1..=depth.loops).zip(probabilities) {
        mass += if loops < depth.min_loops { 0.0 } else { *p };
        margin = margin.min((mass - threshold).abs());
        if mass >= threshold {
            return (loops, true, margin);
        }
    }
    (depth.loops, false, margin)
}

/// Whether every token ran the loops that its halting probabilities say. False where a margin is so small that the case is no test.
pub fn depths_are_right(full: &mut Engine, events: &[Event]) -> Checked<bool> {
    let threshold = full.config().act_threshold;
    for path in longest(events) {
        let tokens: Vec<u32> = path.iter().map(|(token, _)| *token).collect();
        // Whatever the caps were: what a token computes in a loop does not depend on them.
        let loops = path.iter().map(|(_, depth)| depth.loops).max().unwrap_or(1);
        let depth = Depth { loops, min_loops: 0, exit: Exit::Fixed };
        let mut whole = sequence(full)?;
        let mut feeds = [Feed { sequence: &mut whole, tokens: &tokens }];
        let detail = Detail { experts: true, ..Detail::default() };
        let (_, trace) = at("one whole pass", block_on(full.forward_traced(&mut feeds, depth, ALL, detail)))?;
        let mut expected = Vec::new();
        for (token, (_, depth)) in trace.tokens.iter().zip(path) {
            let probabilities: Vec<f32> = token.loops.iter().map(|at| at.halt_p).collect();
            let (loops, halted, margin) = depth_of(*depth, threshold, &probabilities);
            let margin = token.loops.iter().map(|at| at.router_margin).fold(margin, f32::min);
            if margin.is_nan() || margin < SMALLEST_MARGIN {
                return Ok(false);
            }
            expected.push((loops, halted));
        }
        for event in events.iter().filter(|event| path.starts_with(&event.path)) {
            let found: Vec<_> = event.output.rows.iter().map(|row| (row.loops, row.halted)).collect();
            let expected = &expected[event.first..event.path.len()];
            ensure(found == expected, || format!("{}: depths {found:?}, expected {expected:?}", event.what))?;
        }
    }
    Ok(true)
}

/// Whether the logits are those of the schedule `full`, which the engine is set to. Returns how far they are apart at most.
pub fn logits_are_the_same(full: &mut Engine, events: &[Event], tolerance: f32) -> Checked<f32> {
    let mut worst = 0f32;
    for path in longest(events) {
        let mut whole = sequence(full)?;
        let mut expected = Output::default();
        // One forward has one depth.
        for piece in path.chunk_by(|a, b| a.1 == b.1) {
            let tokens: Vec<u32> = piece.iter().map(|(token, _)| *token).collect();
            let mut feeds = [Feed { sequence: &mut whole, tokens: &tokens }];
            let output = at("the schedule full", block_on(full.forward(&mut feeds, piece[0].1, ALL)))?;
            expected.rows.extend(output.rows);
            expected.predictions.extend(output.predictions);
        }
        for Event { what, path, first, output } in events.iter().filter(|event| path.starts_with(&event.path)) {
            let range = *first..path.len();
            ensure(output.rows == expected.rows[range.clone()], || {
                format!("{what}: rows {:?}, expected {:?}", output.rows, &expected.rows[range.clone()])
            })?;
            for ((found, expected), position) in output.predictions.iter().zip(&expected.predictions[range.clone()]).zip(range) {
                let apart = close(&found.logits, &expected.logits, tolerance);
                worst = worst.max(apart.map_err(|error| format!("{what}: position {position}: {error}"))?);
            }
        }
    }
    Ok(worst)
}

/// Whether logits agree within a share of the largest. Returns how far they are apart, as such a share.
pub fn close(found: &[f32], expected: &[f32], tolerance: f32) -> Checked<f32> {
    ensure(found.len() == expected.len(), || format!("{} logits, expected {}", found.len(), expected.len()))?;
    let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    let apart = |e: &f32, f: &f32| if e == f { 0.0 } else { (e - f).abs() / largest };
    let worst = expected.iter().zip(found).map(|(e, f)| apart(e, f)).max_by(f32::total_cmp).unwrap_or(0.0);
    ensure(worst <= tolerance, || format!("logits are apart by {worst:e} of the largest, {largest}"))?;
    Ok(worst)
}
