//! The table of cases: every kernel with odd sizes, one row and many, lists that start late, tensors in several parts, and the
//! edges where a decision turns.

use refrain::error::Result;
use refrain::kernels::attention::{Heads, MAX_KEY, MAX_VALUE, Output, Queries, Spans, attention, span_columns};
use refrain::kernels::begin::begin;
use refrain::kernels::combine::combine;
use refrain::kernels::experts_grouped::Groups;
use refrain::kernels::fma_rate::fma_rate;
use refrain::kernels::fork::fork;
use refrain::kernels::group::{group, most_tiles};
use refrain::kernels::halt::{Head, Mode, start};
use refrain::kernels::inject::{Gating, inject};
use refrain::kernels::read_rate::{Pattern, read_rate};
use refrain::kernels::recur::Ending;
use refrain::kernels::rmsnorm::rmsnorm;
use refrain::kernels::router::{Router, router};
use refrain::kernels::store_kv::store_kv;
use refrain::kernels::store_latent::{Gains, store_latent};
use refrain::kernels::swiglu::swiglu;
use refrain::kernels::top::PART;
use refrain::kernels::{MAX_EXPERTS, NO_PLACE, Slot};

use super::bench::Bench;
use super::weights;

type Build = dyn Fn(&mut Bench) -> Result<()>;

/// A pass that exercises a kernel.
pub struct Case {
    pub kernel: &'static str,
    pub what: String,
    pub build: Box<Build>,
}

/// All cases.
pub fn table() -> Vec<Case> {
    let mut table = Table(Vec::new());
    table.rows();
    weights::add(&mut table);
    table.loops();
    table.cache();
    table.attention();
    table.router();
    table.group();
    table.top();
    table.rates();
    table.0
}

/// Cases that need larger bindings than the table's.
pub fn large() -> Vec<Case> {
    let mut table = Table(Vec::new());
    table.long_and_wide();
    table.0
}

/// What attention is recorded with: a name, heads, columns and (slots, sequences, context) of the cache with the rows that look at it.
type Attended = (&'static str, Heads, usize, Vec<[u32; 4]>, (usize, usize, usize), Slot, Spans);

pub struct Table(Vec<Case>);

/// The expert of the n-th (row, slot) pair.
pub struct Choice(pub fn(usize) -> usize);

/// Which expert pair n is for: spread, some without any pair, all on the last one.
pub const CHOICES: [(&str, Choice); 3] =
    [("spread", Choice(|n| n * 5 % 7)), ("odd ones only", Choice(|n| 1 + 2 * (n % 3))), ("one", Choice(|_| 6))];

impl Table {
    pub fn add(&mut self, kernel: &'static str, what: String, build: impl Fn(&mut Bench) -> Result<()> + 'static) {
        self.0.push(Case { kernel, what, build: Box::new(build) });
    }

    /// Kernels that work on every row alike. Tensors have a row more than is asked for, which must stay as it was.
    fn rows(&mut self) {
        for (rows, dim) in [(1, 1), (1, 3), (5, 64), (3, 65), (2, 130), (70, 7)] {
            let size = format!("{rows} × {dim}");
            self.add("rmsnorm", size.clone(), move |b| {
                let (x, gain) = (b.random("x", rows + 1, dim + 5)?, b.random("gain", 1, dim)?);
                let y = b.random("y", rows + 1, dim + 2)?;
                rmsnorm(&mut b.pass, &x, &gain, &y, rows)
            });
            self.add("swiglu", size.clone(), move |b| {
                // Up to ±100: e^−z overflows and underflows on the way.
                let x = b.random("x", rows + 1, 2 * dim)?;
                let wide = b.f32s("wide", rows + 1, 2 * dim, |row, col| if (row + col) % 2 == 0 { 100.0 } else { -100.0 })?;
                let (y, z) = (b.random("y", rows + 1, dim)?, b.random("z", rows + 1, dim)?);
                swiglu(&mut b.pass, &x, &y, rows)?;
                swiglu(&mut b.pass, &wide, &z, rows)
            });
            for (k, shared) in [(1, 0), (3, 0), (2, 1)] {
                self.add("combine", format!("{size}, {k} slots, {shared} shared"), move |b| {
                    let slots = b.slots(rows + 1, k, 9, shared, |_, _| 99)?;
                    let (y, x) = (b.random("y", (rows + 1) * slots.count(), dim)?, b.random("x", rows + 1, dim)?);
                    combine(&mut b.pass, &slots, &y, &x, rows)
                });
            }
        }
    }

    /// Rows of two sequences at different loops, one of them beyond the trained ones.
    fn loops(&mut self) {
        // Places backwards; positions that differ, in states of 2 · 11 positions.
        let rows = |n: usize| -> Vec<[u32; 4]> { (0..n as u32).map(|row| [n as u32 - row, row % 2, row + 3, (row * 3 + 1) % 7]).collect() };
        for (n, dim) in [(1, 3), (6, 64), (3, 65), (2, 131)] {
            self.add("begin", format!("{n} × {dim}"), move |b| {
                let (list, x) = (b.list(2, &rows(n))?, b.random("x", n + 1, dim)?);
                let (states, out) = (b.states(dim)?, b.random("out", n + 2, dim)?);
                begin(&mut b.pass, list, &x, &states, &out)
            });
            for (what, running) in [("one runs on", 1.0), ("nobody runs on", 0.0)] {
                self.add("inject", format!("{n} × {dim}, {what}"), move |b| {
                    let (list, states) = (b.list(2, &rows(n))?, b.states(dim)?);
                    let (table, x, normed) = (b.random("table", 9, dim)?, b.random("x", n + 1, dim)?, b.random("normed", n + 1, dim)?);
                    // The last of 70 places, so that the threads of a workgroup have to look twice.
                    let act =
                        b.f32s("act", 70, 8, |row, col| if (row, col) == (69, 7) { running } else { (col as f32 - 7.0).abs() * 0.3 })?;
                    let gate = b.u32s("gate", 1, 256, |_, _| 7)?;
                    let gating = Gating { act: &act, gate: &gate, pass_index: 3 };
                    inject(&mut b.pass, list, &states, &table, gating, &x, &normed)
                });
            }
        }
        // A sequence, positions and a place that there are not; the rows between them are right.
        let wrong = [[1, 2, 3, 0], [2, 0, 4, 1], [3, 0, 11, 1], [4, u32::MAX, 0, 1], [5, 1, 5, 2], [9, 1, 6, 1], [0, 1, u32::MAX, 0]];
        self.add("begin", "rows that cannot be".into(), move |b| {
            let (list, x, states) = (b.list(2, &wrong)?, b.random("x", 7, 13)?, b.states(13)?);
            let out = b.random("out", 8, 13)?;
            begin(&mut b.pass, list, &x, &states, &out)
        });
        self.add("inject", "rows that cannot be".into(), move |b| {
            let (list, states, table) = (b.list(2, &wrong)?, b.states(13)?, b.random("table", 9, 13)?);
            let (x, normed, gate) = (b.random("x", 7, 13)?, b.random("normed", 7, 13)?, b.u32s("gate", 1, 256, |_, _| 7)?);
            let act = b.f32s("act", 8, 8, |_, _| 1.0)?;
            inject(&mut b.pass, list, &states, &table, Gating { act: &act, gate: &gate, pass_index: 3 }, &x, &normed)
        });
        self.add("recur", "rows that cannot be".into(), move |b| {
            let (list, x, ending) = (b.list(2, &wrong)?, b.random("x", 7, 13)?, b.ending(13, 3)?);
            b.end_of_loop(list, &x, &ending, 8, |_, col| start(9, 1, Mode::Halt)[col])
        });
        for (n, dim, rank) in [(1, 3, 1), (6, 64, 5), (3, 65, 16), (2, 131, 3), (1, 5, 500)] {
            self.add("recur", format!("{n} × {dim}, rank {rank}"), move |b| {
                let (list, x) = (b.list(1, &rows(n))?, b.random("x", n + 1, dim)?);
                let ending = Ending { head: Head { bias: -0.3, threshold: 0.75 }, ..b.ending(dim, rank)? };
                b.end_of_loop(list, &x, &ending, n + 2, |_, col| start(9, 1, Mode::Halt)[col])
            });
        }
        // With w = 0, p is exactly 1/2: the second row meets the threshold exactly, three have halted before, the last only catches up.
        let cums = [0.0, 0.25, 0.2499, 0.5, 0.7499, 0.75, 0.9, 1.25, 0.1];
        let kinds = [("exact", 1, Mode::Halt), ("min_loops", 3, Mode::Halt), ("fixed", 3, Mode::Fixed), ("full", 1, Mode::Full)];
        for (kind, min_loops, mode) in kinds {
            for (dim, scale) in [(3, 0.0), (3, 1.0), (65, 0.3), (130, 9.0)] {
                self.add("recur", format!("{kind}, {dim} columns, w up to {scale}"), move |b| {
                    let places = [8, 1, 2, 3, 4, 5, 6, 7, NO_PLACE];
                    let rows: Vec<[u32; 4]> =
                        places.iter().zip([0, 1, 2, 3, 4, 0, 3, 2, 1]).zip(0..).map(|((p, t), i)| [*p, i % 2, 2 + i, t]).collect();
                    let (list, x) = (b.list(3, &rows)?, b.random("x", 9, dim)?);
                    let head = Head { bias: if scale == 0.0 { 0.0 } else { -0.3 }, threshold: 0.75 };
                    let ending = Ending { head, ..b.ending_with(dim, 2, scale)? };
                    let start = start(4, min_loops, mode);
                    let act = move |row: usize, col: usize| [cums[row], row as f32, 0.3, 0.2].get(col).copied().unwrap_or(start[col]);
                    b.end_of_loop(list, &x, &ending, 9, act)
                });
            }
        }
    }

    /// Stores and copies in a cache of 7 slots, 3 sequences and 20 positions, which comes in two parts.
    fn cache(&mut self) {
        // The last four lie outside of the cache: sequence, position, slot, and a slot that must not come round to the first.
        let rows = [[0, 0, 0], [2, 19, 3], [1, 5, 4], [0, 7, 1], [1, 0, 1], [3, 0, 0], [0, 20, 0], [0, 8, 9], [0, 9, u32::MAX]];
        let rows = rows.map(|[sequence, position, at_loop]| [9, sequence, position, at_loop]);
        let slots = [("one layer", Slot::Layer(6)), ("a slot a loop", Slot::Loops(2)), ("the first layer", Slot::Layer(0))];
        for (kind, slot) in slots {
            for count in [1, 9] {
                let what = format!("{kind}, {count} rows");
                self.add("store_kv", what.clone(), move |b| {
                    let (angles, list) = (b.angles(20, 6)?, b.list(2, &rows[..count])?);
                    let (x, cache) = (b.random("x", count + 1, 41)?, b.cache(7, 3, 20, 24)?);
                    store_kv(&mut b.pass, list, &angles, 2, &x, (13, 27), &cache, slot)
                });
                self.add("store_latent", what, move |b| {
                    let (angles, list) = (b.angles(20, 4)?, b.list(2, &rows[..count])?);
                    let (x, c_q, cache) = (b.random("x", count + 1, 27)?, b.random("c_q", count + 1, 5)?, b.cache(7, 3, 20, 22)?);
                    let (kv, q) = (b.random("gain", 1, 18)?, b.random("q_gain", 1, 5)?);
                    store_latent(&mut b.pass, list, &angles, &x, Gains { kv: &kv, q: &q }, &cache, slot, &c_q)
                });
            }
        }
        for (from, to, positions) in [(0, 2, 20), (2, 0, 7), (1, 2, 1), (0, 1, 0)] {
            self.add("fork", format!("{positions} positions of {from} to {to}"), move |b| {
                let cache = b.cache(7, 3, 20, 22)?;
                fork(&mut b.pass, &cache, from, to, positions)
            });
        }
    }

    fn attention(&mut self) {
        let grouped =
            Heads { heads: 4, group: 2, plain: 0, rope: 6, key_step: 6, value_dim: 6, value_start: 12, value_step: 6, scale: 0.4 };
        let latent =
            Heads { heads: 3, group: 3, plain: 11, rope: 4, key_step: 0, value_dim: 11, value_start: 0, value_step: 0, scale: 0.3 };
        let widest = Heads { heads: 2, group: 2, plain: MAX_VALUE, rope: MAX_KEY - MAX_VALUE, value_dim: MAX_VALUE, scale: 0.03, ..latent };
        let all = Spans { count: 1, positions: u32::MAX as usize };
        let cut = |count, positions| Spans { count, positions };
        let lengths: Vec<[u32; 4]> = [1, 2, 63, 64, 65, 200].map(|positions| [9, 0, positions - 1, 0]).to_vec();
        // One slot's rows of a cache in two parts: some of these rows find theirs in the first, some in the second, the last in none.
        // And some that there must not be: a sequence, positions beside one that is right, a loop that must not come round.
        let mut spread: Vec<[u32; 4]> = vec![[9, 2, 19, 0], [9, 0, 3, 4], [9, 1, 0, 3], [9, 2, 8, 2], [9, 0, 19, 4], [9, 0, 1, 9]];
        spread.extend([[9, 3, 2, 0], [9, u32::MAX, 2, 1], [9, 1, 4, 2], [9, 1, 20, 2], [9, 1, u32::MAX, 2], [9, 0, 5, u32::MAX]]);
        // Rows that follow each other: of one sequence, of the next one, back again, of another loop.
        let places = [(0, 0); 11].into_iter().chain([(1, 0); 3]).chain([(0, 0); 2]).chain([(0, 1); 7]);
        let mixed: Vec<[u32; 4]> = places.zip(0..).map(|((sequence, at_loop), i)| [9, sequence, 60 + i, at_loop]).collect();
        let wide = vec![[9, 0, 2, 0], [9, 0, 0, 0]];
        // Keys and values start at every word of a vec4; one, five and nine heads a group.
        let odd = |group, heads| Heads {
            heads,
            group,
            plain: 3,
            rope: 2,
            key_step: 5,
            value_dim: 7,
            value_start: 5 * heads / group,
            value_step: 7,
            scale: 0.5,
        };
        let cases = [
            ("grouped", grouped, 24, lengths.clone(), (2, 1, 200), Slot::Layer(1), all),
            ("grouped, 4 spans of 64", grouped, 24, lengths.clone(), (2, 1, 200), Slot::Layer(1), cut(4, 64)),
            ("grouped, several sequences and loops", grouped, 24, spread.clone(), (7, 3, 20), Slot::Loops(2), all),
            ("latent", latent, 15, lengths.clone(), (2, 1, 200), Slot::Layer(0), all),
            ("latent, 16 spans of 13", latent, 15, lengths, (2, 1, 200), Slot::Layer(0), cut(16, 13)),
            ("latent, several sequences and loops", latent, 15, spread, (9, 3, 20), Slot::Loops(4), all),
            ("widest", widest, MAX_KEY, wide, (1, 1, 3), Slot::Layer(0), all),
            ("a head a group, mixed rows", odd(1, 3), 36, mixed.clone(), (3, 2, 84), Slot::Loops(1), all),
            ("a head a group, mixed rows, 4 spans of 23", odd(1, 3), 36, mixed[8..].to_vec(), (3, 2, 84), Slot::Loops(1), cut(4, 23)),
            ("5 heads a group, mixed rows", odd(5, 20), 48, mixed.clone(), (3, 2, 84), Slot::Loops(1), all),
            ("9 heads a group, mixed rows, 2 spans of 70", odd(9, 9), 12, mixed[9..15].to_vec(), (3, 2, 84), Slot::Loops(1), cut(2, 70)),
            ("8 heads a group, mixed rows", odd(8, 16), 24, mixed, (3, 2, 84), Slot::Loops(1), all),
        ];
        cases.into_iter().for_each(|case| self.attend(case));
    }

    /// Keys that the shader's shared memory does not hold as a whole, over more positions than a block has.
    fn long_and_wide(&mut self) {
        let heads =
            Heads { heads: 3, group: 3, plain: 321, rope: 4, key_step: 0, value_dim: 321, value_start: 0, value_step: 0, scale: 0.1 };
        let rows = vec![[9, 0, 64, 0], [9, 0, 129, 0], [9, 0, 3, 0]];
        self.attend(("longer and wider than a part", heads, 325, rows, (1, 1, 130), Slot::Layer(0), Spans::ONE));
    }

    fn attend(&mut self, (what, heads, cols, rows, (slots, sequences, context), slot, spans): Attended) {
        for sharp in [1.0, 40.0] {
            let rows = rows.clone();
            let heads = Heads { scale: heads.scale * sharp, ..heads };
            let kernel = if spans.count > 1 { "attention_merge" } else { "attention" };
            self.add(kernel, format!("{what}, scale {}", heads.scale), move |b| {
                let list = b.list(3, &rows)?;
                let cache = b.cache(slots, sequences, context, cols)?;
                let (n, angles) = (rows.len() + 1, b.angles(context, heads.rope)?);
                let (plain, turned) =
                    (b.random("q", n, heads.heads * heads.plain + 1)?, b.random("turned", n, 3 + heads.heads * heads.rope)?);
                let head = heads.value_dim + 1;
                let y = b.random("y", n, heads.heads * head)?;
                let memory = b.random("spans", n, if spans.count > 1 { span_columns(heads.heads, heads.value_dim) } else { 1 })?;
                let queries = Queries { plain: &plain, turned: &turned, start: 3, angles: &angles };
                let output = Output { y: &y, head, spans: &memory };
                attention(&mut b.pass, list, heads, queries, &cache, slot, output, spans)
            });
        }
    }

    fn router(&mut self) {
        // Not MAX_EXPERTS: lavapipe ends every loop once a shader's loops have made 65,535 rounds in all, here experts² / 16.
        for (rows, dim, experts, k) in [(1, 3, 1, 1), (5, 64, 7, 3), (3, 65, 65, 8), (70, 7, 9, 9), (1, 2, 1000, 64)] {
            for biased in [0.0, 20.0] {
                self.add("router", format!("{k} of {experts}, {rows} × {dim}, bias up to {biased}"), move |b| {
                    let (u, x, w) = (b.random("u", rows + 1, dim)?, b.random("x", rows + 1, dim)?, b.random("w", experts, dim)?);
                    let bias: Vec<f32> = (0..experts).map(|_| biased * b.next()).collect();
                    let bias = b.f32s("bias", 1, experts, |_, expert| bias[expert])?;
                    let (ids, gates) = (b.u32s("ids", rows + 1, k, |_, _| 99)?, b.random("gates", rows + 1, k)?);
                    let weights = Router { gain: b.random("gain", 1, dim)?, w, bias };
                    router(&mut b.pass, &u, &weights, &x, &ids, &gates, rows)
                });
            }
        }
        self.add("router", "ties: the lowest indices first".into(), |b| {
            let (u, x) = (b.random("u", 3, 5)?, b.random("x", 3, 5)?);
            // Rows of w repeat every 4 experts, so that exactly equal logits lie apart.
            let values: Vec<f32> = (0..20).map(|_| b.next()).collect();
            let w = b.f32s("w", 30, 5, |expert, col| values[expert % 4 * 5 + col])?;
            let bias = b.f32s("bias", 1, 30, |_, _| 0.0)?;
            let (ids, gates) = (b.u32s("ids", 3, 11, |_, _| 99)?, b.random("gates", 3, 11)?);
            let weights = Router { gain: b.random("gain", 1, 5)?, w, bias };
            router(&mut b.pass, &u, &weights, &x, &ids, &gates, 3)
        });
    }

    fn group(&mut self) {
        for (choice, Choice(expert)) in CHOICES {
            for (rows, k) in [(1, 1), (3, 2), (37, 3)] {
                for (routed, shared) in [(7, 0), (7, 2), (70, 0), (MAX_EXPERTS - 3, 3)] {
                    self.add("group", format!("{rows} rows of {k} slots, {choice}, {routed} + {shared} experts"), move |b| {
                        let slots = b.slots(rows + 1, k, routed, shared, |row, slot| (expert(row * k + slot) + routed - 7) as u32)?;
                        let (pairs, tile) = (rows * slots.count(), b.tile);
                        let tiles = b.u32s("tiles", most_tiles(pairs, slots.experts(), tile) + 1, 4, |_, _| 99)?;
                        let order = b.u32s("order", 1, pairs + 3, |_, _| 99)?;
                        group(&mut b.pass, &slots, Groups { tiles: &tiles, order: &order, tile }, rows)
                    });
                }
            }
        }
    }

    /// The kernels that measure a device. Outputs beyond the last thread must stay as they were.
    fn rates(&mut self) {
        for pattern in Pattern::ALL {
            for (groups, rounds) in [(1, 1), (3, 1), (2, 3)] {
                self.add("read_rate", format!("{}, {groups} groups, {rounds} rounds", pattern.name()), move |b| {
                    // The workgroup of the tier under test, on whatever backend: small enough for a binding.
                    let group = b.workgroup;
                    let (x, y) = (b.random("x", 1, 16 * groups * rounds * group)?, b.random("y", 1, groups * group + 3)?);
                    read_rate(&mut b.pass, &x, pattern, group, rounds, &y)
                });
            }
        }
        for (threads, rounds) in [(1, 1), (3, 0), (70, 2), (300, 1)] {
            for fused in [false, true] {
                self.add("fma_rate", format!("{threads} threads, {rounds} rounds, fused: {fused}"), move |b| {
                    let y = b.random("y", 1, threads + 5)?;
                    fma_rate(&mut b.pass, threads, rounds, fused, &y)
                });
            }
        }
    }

    fn top(&mut self) {
        for (rows, vocab, n) in [(1, 1, 1), (3, 7, 3), (2, 64, 64), (5, 65, 1), (2, 1001, 64), (1, 8000, 5), (3, 2100, 64), (2, 4096, 1)] {
            // Steps of 1/4 tie many logits; the other logits lie far apart in size.
            for ties in [false, true] {
                // Several parts are merged.
                let kernel = if vocab > PART { "merge" } else { "top" };
                self.add(kernel, format!("{n} of {rows} × {vocab}{}", if ties { ", ties" } else { "" }), move |b| {
                    let logits: Vec<f32> = (0..rows * vocab).map(|_| b.next()).collect();
                    let logit = |logit: f32| if ties { (logit * 4.0).round() / 4.0 } else { 30.0 * logit };
                    let x = b.f32s("x", rows, vocab, |row, col| logit(logits[row * vocab + col]))?;
                    let (values, ids) = (b.random("values", rows + 1, n + 2)?, b.u32s("ids", rows + 1, n, |_, _| 99)?);
                    b.top(&x, n, &values, &ids, rows)
                });
            }
        }
        self.add("top", "the lowest finite logits".into(), |b| {
            let x = b.f32s("x", 1, 70, |_, col| if col == 66 { -3.4e38 } else { f32::MIN })?;
            let (values, ids) = (b.random("values", 1, 5)?, b.u32s("ids", 1, 3, |_, _| 99)?);
            b.judge(&values, 1..5);
            b.top(&x, 3, &values, &ids, 1)
        });
        self.add("top", "NaN and infinity are flagged".into(), |b| {
            let odd = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
            let values: Vec<f32> = (0..5 * 70).map(|_| b.next()).collect();
            let x = b.f32s("x", 5, 70, |row, col| if col == 64 + row { odd[row] } else { values[row * 70 + col] })?;
            let (values, ids) = (b.random("values", 5, 3)?, b.u32s("ids", 5, 1, |_, _| 99)?);
            b.judge(&values, 1..2);
            b.judge(&ids, 0..0);
            b.top(&x, 1, &values, &ids, 5)
        });
    }
}
