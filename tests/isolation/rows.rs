//! The kernels that find memory by what a row says, given rows that say what cannot be. All memory but that of the first sequence is
//! poisoned. Whatever the poison is, it stays as it was, and nothing else comes out otherwise: so it was neither written nor read.

use refrain::backend::Backend;
use refrain::error::Result;
use refrain::kernel::Tier;
use refrain::kernels::attention::{Heads, Output, Queries, Spans, attention, span_columns};
use refrain::kernels::begin::begin;
use refrain::kernels::combine::combine;
use refrain::kernels::embed::embed;
use refrain::kernels::experts::{Slots, experts_down, experts_up};
use refrain::kernels::experts_grouped::{Groups, experts_grouped};
use refrain::kernels::fork::fork;
use refrain::kernels::group::{group, most_tiles};
use refrain::kernels::halt::{Mode, start};
use refrain::kernels::inject::{Gating, inject};
use refrain::kernels::recur::recur;
use refrain::kernels::store_kv::store_kv;
use refrain::kernels::store_latent::{Gains, store_latent};
use refrain::kernels::swiglu::swiglu;
use refrain::kernels::{CacheTensor, Slot, States};
use refrain::precision::Precision;
use refrain::tensor::{Segmented, Tensor};

use crate::devices;
use crate::kernels::bench::{Bench, Made};

const SEQUENCES: usize = 3;
const CONTEXT: usize = 20;
/// Of the cache, in parts of 3, 3 and 1.
const SLOTS: usize = 7;
const PLACES: usize = 16;

/// (place, sequence, position, loop): first rows as they should be, then such as there must never be.
const ROWS: [[u32; 4]; 16] = [
    [0, 0, 5, 1],
    [1, 0, 6, 4],
    // Sequences.
    [2, 3, 0, 0],
    [3, 5, 3, 1],
    [4, u32::MAX, 19, 0],
    // Times the words of a sequence, this comes round to the second one.
    [5, 0x4000_0001, 2, 1],
    // Positions: those of the sequences after the first.
    [6, 0, 20, 0],
    [7, 0, 39, 2],
    [8, 0, 59, 1],
    [9, 0, u32::MAX, 0],
    // Places.
    [16, 0, 7, 0],
    [0x4000_0000, 0, 8, 1],
    // Loops whose slots are past the last, or come round.
    [12, 0, 9, 5],
    [13, 0, 10, 9],
    [14, 0, 11, u32::MAX],
    [15, 0, 12, u32::MAX - 1],
];
/// Those of them whose loop there is.
const KNOWN_LOOPS: usize = 12;

/// A number for a word that nobody minds.
fn plain(row: usize, col: usize) -> f32 {
    ((row * 31 + col * 17) % 101) as f32 / 50.0 - 1.0
}

/// Memory of so many rows of which the first sequence owns its own, and the others the poison.
fn memory(b: &mut Bench, what: &str, first: usize, rows: usize, cols: usize, poison: f32) -> Result<Tensor> {
    let own = |row: usize| ((first + row) / CONTEXT).is_multiple_of(SEQUENCES);
    b.f32s(what, rows, cols, |row, col| if own(row) { plain(row, col) } else { poison })
}

fn states(b: &mut Bench, dim: usize, poison: f32) -> Result<States> {
    let rows = SEQUENCES * CONTEXT;
    Ok(States { h: memory(b, "h", 0, rows, dim, poison)?, e: memory(b, "e", 0, rows, dim, poison)?, context: CONTEXT })
}

fn cache(b: &mut Bench, cols: usize, poison: f32) -> Result<CacheTensor> {
    let (slot_rows, rows) = (SEQUENCES * CONTEXT, SLOTS * SEQUENCES * CONTEXT);
    let mut parts = Vec::new();
    for (first, slots) in [(0, 3), (3, 3), (6, 1)] {
        parts.push(memory(b, "cache", first * slot_rows, slots * slot_rows, cols, poison)?);
    }
    let rows = Segmented { parts, part_rows: 3 * slot_rows, rows, cols };
    Ok(CacheTensor { rows, slots: SLOTS, sequences: SEQUENCES, context: CONTEXT })
}

/// Places: those of the rows are theirs, the last and those that no row has are another's.
fn places(b: &mut Bench, what: &str, cols: usize, poison: f32, value: impl Fn(usize, usize) -> f32) -> Result<Tensor> {
    let own = |place: usize| ROWS.iter().any(|row| row[0] as usize == place);
    b.f32s(what, PLACES, cols, |row, col| if own(row) { value(row, col) } else { poison })
}

type Build = dyn Fn(&mut Bench, f32) -> Result<()>;

fn cases() -> Vec<(&'static str, Box<Build>)> {
    let mut cases: Vec<(&'static str, Box<Build>)> = Vec::new();
    const DIM: usize = 13;
    cases.push((
        "begin",
        Box::new(|b, poison| {
            let (list, x) = (b.list(1, &ROWS)?, b.random("x", ROWS.len(), DIM)?);
            let (states, out) = (states(b, DIM, poison)?, places(b, "out", DIM, poison, plain)?);
            begin(&mut b.pass, list, &x, &states, &out)
        }),
    ));
    cases.push((
        "inject",
        Box::new(|b, poison| {
            let (list, states) = (b.list(1, &ROWS[..KNOWN_LOOPS])?, states(b, DIM, poison)?);
            let (table, x, normed) = (b.random("table", 12, DIM)?, b.random("x", 16, DIM)?, b.random("normed", 16, DIM)?);
            let (act, gate) = (b.f32s("act", 3, 8, |_, _| 1.0)?, b.u32s("gate", 1, 256, |_, _| 7)?);
            inject(&mut b.pass, list, &states, &table, Gating { act: &act, gate: &gate, pass_index: 0 }, &x, &normed)
        }),
    ));
    cases.push((
        "recur",
        Box::new(|b, poison| {
            let (list, x, ending) = (b.list(1, &ROWS)?, b.random("x", ROWS.len(), DIM)?, b.ending(DIM, 3)?);
            let (states, out) = (states(b, DIM, poison)?, places(b, "out", DIM, poison, plain)?);
            let act = places(b, "act", 8, poison, |_, col| start(12, 0, Mode::Halt)[col])?;
            recur(&mut b.pass, list, &x, &ending, &states, &out, &act)
        }),
    ));
    for slot in [Slot::Layer(6), Slot::Loops(2), Slot::Loops(0), Slot::Layer(7), Slot::Loops(99)] {
        cases.push((
            "store_kv",
            Box::new(move |b, poison| {
                let (angles, list, x) = (b.angles(CONTEXT, 6)?, b.list(1, &ROWS)?, b.random("x", ROWS.len(), 41)?);
                let cache = cache(b, 24, poison)?;
                store_kv(&mut b.pass, list, &angles, 2, &x, (13, 27), &cache, slot)
            }),
        ));
        cases.push((
            "store_latent",
            Box::new(move |b, poison| {
                let (angles, list, x) = (b.angles(CONTEXT, 4)?, b.list(1, &ROWS)?, b.random("x", ROWS.len(), 27)?);
                let (c_q, cache) = (b.random("c_q", ROWS.len(), 5)?, cache(b, 22, poison)?);
                let (kv, q) = (b.random("gain", 1, 18)?, b.random("q_gain", 1, 5)?);
                store_latent(&mut b.pass, list, &angles, &x, Gains { kv: &kv, q: &q }, &cache, slot, &c_q)
            }),
        ));
        let grouped =
            Heads { heads: 4, group: 2, plain: 0, rope: 6, key_step: 6, value_dim: 6, value_start: 12, value_step: 6, scale: 0.4 };
        let latent =
            Heads { heads: 3, group: 3, plain: 11, rope: 4, key_step: 0, value_dim: 11, value_start: 0, value_step: 0, scale: 0.3 };
        for (heads, cols) in [(grouped, 24), (latent, 15)] {
            for spans in [Spans::ONE, Spans { count: 2, positions: 11 }] {
                cases.push((
                    "attention",
                    Box::new(move |b, poison| {
                        let (list, cache) = (b.list(1, &ROWS)?, cache(b, cols, poison)?);
                        let (n, angles) = (ROWS.len(), b.angles(CONTEXT, heads.rope)?);
                        let q = b.random("q", n, heads.heads * heads.plain + 1)?;
                        let turned = b.random("turned", n, heads.heads * heads.rope)?;
                        let y = b.random("y", n, heads.heads * heads.value_dim)?;
                        let memory = b.random("spans", n, span_columns(heads.heads, heads.value_dim))?;
                        let queries = Queries { plain: &q, turned: &turned, start: 0, angles: &angles };
                        let output = Output { y: &y, head: heads.value_dim, spans: &memory };
                        attention(&mut b.pass, list, heads, queries, &cache, slot, output, spans)
                    }),
                ));
            }
        }
    }
    cases
}

fn run(backend: &mut Backend, tier: Tier, build: &dyn Fn(&mut Bench, f32) -> Result<()>, poison: f32) -> Vec<Made> {
    let mut bench = Bench::new(backend, tier);
    build(&mut bench, poison).and_then(|()| bench.run()).unwrap()
}

/// What depends on the poison, or where the poison has changed.
fn touched(what: &str, clean: &[Made], poisoned: &[Made]) -> Option<String> {
    for (clean, poisoned) in clean.iter().zip(poisoned) {
        for i in 0..clean.after.len() {
            let [before, same_before] = [poisoned, clean].map(|made| made.before[i].to_bits());
            let [after, same_after] = [poisoned, clean].map(|made| made.after[i].to_bits());
            let at = format!("{what}: {}[{}, {}]", clean.what, i / clean.tensor.stride, i % clean.tensor.stride);
            if before == same_before && after != same_after {
                return Some(format!("{at} depends on what is another's"));
            }
            if before != same_before && (after, same_after) != (before, same_before) {
                return Some(format!("{at}, another's, was written"));
            }
        }
    }
    None
}

#[test]
fn rows_that_cannot_be_touch_nobodys_memory() {
    let mut wrong = Vec::new();
    for (name, options) in devices::all() {
        let mut backend = devices::open(&options);
        for (i, (kernel, build)) in cases().iter().enumerate() {
            let tier = backend.tier();
            let clean = run(&mut backend, tier, build, 0.25);
            let poisoned = [f32::NAN, 1e30].map(|poison| run(&mut backend, tier, build, poison));
            wrong.extend(poisoned.iter().filter_map(|poisoned| touched(&format!("{kernel}, case {i}, on {name}"), &clean, poisoned)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a row leaves alone stays to the bit: of `begin`, for instance, the place where a wrong row's state would be.
#[test]
fn such_rows_are_left_alone() {
    for (name, options) in devices::all() {
        let mut backend = devices::open(&options);
        for (kernel, outputs, first) in [("inject", &["x", "normed"][..], 2), ("attention", &["y"][..], 2)] {
            let cases = cases();
            let (_, build) = cases.iter().find(|(name, _)| *name == kernel).unwrap();
            let tier = backend.tier();
            let made = run(&mut backend, tier, build, 0.25);
            for made in made.iter().filter(|made| outputs.contains(&made.what.as_str())) {
                // Sequences that there are not; the first two rows are good ones, and come out.
                for row in first..6 {
                    assert_eq!(made.row(row), made.row_before(row), "{kernel} on {name}: row {row} of {}", made.what);
                }
                assert_ne!(made.row(0), made.row_before(0), "{kernel} on {name}: {}", made.what);
            }
        }
    }
}

#[test]
fn tokens_past_the_vocabulary_are_nobodys() {
    for (name, options) in devices::all() {
        let mut backend = devices::open(&options);
        let tier = backend.tier();
        for precision in Precision::ALL {
            let build = |b: &mut Bench, poison: f32| {
                let table = b.weights(precision, 40, 37, 1)?;
                let list = b.list(1, &[3, 40, 41, u32::MAX, 0x4000_0000, 39].map(|token| [token, 0, 0, 0]))?;
                let y = b.f32s("y", 8, 37, |row, col| if row < 6 { plain(row, col) } else { poison })?;
                embed(&mut b.pass, &table, list, &y)
            };
            let clean = run(&mut backend, tier, &build, 0.25);
            let poisoned = run(&mut backend, tier, &build, f32::NAN);
            assert_eq!(touched(&format!("embed, {precision}, on {name}"), &clean, &poisoned), None);
            let y = clean.iter().find(|made| made.what == "y").unwrap();
            let changed: Vec<bool> = (0..8).map(|row| y.row(row) != y.row_before(row)).collect();
            assert_eq!(changed, [true, false, false, false, false, true, false, false], "embed, {precision}, on {name}");
        }
    }
}

/// Of rows that share a pass, one has experts that there are not. What comes out of it does not depend on the others, nor they on it.
#[test]
fn experts_that_there_are_not_mix_nobody() {
    const ROWS: usize = 5;
    const ODD: usize = 2;
    let (k, routed, shared, dim, hidden) = (2, 4, 1, 13, 9);
    for (name, options) in devices::all() {
        let mut backend = devices::open(&options);
        let tier = backend.tier();
        for ids in [[0, 4], [5, u32::MAX], [0x8000_0000, 0x4000_0001], [6, 3]] {
            for grouped in [false, true] {
                let run = |backend: &mut Backend, odd: f32, others: f32| {
                    run(
                        backend,
                        tier,
                        &|b: &mut Bench, _| {
                            let id = |row: usize, slot: usize| if row == ODD { ids[slot] } else { ((row + slot) % routed) as u32 };
                            let slots = Slots { ids: b.u32s("ids", ROWS, k, id)?, gates: b.random("gates", ROWS, k)?, routed, shared };
                            let (experts, pairs) = (routed + shared, ROWS * (k + shared));
                            let up = b.weights(Precision::F32, experts * 2 * hidden, dim, 2 * hidden)?;
                            let down = b.weights(Precision::F32, experts * dim, hidden, dim)?;
                            let scale = |row: usize| if row == ODD { odd } else { others };
                            let x = b.f32s("x", ROWS, dim, |row, col| scale(row) * plain(row, col))?;
                            let (inner, out) = (b.f32s("inner", pairs, hidden, plain)?, b.f32s("out", ROWS, dim, plain)?);
                            if !grouped {
                                experts_up(&mut b.pass, &up, &slots, &x, &inner, ROWS)?;
                                return experts_down(&mut b.pass, &down, &slots, &inner, &out, ROWS);
                            }
                            let (gate_up, y) = (b.f32s("gate_up", pairs, 2 * hidden, plain)?, b.f32s("y", pairs, dim, plain)?);
                            let tile = b.tile;
                            let tiles = b.u32s("tiles", most_tiles(pairs, experts, tile), 4, |_, _| 9)?;
                            let order = b.u32s("order", 1, pairs, |_, _| 9)?;
                            let groups = Groups { tiles: &tiles, order: &order, tile };
                            group(&mut b.pass, &slots, groups, ROWS)?;
                            experts_grouped(&mut b.pass, &up, &slots, &x, groups, &gate_up, ROWS)?;
                            swiglu(&mut b.pass, &gate_up, &inner, pairs)?;
                            experts_grouped(&mut b.pass, &down, &slots, &inner, groups, &y, ROWS)?;
                            combine(&mut b.pass, &slots, &y, &out, ROWS)
                        },
                        0.0,
                    )
                };
                let [clean, odd, others] = [(1.0, 1.0), (f32::NAN, 1.0), (1.0, f32::NAN)].map(|(a, b)| run(&mut backend, a, b));
                let out = |made: &[Made], row: usize| -> Vec<u32> {
                    let out = made.iter().find(|made| made.what == "out").unwrap();
                    out.row(row).iter().map(|word| word.to_bits()).collect()
                };
                for row in 0..ROWS {
                    let same = if row == ODD { &others } else { &odd };
                    assert_eq!(out(same, row), out(&clean, row), "{name}, ids {ids:?}, grouped: {grouped}, row {row}");
                }
            }
        }
    }
}

#[test]
fn copies_from_and_to_nowhere_are_refused() {
    let mut backend = devices::open(&devices::all().swap_remove(0).1);
    let mut bench = Bench::new(&mut backend, Tier::BASELINE);
    let cache = cache(&mut bench, 24, 0.25).unwrap();
    for (from, to, positions) in [(3, 0, 1), (0, 3, 1), (0, usize::MAX - 1, 1), (0, 1, 21), (0, 1, usize::MAX)] {
        let error = fork(&mut bench.pass, &cache, from, to, positions).unwrap_err();
        assert_eq!(error.code(), "usage", "{from} to {to}, {positions} positions: {error}");
    }
}
