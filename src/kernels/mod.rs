//! The kernels: one file each, with its formula, its declaration, its CPU twin and the one function that records it after
//! checking shapes. Shaders of the same names lie in `shaders/`. What several kernels share has a file of its own: `linear` and
//! `experts` (what to run for how many rows), `halt`, `rope` and `product` (of the twins).
//!
//! All work on a flat list of rows. A row is one token at one loop of one sequence; a [`RowList`] says of each row its source
//! (a token, or a place), sequence, position and loop, and everything that depends on these is a look-up by row.

pub mod attention;
pub mod attention_merge;
pub mod begin;
pub mod combine;
pub mod embed;
pub mod experts;
pub mod experts_down;
pub mod experts_grouped;
pub mod experts_up;
pub mod fma_rate;
pub mod fork;
pub mod group;
pub mod halt;
pub mod inject;
pub mod linear;
pub mod matmul;
pub mod matvec;
pub mod merge;
pub mod noise;
mod product;
pub mod read_rate;
pub mod recur;
pub mod rmsnorm;
mod rope;
pub mod router;
pub mod store_kv;
pub mod store_latent;
pub mod swiglu;
pub mod top;
pub mod transposed;

use crate::error::{Error, Result};
use crate::kernel::{AnyKernel, words};
use crate::tensor::{Segmented, Tensor};

/// Every kernel, for tests that go over all of them.
pub const ALL: [&dyn AnyKernel; 25] = [
    &attention::ATTENTION,
    &attention_merge::ATTENTION_MERGE,
    &begin::BEGIN,
    &combine::COMBINE,
    &embed::EMBED,
    &experts_down::EXPERTS_DOWN,
    &experts_grouped::EXPERTS_GROUPED,
    &experts_up::EXPERTS_UP,
    &fma_rate::FMA_RATE,
    &fork::FORK,
    &group::GROUP,
    &inject::INJECT,
    &matmul::MATMUL,
    &matvec::MATVEC,
    &merge::MERGE,
    &noise::NOISE,
    &read_rate::READ_RATE,
    &recur::RECUR,
    &rmsnorm::RMSNORM,
    &router::ROUTER,
    &store_kv::STORE_KV,
    &store_latent::STORE_LATENT,
    &swiglu::SWIGLU,
    &top::TOP,
    &transposed::TRANSPOSED,
];

/// ε of every RMSNorm in the model family.
pub const EPS: f32 = 1e-6;

/// The most experts that the router's and the grouping kernel's shared memory hold.
pub const MAX_EXPERTS: usize = 1024;

/// A part of a `u32` table whose rows are `(source, sequence, position, loop)`. The source is the row of another table that belongs to
/// the row: a token of the vocabulary, or the place of a token in flight.
#[derive(Clone, Copy, Debug)]
pub struct RowList {
    /// The table, `(any, 4)`.
    pub table: Tensor,
    /// The first row of the list in the table.
    pub first: usize,
    /// Rows of the list.
    pub rows: usize,
}

/// The place of a row that only catches up.
pub const NO_PLACE: u32 = u32::MAX;

/// The state of the loop at every cached position, kept where the position stopped: h after the loops that it has run, and the
/// prelude's output e, which is injected at each.
#[derive(Clone, Copy, Debug)]
pub struct States {
    /// (sequences · context, dim).
    pub h: Tensor,
    /// (sequences · context, dim).
    pub e: Tensor,
    /// Positions of a sequence.
    pub context: usize,
}

impl States {
    /// Sequences that fit.
    fn sequences(&self) -> usize {
        self.h.rows.min(self.e.rows) / self.context.max(1)
    }
}

/// One row of a [`RowList`], as a twin reads it.
#[derive(Clone, Copy, Debug)]
struct RowInfo {
    source: usize,
    sequence: usize,
    position: usize,
    at_loop: usize,
}

impl RowInfo {
    /// Where the row lies among so many sequences of so many positions, if it does: what a row says must not reach another sequence.
    /// The twin of `state_has` and `state_row`, and of `cache_has`.
    fn at(&self, sequences: u32, context: u32) -> Option<usize> {
        let (sequences, context) = (sequences as usize, context as usize);
        (self.sequence < sequences && self.position < context).then(|| self.sequence * context + self.position)
    }
}

/// Row `index` of a table of rows.
fn row_info(table: &[f32], index: u32) -> RowInfo {
    let row = &words(table)[index as usize * 4..][..4];
    RowInfo { source: row[0] as usize, sequence: row[1] as usize, position: row[2] as usize, at_loop: row[3] as usize }
}

/// A cache of keys and values: rows of `(slot, sequence, position)`, cut into parts of whole slots.
#[derive(Clone, Debug)]
pub struct CacheTensor {
    /// The memory.
    pub rows: Segmented,
    /// Slots: one a layer and one a loop.
    pub slots: usize,
    /// Sequences that fit.
    pub sequences: usize,
    /// Positions of a sequence.
    pub context: usize,
}

/// Which slot a dispatch uses: a layer's own, or one for each row's loop.
#[derive(Clone, Copy, Debug)]
pub enum Slot {
    /// The slot of a layer.
    Layer(usize),
    /// The slot of loop 0; loop t uses the t-th after it.
    Loops(usize),
}

/// The parameters that find a row in one part of the cache.
#[derive(Clone, Copy, Debug)]
struct CachePart<'a> {
    tensor: &'a Tensor,
    slot: u32,
    per_loop: u32,
    first_slot: u32,
    slots: u32,
}

impl CacheTensor {
    /// The parts that hold slots of `slot`.
    fn parts(&self, slot: Slot) -> impl Iterator<Item = CachePart<'_>> {
        let slot_rows = self.sequences * self.context;
        let (first, last, per_loop) = match slot {
            Slot::Layer(slot) => (slot, slot, 0),
            Slot::Loops(slot) => (slot, self.slots - 1, 1),
        };
        self.rows.parts().filter_map(move |(row, tensor)| {
            let (first_slot, slots) = (row / slot_rows, tensor.rows / slot_rows);
            let used = first < first_slot + slots && last >= first_slot;
            used.then_some(CachePart { tensor, slot: first as u32, per_loop, first_slot: first_slot as u32, slots: slots as u32 })
        })
    }
}

/// The slot of a part that a row uses, if it lies there. The twin of `cache_slot`.
fn slot_in_part(slot: u32, per_loop: u32, first_slot: u32, slots: u32, at_loop: usize) -> Option<usize> {
    (slot as usize + per_loop as usize * at_loop).checked_sub(first_slot as usize).filter(|slot| *slot < slots as usize)
}

/// An error unless a shape is what a kernel needs.
fn expect(kernel: &str, what: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Usage { reason: format!("kernel {kernel}: {what}: expected {expected}, found {found}") })
}

/// An error unless a tensor has room for what a kernel writes to it or reads from it.
fn expect_room(kernel: &str, what: &str, needed: usize, found: usize) -> Result<()> {
    if needed <= found {
        return Ok(());
    }
    Err(Error::Usage { reason: format!("kernel {kernel}: {what}: expected at least {needed}, found {found}") })
}
