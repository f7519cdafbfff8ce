//! Which loop each cached position has reached.
//!
//! Token i at loop t attends to the tokens before it at loop t, and to itself. So once a token has halted its later loops matter only
//! to a later token that goes deeper, and they wait until one does. Whoever runs loop t takes everybody along who stands there: then
//! of two positions the earlier one has never run less, and the whole ledger is a staircase,
//!
//! ```text
//! loop 3 ■ ■
//! loop 2 ■ ■ ■ ■           done(t) = how many positions, from the first on, have run loop t
//! loop 1 ■ ■ ■ ■ ■ ■                 done(0) ≥ done(1) ≥ done(2) ≥ …
//!        0 1 2 3 4 5  position
//! ```

use std::ops::Range;

use crate::error::{Error, Result};

/// The staircase of one sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Positions that have run loop t, by t; loops past the end have been run by nobody.
    done: Vec<usize>,
}

impl Ledger {
    /// How many positions, from the first on, have run loop `t` (counted from 0).
    pub fn done(&self, t: usize) -> usize {
        self.done.get(t).copied().unwrap_or(0)
    }

    /// Loops that a position has run.
    pub fn reached(&self, position: usize) -> usize {
        self.done.partition_point(|done| *done > position)
    }

    /// Positions that have run at least one loop.
    pub fn positions(&self) -> usize {
        self.done(0)
    }

    /// Loops that the deepest position, which is always the first, has run.
    pub fn deepest(&self) -> usize {
        self.reached(0)
    }

    /// Rows, each a position at a loop, that are missing until every position stands at loop `loops`: what a token that goes so
    /// deep has to take along.
    pub fn debt(&self, loops: usize) -> usize {
        (0..loops).map(|t| self.positions() - self.done(t)).sum()
    }

    /// Marks loop `t` as run by `positions`. They must be the next ones at that loop, so that nobody is computed twice or left out,
    /// and have run the loop before; else [`Error::Usage`], and nothing changes.
    pub fn advance(&mut self, t: usize, positions: Range<usize>) -> Result<()> {
        let ready = if t == 0 { usize::MAX } else { self.done(t - 1) };
        if positions.start != self.done(t) || positions.is_empty() || positions.end > ready {
            let (next, count) = (self.done(t), ready.saturating_sub(self.done(t)));
            let reason = format!("positions {positions:?} cannot run loop {t}: the next is {next}, and {count} are ready");
            return Err(Error::Usage { reason });
        }
        if self.done.len() <= t {
            self.done.resize(t + 1, 0);
        }
        self.done[t] = positions.end;
        Ok(())
    }

    /// Forgets the positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.done.iter_mut().for_each(|done| *done = (*done).min(len));
    }
}
