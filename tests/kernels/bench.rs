//! A bench for kernel cases: makes tensors with the same contents on whatever backend it holds, runs one pass, reads all of them.

use std::ops::Range;

use refrain::backend::{Backend, Pass, Span};
use refrain::error::Result;
use refrain::kernel::Tier;
use refrain::kernels::experts::Slots;
use refrain::kernels::halt::Head;
use refrain::kernels::recur::{Ending, recur};
use refrain::kernels::top::{PART, Parts, top};
use refrain::kernels::{CacheTensor, RowList, States};
use refrain::precision::Precision;
use refrain::tensor::{Dtype, Matrix, Segmented, Tensor};

/// The most words of one binding: so few that caches and weights of a few thousand words come in several parts.
pub const MAX_WORDS: usize = 8192;

/// A tensor of a case, with what it held before and, once the bench has run, after.
#[derive(Clone)]
pub struct Made {
    pub what: String,
    pub tensor: Tensor,
    pub before: Vec<f32>,
    pub after: Vec<f32>,
    /// Columns that two backends must agree on.
    pub judged: Range<usize>,
}

impl Made {
    /// Row `row` without its padding, after the pass.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.after[row * self.tensor.stride..][..self.tensor.cols]
    }

    /// Row `row` without its padding, before the pass.
    pub fn row_before(&self, row: usize) -> &[f32] {
        &self.before[row * self.tensor.stride..][..self.tensor.cols]
    }
}

/// One run of one case.
pub struct Bench<'a> {
    backend: &'a mut Backend,
    pub pass: Pass,
    /// The tile of the tier under test, on whatever backend this bench holds.
    pub tile: usize,
    /// The workgroup of the tier under test, likewise.
    pub workgroup: usize,
    made: Vec<Made>,
    state: u64,
}

impl<'a> Bench<'a> {
    pub fn new(backend: &'a mut Backend, tier: Tier) -> Self {
        Self { pass: backend.pass(), backend, tile: tier.area()[1], workgroup: tier.workgroup as usize, made: Vec::new(), state: 1 }
    }

    /// The next pseudo-random number in −1..1 (Knuth's MMIX generator, its upper bits).
    pub fn next(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn make(&mut self, what: &str, dtype: Dtype, rows: usize, cols: usize, mut value: impl FnMut(usize, usize) -> f32) -> Result<Tensor> {
        let tensor = self.backend.tensor(what, dtype, rows, cols)?;
        let data: Vec<f32> = (0..rows * cols).map(|i| value(i / cols, i % cols)).collect();
        self.backend.write_rows(&tensor, 0, cols, &data)?;
        let mut before = vec![0.0; tensor.words()];
        for (to, from) in before.chunks_mut(tensor.stride).zip(data.chunks(cols)) {
            to[..cols].copy_from_slice(from);
        }
        self.keep(what, tensor, before);
        Ok(tensor)
    }

    fn keep(&mut self, what: &str, tensor: Tensor, mut before: Vec<f32>) {
        before.resize(tensor.words(), 0.0);
        self.made.push(Made { what: what.to_string(), tensor, before, after: Vec::new(), judged: 0..tensor.stride });
    }

    /// A tensor of given values.
    pub fn f32s(&mut self, what: &str, rows: usize, cols: usize, value: impl FnMut(usize, usize) -> f32) -> Result<Tensor> {
        self.make(what, Dtype::F32, rows, cols, value)
    }

    /// A tensor of given words.
    pub fn u32s(&mut self, what: &str, rows: usize, cols: usize, value: impl Fn(usize, usize) -> u32) -> Result<Tensor> {
        self.make(what, Dtype::U32, rows, cols, |row, col| f32::from_bits(value(row, col)))
    }

    /// A tensor of random numbers in −1..1.
    pub fn random(&mut self, what: &str, rows: usize, cols: usize) -> Result<Tensor> {
        let data: Vec<f32> = (0..rows * cols).map(|_| self.next()).collect();
        self.make(what, Dtype::F32, rows, cols, |row, col| data[row * cols + col])
    }

    /// A random matrix in parts that start at multiples of `unit` rows. Its numbers grow smaller row by row, down to where the scales of
    /// blocks are subnormal.
    pub fn weights(&mut self, precision: Precision, rows: usize, cols: usize, unit: usize) -> Result<Matrix> {
        let w = self.backend.matrix("w", precision, rows, cols, unit)?;
        let numbers: Vec<f32> = (0..rows * cols).map(|i| self.next() * 0.5f32.powi((i / cols % 16) as i32)).collect();
        let packed = precision.pack(cols, &numbers);
        let data = device_rows(&packed.data, precision.row_bytes(cols), precision.words(cols));
        let scales = device_rows(&packed.scales, 2 * precision.blocks(cols), precision.scale_words(cols));
        self.backend.write_matrix(&w, 0, &data, &scales)?;
        for (first, part) in w.parts() {
            let words = |all: &[f32], words: usize| all[first * words..][..part.data.rows * words].to_vec();
            self.keep("w", part.data, words(&data, precision.words(cols)));
            if precision.is_quantized() {
                self.keep("scales", part.scales, words(&scales, precision.scale_words(cols)));
            }
        }
        Ok(w)
    }

    /// A random array in parts that start at multiples of `unit` rows.
    fn segmented(&mut self, what: &str, rows: usize, cols: usize, unit: usize) -> Result<Segmented> {
        let mut array = self.backend.segmented(what, rows, cols, unit)?;
        for part in &mut array.parts {
            // The bench's own tensor takes the part's place: it is filled and read back like all others.
            *part = self.random(what, part.rows, cols)?;
        }
        Ok(array)
    }

    /// A list of rows (source, sequence, position, loop) that starts at row `first` of its table; the rows before it name nothing.
    pub fn list(&mut self, first: usize, rows: &[[u32; 4]]) -> Result<RowList> {
        let table = self.u32s("list", first + rows.len(), 4, |row, col| row.checked_sub(first).map_or(u32::MAX, |row| rows[row][col]))?;
        Ok(RowList { table, first, rows: rows.len() })
    }

    /// The states of two sequences of 11 positions, random.
    pub fn states(&mut self, dim: usize) -> Result<States> {
        Ok(States { h: self.random("h", 22, dim)?, e: self.random("e", 22, dim)?, context: 11 })
    }

    /// A random table of the end of a loop with 4 scales, and a head of no bias.
    pub fn ending(&mut self, dim: usize, rank: usize) -> Result<Ending> {
        self.ending_with(dim, rank, 0.2)
    }

    /// As [`ending`](Self::ending), with weights of the halting head up to `scale`.
    pub fn ending_with(&mut self, dim: usize, rank: usize, scale: f32) -> Result<Ending> {
        let numbers: Vec<f32> = (0..(3 + 2 * rank) * dim).map(|_| self.next()).collect();
        // Sums over the rank stay near 1, so that rounding is not blown up by the sigmoid.
        let of = |row: usize| [1.0, 1.0, scale].get(row).copied().unwrap_or(1.0 / rank as f32);
        let table = self.f32s("table", 3 + 2 * rank, dim, |row, col| of(row) * numbers[row * dim + col])?;
        Ok(Ending { table, scale: self.random("scale", 4, rank)?, head: Head { bias: 0.0, threshold: 1.0 } })
    }

    /// Records the end of a loop with `places` places, whose rows of act are given.
    pub fn end_of_loop(
        &mut self,
        list: RowList,
        x: &Tensor,
        ending: &Ending,
        places: usize,
        act: impl FnMut(usize, usize) -> f32,
    ) -> Result<()> {
        let (states, out) = (self.states(x.cols)?, self.random("out", places, x.cols)?);
        let act = self.f32s("act", places, 8, act)?;
        recur(&mut self.pass, list, x, ending, &states, &out, &act)
    }

    /// The slots of `rows` rows with these ids and random gates.
    pub fn slots(&mut self, rows: usize, k: usize, routed: usize, shared: usize, id: impl Fn(usize, usize) -> u32) -> Result<Slots> {
        Ok(Slots { ids: self.u32s("ids", rows, k, id)?, gates: self.random("gates", rows, k)?, routed, shared })
    }

    /// A cache of random contents.
    pub fn cache(&mut self, slots: usize, sequences: usize, context: usize, cols: usize) -> Result<CacheTensor> {
        let rows = self.segmented("cache", slots * sequences * context, cols, sequences * context)?;
        Ok(CacheTensor { rows, slots, sequences, context })
    }

    /// The table of rotary angles of heads of `d` columns.
    pub fn angles(&mut self, positions: usize, d: usize) -> Result<Tensor> {
        self.f32s("angles", positions, d, |position, col| {
            let angle = position as f64 * 10_000f64.powf(-((col / 2 * 2) as f64) / d as f64);
            if col % 2 == 0 { angle.cos() as f32 } else { angle.sin() as f32 }
        })
    }

    /// Records the choice of the best with room for the candidates of the parts.
    pub fn top(&mut self, x: &Tensor, n: usize, values: &Tensor, ids: &Tensor, rows: usize) -> Result<()> {
        let parts = rows * x.cols.div_ceil(PART);
        let (part_values, part_ids) = (self.random("part values", parts, 2 + n)?, self.u32s("part ids", parts, n, |_, _| 99)?);
        top(&mut self.pass, x, n, Parts { values: &part_values, ids: &part_ids }, values, ids, rows)
    }

    /// Leaves all but these columns of a tensor out of the comparison.
    pub fn judge(&mut self, tensor: &Tensor, columns: Range<usize>) {
        if let Some(made) = self.made.iter_mut().find(|made| made.tensor == *tensor) {
            made.judged = columns;
        }
    }

    /// Runs the pass and reads every tensor.
    pub fn run(mut self) -> Result<Vec<Made>> {
        let plan = self.backend.plan(self.pass)?;
        pollster::block_on(self.backend.run(&plan))?;
        let spans: Vec<Span> = self.made.iter().map(|made| Span::rows(&made.tensor, 0, made.tensor.rows)).collect();
        let read = pollster::block_on(self.backend.read(&spans))?;
        for (made, after) in self.made.iter_mut().zip(read) {
            made.after = after;
        }
        Ok(self.made)
    }
}

/// Rows of `own` bytes, each padded with zeros to `words` words.
fn device_rows(bytes: &[u8], own: usize, words: usize) -> Vec<f32> {
    let padded = |row: &[u8]| row.iter().copied().chain(std::iter::repeat(0)).take(4 * words).collect::<Vec<u8>>();
    let bytes: Vec<u8> = bytes.chunks(own.max(1)).flat_map(padded).collect();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
