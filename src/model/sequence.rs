//! Sequences: which part of the cache belongs to whom, and how far it is filled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::kernels::fork::fork;
use crate::model::Engine;

/// A sequence of tokens with its cached keys and values. Dropping it frees its place.
#[derive(Debug)]
pub struct Sequence {
    pub(super) slot: usize,
    pub(super) len: usize,
    /// The loop up to which every cached position has keys and values.
    pub(super) filled: usize,
    place: Arc<AtomicBool>,
}

impl Sequence {
    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is cached yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.place.store(false, Ordering::Release);
    }
}

/// The places for sequences, each taken or free.
pub(super) struct Slots(Vec<Arc<AtomicBool>>);

impl Slots {
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| Arc::new(AtomicBool::new(false))).collect())
    }

    /// A free place.
    fn take(&self) -> Result<Sequence> {
        let free = self.0.iter().enumerate().find(|(_, place)| !place.swap(true, Ordering::Acquire));
        match free {
            Some((slot, place)) => Ok(Sequence { slot, len: 0, filled: 0, place: place.clone() }),
            None => Err(Error::Usage {
                reason: format!("all {} sequences of this model are in use: drop one, or load the model with more", self.0.len()),
            }),
        }
    }

    /// Whether a sequence has its place here.
    pub fn holds(&self, sequence: &Sequence) -> bool {
        self.0.get(sequence.slot).is_some_and(|place| Arc::ptr_eq(place, &sequence.place))
    }
}

impl Engine {
    /// An empty sequence. [`Error::Usage`] where all places are taken (see [`Options::sequences`](crate::model::Options)).
    pub fn sequence(&self) -> Result<Sequence> {
        self.sequences.take()
    }

    /// A second sequence that continues from the same tokens. The cache is copied on the device.
    pub async fn fork(&mut self, sequence: &Sequence) -> Result<Sequence> {
        self.check_owner(sequence)?;
        let mut copy = self.sequences.take()?;
        let mut pass = self.backend.pass();
        fork(&mut pass, &self.cache, sequence.slot, copy.slot, sequence.len)?;
        let plan = self.backend.plan(pass)?;
        self.backend.run(&plan).await?;
        (copy.len, copy.filled) = (sequence.len, sequence.filled);
        Ok(copy)
    }

    pub(super) fn check_owner(&self, sequence: &Sequence) -> Result<()> {
        if self.sequences.holds(sequence) {
            return Ok(());
        }
        Err(Error::Usage { reason: "this sequence belongs to another model".into() })
    }
}
