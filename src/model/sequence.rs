//! Sequences: which part of the cache belongs to whom, and how far it is filled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::Span;
use crate::error::{Error, Result};
use crate::kernels::fork::fork;
use crate::kernels::{CacheTensor, States};
use crate::model::Engine;
use crate::model::ledger::Ledger;
use crate::tensor::Segmented;

/// A sequence of tokens with its cached keys and values. Dropping it frees its place.
#[derive(Debug)]
pub struct Sequence {
    pub(super) slot: usize,
    pub(super) len: usize,
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

/// The places for sequences, each taken or free, with the ledger of what the cache holds there.
pub(super) struct Slots {
    places: Vec<Arc<AtomicBool>>,
    ledgers: Vec<Ledger>,
}

impl Slots {
    pub fn new(count: usize) -> Self {
        let places = (0..count).map(|_| Arc::new(AtomicBool::new(false))).collect();
        Self { places, ledgers: vec![Ledger::default(); count] }
    }

    /// A free place. What its ledger says of an earlier sequence goes when the first token is fed.
    fn take(&self) -> Result<Sequence> {
        let free = self.places.iter().enumerate().find(|(_, place)| !place.swap(true, Ordering::Acquire));
        match free {
            Some((slot, place)) => Ok(Sequence { slot, len: 0, place: place.clone() }),
            None => Err(Error::Usage {
                reason: format!("all {} sequences of this model are in use: drop one, or load the model with more", self.places.len()),
            }),
        }
    }

    /// Whether a sequence has its place here.
    pub fn holds(&self, sequence: &Sequence) -> bool {
        self.places.get(sequence.slot).is_some_and(|place| Arc::ptr_eq(place, &sequence.place))
    }

    pub fn ledger(&self, slot: usize) -> &Ledger {
        &self.ledgers[slot]
    }

    pub fn ledger_mut(&mut self, slot: usize) -> &mut Ledger {
        &mut self.ledgers[slot]
    }
}

impl Engine {
    /// An empty sequence. [`Error::Usage`] where all places are taken (see [`Options::sequences`](crate::model::Options)).
    pub fn sequence(&self) -> Result<Sequence> {
        self.sequences.take()
    }

    /// A second sequence that continues from the same tokens. The cache is copied on the device.
    pub async fn fork(&mut self, sequence: &Sequence) -> Result<Sequence> {
        let ledger = self.ledger(sequence).await?;
        let mut copy = self.sequences.take()?;
        let mut pass = self.backend.pass();
        let States { h, e, context } = self.net.recurrent.states;
        let states = |tensor| CacheTensor { rows: Segmented::from(tensor), slots: 1, sequences: self.cache.sequences, context };
        for cache in [&self.cache, &states(h), &states(e)] {
            fork(&mut pass, cache, sequence.slot, copy.slot, sequence.len)?;
        }
        let plan = self.backend.plan(pass)?;
        self.backend.run(&plan).await?;
        *self.sequences.ledger_mut(copy.slot) = ledger;
        copy.len = sequence.len;
        Ok(copy)
    }

    /// Which loop each position of a sequence has reached.
    pub async fn ledger(&mut self, sequence: &Sequence) -> Result<Ledger> {
        self.check_owner(sequence)?;
        self.settle().await?;
        let mut ledger = self.sequences.ledger(sequence.slot).clone();
        ledger.truncate(sequence.len);
        Ok(ledger)
    }

    /// Takes the first `len` positions of a sequence back to before their first loop: whoever runs a loop next takes them along.
    pub(super) async fn rewind(&mut self, slot: usize, len: usize) -> Result<()> {
        let States { h, e, context } = self.net.recurrent.states;
        if len > 0 {
            let begun = self.backend.read(&[Span::rows(&e, slot * context, len)]).await?.swap_remove(0);
            self.backend.write(&h, slot * context * h.stride, &begun)?;
        }
        self.sequences.ledger_mut(slot).truncate(0);
        Ok(())
    }

    pub(super) fn check_owner(&self, sequence: &Sequence) -> Result<()> {
        if self.sequences.holds(sequence) {
            return Ok(());
        }
        Err(Error::Usage { reason: "this sequence belongs to another model".into() })
    }
}
