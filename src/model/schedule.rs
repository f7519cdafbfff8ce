//! Which rows make up the next pass: rows of several sequences, each sequence at a loop of its own. Numbers in, rows out; no device.

use std::cmp::Reverse;
use std::ops::Range;

use crate::error::Result;
use crate::model::ledger::Ledger;

/// Who runs the loops that a token has no need of any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Nobody, until a later token gets there.
    #[default]
    Lazy,
    /// Every token runs every loop at once, as in the PyTorch package. The logits are the same.
    Full,
}

/// The tokens of one sequence that are in flight, with the ledger as it will be after all passes that were handed over.
#[derive(Clone, Debug)]
pub(super) struct Lead {
    /// Where the sequence lies in the cache.
    pub slot: usize,
    /// The position of the first token in flight: those before it only catch up.
    pub first: usize,
    /// One past the last position that runs on.
    pub end: usize,
    /// Loops that the tokens may run.
    pub cap: usize,
    pub ledger: Ledger,
    /// Passes since it last got a row.
    pub waited: usize,
}

/// Rows of one sequence in a pass: these positions run loop `at_loop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub slot: usize,
    pub at_loop: usize,
    pub positions: Range<usize>,
    /// How many of the positions only catch up: the first ones.
    pub old: usize,
}

/// How much goes into one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Rows.
    pub rows: usize,
    /// Rows that catch up because a token needs them.
    pub catch_up: usize,
    /// Rows that catch up before anybody needs them, where there is room.
    pub eager: usize,
}

impl Lead {
    /// The loop that the last running token comes to next.
    pub fn next_loop(&self) -> usize {
        self.ledger.reached(self.end - 1)
    }

    /// Whether nobody of it runs on after what was handed over: all have stopped, or will have come to their cap.
    pub fn ends(&self) -> bool {
        self.end <= self.first || self.next_loop() >= self.cap
    }

    /// What has to run at its next loop: everybody there up to the last running token.
    fn next(&self) -> Run {
        let at_loop = self.next_loop();
        let positions = self.ledger.done(at_loop)..self.end;
        let old = self.first.saturating_sub(positions.start);
        Run { slot: self.slot, at_loop, positions, old }
    }
}

/// The next pass, entered into the leads' ledgers. Empty once nobody runs on.
///
/// Sequences with few rows come first, so that a long prompt does not hold up the others; but whoever has waited longest
/// comes before them, so that nobody waits for ever. A sequence gets its rows in the order of
/// their positions: if they do not all fit, the first ones go ahead and the rest follow in later passes, the running tokens last.
pub(super) fn compose(leads: &mut [&mut Lead], limits: Limits) -> Result<Vec<Run>> {
    let (mut room, mut catch_up, mut eager) = (limits.rows, limits.catch_up, limits.eager);
    let mut next: Vec<(usize, Run)> = leads.iter().enumerate().filter(|(_, lead)| !lead.ends()).map(|(i, lead)| (i, lead.next())).collect();
    next.sort_by_key(|(i, run)| (Reverse(leads[*i].waited), run.positions.len(), *i));
    let mut runs = Vec::new();
    for (i, run) in next {
        let old = run.old.min(catch_up).min(room);
        // The running tokens go once everybody before them is there.
        let count = if old < run.old { old } else { run.positions.len().min(room) };
        leads[i].waited = if count == 0 { leads[i].waited + 1 } else { 0 };
        if count == 0 {
            continue;
        }
        let before = (eager > 0).then(|| leads[i].ledger.clone());
        let run = Run { positions: run.positions.start..run.positions.start + count, old, ..run };
        leads[i].ledger.advance(run.at_loop, run.positions.clone())?;
        (room, catch_up) = (room - count, catch_up - old);
        let at_loop = run.at_loop;
        runs.push(run);
        if let Some(before) = before {
            let extra = behind(leads[i], &before, at_loop + 1, eager.min(room))?;
            let count = extra.iter().map(|run| run.positions.len()).sum::<usize>();
            (room, eager) = (room - count, eager - count);
            runs.extend(extra);
        }
    }
    Ok(runs)
}

/// Up to `most` rows that stand behind the deepest loop of a sequence, from loop `first` on: each position at the loop where it stood
/// `before` this pass.
pub(super) fn behind(lead: &mut Lead, before: &Ledger, first: usize, most: usize) -> Result<Vec<Run>> {
    let (mut left, mut runs) = (most, Vec::new());
    for at_loop in first.max(1)..before.deepest() {
        let start = before.done(at_loop);
        // Tokens in flight run for themselves: they have a place, and a cap.
        let count = left.min(before.done(at_loop - 1).min(lead.first).saturating_sub(start));
        if count > 0 {
            lead.ledger.advance(at_loop, start..start + count)?;
            runs.push(Run { slot: lead.slot, at_loop, positions: start..start + count, old: count });
            left -= count;
        }
    }
    Ok(runs)
}
