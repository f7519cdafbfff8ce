//! Plays the steps of a batch: sequences join when they are fed, and leave whether they are busy or not.

use pollster::block_on;
use refrain::model::{Depth, Finished};

use super::case::Step;
use super::play::{ALL, Checked, Event, Live, Play, Seen, at, ensure};

/// A sequence in the batch.
struct Member {
    key: usize,
    /// The tokens that are under way, with their depth; none where it rests.
    tokens: Vec<u32>,
    depth: Depth,
}

impl Play<'_> {
    pub(super) fn batch(&mut self, what: &str, steps: &[Step], abandon: bool) -> Checked<()> {
        let Self { engine, live, events, seen, spilled, vocabulary, setup } = self;
        let mut members: Vec<Option<Member>> = live.iter().map(|_| None).collect();
        let count = live.len();
        let mut batch = at(what, block_on(engine.batch()))?;
        for step in steps {
            match step {
                Step::Feed { who, tokens, cap } => {
                    let (who, depth) = (who % count, cap.depth(setup.loops));
                    let tokens = live[who].fitting(tokens, *vocabulary);
                    if tokens.is_empty() {
                        continue;
                    }
                    if let Some(sequence) = live[who].sequence.take() {
                        let key = at(what, batch.insert(sequence))?;
                        members[who] = Some(Member { key, tokens: Vec::new(), depth });
                    }
                    let Some(member) = &mut members[who] else { continue };
                    let result = batch.feed(member.key, &tokens, depth, ALL);
                    if member.tokens.is_empty() {
                        at(what, result)?;
                        (member.tokens, member.depth) = (tokens, depth);
                    } else {
                        let code = result.err().map(|error| error.code());
                        ensure(code == Some("usage"), || format!("{what}: a busy sequence was fed: {code:?}"))?;
                    }
                }
                Step::Next => {
                    let finished = at(what, block_on(batch.next()))?;
                    take_down(what, finished, &mut members, live, events, seen)?;
                }
                Step::Leave { who } => {
                    let who = who % count;
                    let Some(member) = members[who].take() else { continue };
                    live[who].sequence = Some(at(what, block_on(batch.remove(member.key)))?);
                    if !member.tokens.is_empty() {
                        (live[who].loose, *spilled) = (true, true);
                        seen.left_in_flight += 1;
                    }
                }
            }
        }
        if abandon {
            drop(batch);
            for (live, member) in live.iter_mut().zip(members) {
                let Some(member) = member else { continue };
                *live = Live::new(engine)?;
                *spilled = true;
                seen.left_in_flight += u64::from(!member.tokens.is_empty());
            }
            return Ok(());
        }
        while members.iter().flatten().any(|member| !member.tokens.is_empty()) {
            let finished = at(what, block_on(batch.next()))?;
            ensure(!finished.is_empty(), || format!("{what}: the batch came to no end"))?;
            take_down(what, finished, &mut members, live, events, seen)?;
        }
        for (live, member) in live.iter_mut().zip(members) {
            if let Some(Member { key, .. }) = member {
                live.sequence = Some(at(what, block_on(batch.remove(key)))?);
            }
        }
        Ok(())
    }
}

fn take_down(
    what: &str,
    finished: Vec<Finished>,
    members: &mut [Option<Member>],
    live: &mut [Live],
    events: &mut Vec<Event>,
    seen: &mut Seen,
) -> Checked<()> {
    for Finished { key, output } in finished {
        let mut members = members.iter_mut().enumerate().filter_map(|(who, member)| Some((who, member.as_mut()?)));
        let Some((who, member)) = members.find(|(_, member)| member.key == key) else {
            return Err(format!("{what}: no sequence {key} is in the batch"));
        };
        let output = output.map_err(|error| format!("{what}, sequence {who}: {error}"))?;
        let tokens = std::mem::take(&mut member.tokens);
        events.push(live[who].fed(&format!("{what}, sequence {who} in a batch"), &tokens, member.depth, output, seen)?);
    }
    Ok(())
}
