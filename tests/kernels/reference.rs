//! Every twin for which a formula is easily written against that formula in f64, plain loops over whole rows.

use refrain::backend::Backend;
use refrain::kernel::Tier;
use refrain::kernels::attention::{Heads, Output, Queries, Spans, attention, span_columns};
use refrain::kernels::combine::combine;
use refrain::kernels::experts::{experts_down, experts_up};
use refrain::kernels::experts_grouped::{Groups, experts_grouped};
use refrain::kernels::group::{group, most_tiles};
use refrain::kernels::halt::{Head, Mode, start};
use refrain::kernels::inject::{Gating, inject};
use refrain::kernels::linear::{Columns, Into, PerHead, linear};
use refrain::kernels::recur::{Ending, recur};
use refrain::kernels::rmsnorm::rmsnorm;
use refrain::kernels::router::{Router, router};
use refrain::kernels::store_latent::{Gains, store_latent};
use refrain::kernels::swiglu::swiglu;
use refrain::kernels::transposed::transposed;
use refrain::kernels::{EPS, NO_PLACE, Slot};
use refrain::precision::Precision;
use refrain::tensor::Tensor;

use super::bench::{Bench, Made};
use super::cpu;

/// How far a twin may be from the formula, relative to the largest value of the formula.
const TOLERANCE: f64 = 1e-5;

/// Builds a pass on the CPU backend and runs it; `build` gives back the tensors that the test looks at.
fn run<const N: usize>(build: impl Fn(&mut Bench) -> refrain::error::Result<[Tensor; N]>) -> [Made; N] {
    let mut backend: Backend = cpu();
    let mut bench = Bench::new(&mut backend, Tier::BASELINE);
    let wanted = build(&mut bench).expect("the pass can be recorded");
    let made = bench.run().expect("the pass runs");
    wanted.map(|tensor| made.iter().find(|made| made.tensor == tensor).expect("a tensor of the bench").clone())
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|x| f64::from(*x)).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[track_caller]
fn near(found: &[f32], formula: &[f64]) {
    assert_eq!(found.len(), formula.len());
    let scale = formula.iter().fold(f64::MIN_POSITIVE, |max, x| max.max(x.abs()));
    for (i, (found, formula)) in found.iter().zip(formula).enumerate() {
        let error = (f64::from(*found) - formula).abs() / scale;
        assert!(error <= TOLERANCE, "element {i}: the twin has {found}, the formula {formula}, relative error {error:e}");
    }
}

/// x · gain / sqrt(mean(x²) + ε).
fn normed_by(x: &[f64], gain: &[f32]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(gain).map(|(x, gain)| x * f64::from(*gain) / (mean + f64::from(EPS)).sqrt()).collect()
}

/// The pairs (x₂ᵢ, x₂ᵢ₊₁) as complex numbers, times e^(i · position · 10000^(−2i/d)).
fn turned(x: &[f32], position: usize) -> Vec<f64> {
    let d = x.len() as f64;
    let pairs = x.chunks_exact(2).enumerate().flat_map(|(i, pair)| {
        let (sin, cos) = (position as f64 * 10_000f64.powf(-2.0 * i as f64 / d)).sin_cos();
        let (re, im) = (f64::from(pair[0]), f64::from(pair[1]));
        [re * cos - im * sin, re * sin + im * cos]
    });
    pairs.collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|x| (x - largest).exp()).sum();
    logits.iter().map(|x| (x - largest).exp() / total).collect()
}

/// Row `row` of a matrix on the device, worked out from its words by the formulas of `refrain::precision`.
fn weights_row(precision: Precision, cols: usize, data: &[f32], scales: &[f32], row: usize) -> Vec<f64> {
    let bytes = |words: &[f32]| words.iter().flat_map(|word| word.to_bits().to_le_bytes()).collect::<Vec<u8>>();
    let half = |bytes: &[u8], i: usize| f64::from(half::f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]));
    let words = precision.words(cols);
    let (data, scales) = (bytes(&data[row * words..][..words]), bytes(scales));
    let scale = |col: usize| half(&scales, row * precision.stride(cols) / 32 + col / 32);
    (0..cols)
        .map(|col| match precision {
            Precision::F32 => f64::from(f32::from_le_bytes([data[4 * col], data[4 * col + 1], data[4 * col + 2], data[4 * col + 3]])),
            Precision::F16 => half(&data, col),
            Precision::Q8 => scale(col) * f64::from(data[col] as i8),
            Precision::Q4 => {
                let byte = data[col / 8 * 4 + col % 4];
                scale(col) * (f64::from(if col % 8 < 4 { byte & 15 } else { byte >> 4 }) - 8.0)
            }
        })
        .collect()
}

fn wide_dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

#[test]
fn linear_is_a_product_of_matrices() {
    for precision in Precision::ALL {
        for (rows, into) in [(2, Into::Set), (2, Into::Add), (9, Into::Set), (9, Into::Add)] {
            let (cols, outs, between) = (70, 5, 2);
            let [data, scales, x, y] = run(|b| {
                let w = b.weights(precision, 3 * (outs + between), cols, outs + between)?;
                let (x, y) = (b.random("x", rows, 3 * 76)?, b.random("y", rows, 3 * 6)?);
                let (from, to) = (Columns { tensor: &x, step: 76 }, Columns { tensor: &y, step: 6 });
                let heads = PerHead { w: &w, batch: 3, start: between, step: outs + between, outs };
                linear(&mut b.pass, heads, from, to, rows, into)?;
                let part = w.parts[0];
                Ok([part.data, if precision.is_quantized() { part.scales } else { part.data }, x, y])
            });
            for row in 0..rows {
                let mut formula = wide(y.row_before(row));
                for (head, out) in (0..3).flat_map(|head| (0..outs).map(move |out| (head, out))) {
                    let w = weights_row(precision, cols, &data.after, &scales.after, head * (outs + between) + between + out);
                    let product = wide_dot(&w, &x.row(row)[76 * head..]);
                    let y = &mut formula[6 * head + out];
                    *y = if into == Into::Add { *y + product } else { product };
                }
                near(y.row(row), &formula);
            }
        }
    }
}

#[test]
fn transposed_is_a_product_with_the_transpose() {
    for precision in Precision::ALL {
        let (cols, ins) = (70, 5);
        let [data, scales, x, y] = run(|b| {
            let w = b.weights(precision, 2 * ins, cols, ins)?;
            let (x, y) = (b.random("x", 3, 2 * ins)?, b.random("y", 3, 2 * cols)?);
            let (from, to) = (Columns { tensor: &x, step: ins }, Columns { tensor: &y, step: cols });
            transposed(&mut b.pass, PerHead { w: &w, batch: 2, start: 0, step: ins, outs: ins }, from, to, 3)?;
            let part = w.parts[0];
            Ok([part.data, if precision.is_quantized() { part.scales } else { part.data }, x, y])
        });
        for row in 0..3 {
            let mut formula = vec![0.0; 2 * cols];
            for (head, i) in (0..2).flat_map(|head| (0..ins).map(move |i| (head, i))) {
                let w = weights_row(precision, cols, &data.after, &scales.after, head * ins + i);
                for (y, w) in formula[head * cols..].iter_mut().zip(w) {
                    *y += w * f64::from(x.row(row)[head * ins + i]);
                }
            }
            near(y.row(row), &formula);
        }
    }
}

#[test]
fn rmsnorm_divides_by_the_root_of_the_mean_square() {
    let [x, gain, y] = run(|b| {
        let (x, gain, y) = (b.random("x", 3, 65)?, b.random("gain", 1, 65)?, b.random("y", 3, 65)?);
        rmsnorm(&mut b.pass, &x, &gain, &y, 3)?;
        Ok([x, gain, y])
    });
    for row in 0..3 {
        near(y.row(row), &normed_by(&wide(x.row(row)), gain.row(0)));
    }
}

#[test]
fn inject_norms_the_sum_of_state_input_and_loop_and_norms_it_again() {
    let [h, e, table, x, normed] = run(|b| {
        let list = b.list(1, &[[9, 0, 5, 3], [9, 1, 2, 0]])?;
        let (states, table) = (b.states(13)?, b.random("table", 2 + 4, 13)?);
        let (x, normed) = (b.random("x", 2, 13)?, b.random("normed", 2, 13)?);
        let (act, gate) = (b.f32s("act", 1, 8, |_, _| 1.0)?, b.u32s("gate", 1, 256, |_, _| 0)?);
        inject(&mut b.pass, list, &states, &table, Gating { act: &act, gate: &gate, pass_index: 0 }, &x, &normed)?;
        Ok([states.h, states.e, table, x, normed])
    });
    for (row, state, at_loop) in [(0, 5, 3), (1, 11 + 2, 0)] {
        let sum: Vec<f64> =
            (0..13).map(|i| [h.row(state)[i], e.row(state)[i], table.row(2 + at_loop)[i]].map(f64::from).iter().sum()).collect();
        let formula = normed_by(&sum, table.row(0));
        near(x.row(row), &formula);
        near(normed.row(row), &normed_by(&formula, table.row(1)));
    }
}

#[test]
fn store_latent_norms_both_latents_and_turns_the_key() {
    let [x, gain, q_gain, cache, c_q] = run(|b| {
        let (angles, list) = (b.angles(9, 4)?, b.list(0, &[[9, 1, 7, 2]])?);
        let (x, c_q, cache) = (b.random("x", 1, 6 + 15)?, b.random("c_q", 1, 6)?, b.cache(4, 2, 9, 15)?);
        let (kv, q) = (b.random("gain", 1, 11)?, b.random("q_gain", 1, 6)?);
        store_latent(&mut b.pass, list, &angles, &x, Gains { kv: &kv, q: &q }, &cache, Slot::Loops(1), &c_q)?;
        Ok([x, kv, q, cache.rows.parts[0], c_q])
    });
    let (q, rest) = x.row(0).split_at(6);
    let (latent, key) = rest.split_at(11);
    near(c_q.row(0), &normed_by(&wide(q), q_gain.row(0)));
    let mut formula = normed_by(&wide(latent), gain.row(0));
    formula.extend(turned(key, 7));
    near(cache.row((3 * 2 + 1) * 9 + 7), &formula); // slot 1 + loop 2, sequence 1, position 7
}

#[test]
fn attention_is_a_softmax_over_earlier_positions() {
    let grouped = Heads { heads: 4, group: 2, plain: 0, rope: 6, key_step: 6, value_dim: 5, value_start: 12, value_step: 5, scale: 0.4 };
    let latent = Heads { heads: 3, group: 3, plain: 16, rope: 4, key_step: 0, value_dim: 16, value_start: 0, value_step: 0, scale: 0.3 };
    let spans = [Spans::ONE, Spans { count: 5, positions: 16 }];
    let cases = [grouped, latent, Heads { scale: 30.0, ..grouped }].into_iter().flat_map(|heads| spans.map(|spans| (heads, spans)));
    for (heads, spans) in cases {
        let positions = [1, 2, 70];
        let [q, to_turn, cache, y] = run(|b| {
            let list = b.list(1, &positions.map(|positions| [9, 1, positions - 1, 0]))?;
            let (q, turned) = (b.random("q", 3, (heads.heads * heads.plain).max(1))?, b.random("turned", 3, 2 + heads.heads * heads.rope)?);
            let (cache, angles) = (b.cache(1, 2, 70, 22)?, b.angles(70, heads.rope)?);
            let (y, memory) =
                (b.random("y", 3, heads.heads * heads.value_dim)?, b.random("spans", 3, span_columns(heads.heads, heads.value_dim))?);
            let queries = Queries { plain: &q, turned: &turned, start: 2, angles: &angles };
            let output = Output { y: &y, head: heads.value_dim, spans: &memory };
            attention(&mut b.pass, list, heads, queries, &cache, Slot::Layer(0), output, spans)?;
            Ok([q, turned, cache.rows.parts[0], y])
        });
        for (row, positions) in positions.into_iter().enumerate() {
            let formula = (0..heads.heads).flat_map(|head| {
                let shared = head / heads.group;
                let cached = |j: u32| cache.row(70 + j as usize); // sequence 1
                let mut query = wide(&q.row(row)[head * heads.plain..][..heads.plain]);
                query.extend(turned(&to_turn.row(row)[2 + head * heads.rope..][..heads.rope], positions as usize - 1));
                let score = |j| f64::from(heads.scale) * wide_dot(&query, &cached(j)[shared * heads.key_step..][..heads.key_dim()]);
                let weights = softmax(&(0..positions).map(score).collect::<Vec<_>>());
                let value = heads.value_start + shared * heads.value_step;
                let sum = move |i: usize| (0..positions).zip(&weights).map(|(j, w)| w * f64::from(cached(j)[value + i])).sum::<f64>();
                (0..heads.value_dim).map(sum).collect::<Vec<_>>()
            });
            near(y.row(row), &formula.collect::<Vec<_>>());
        }
    }
}

/// Two chosen experts and one that always fires, few rows at a time and grouped.
#[test]
fn experts_are_weighed_swiglus() {
    let (rows, k, routed, shared, dim, hidden) = (5, 2, 4, 1, 13, 8);
    let chosen = |row: usize, slot: usize| (row + slot * 2) % 4;
    let silu = |z: f64| z / (1.0 + (-z).exp());
    for grouped in [false, true] {
        let [x, up, down, gates, inner, out] = run(|b| {
            let slots = b.slots(rows, k, routed, shared, |row, slot| chosen(row, slot) as u32)?;
            let (up, down) =
                (b.weights(Precision::F32, 5 * 2 * hidden, dim, 2 * hidden)?, b.weights(Precision::F32, 5 * dim, hidden, dim)?);
            let (x, out) = (b.random("x", rows, dim)?, b.random("out", rows, dim)?);
            let inner = b.random("inner", rows * slots.count(), hidden)?;
            if grouped {
                let pairs = rows * slots.count();
                let (gate_up, y) = (b.random("gate_up", pairs, 2 * hidden)?, b.random("y", pairs, dim)?);
                let (tiles, order) = (b.u32s("tiles", most_tiles(pairs, 5, 4), 4, |_, _| 9)?, b.u32s("order", 1, pairs, |_, _| 9)?);
                let groups = Groups { tiles: &tiles, order: &order, tile: 4 };
                group(&mut b.pass, &slots, groups, rows)?;
                experts_grouped(&mut b.pass, &up, &slots, &x, groups, &gate_up, rows)?;
                swiglu(&mut b.pass, &gate_up, &inner, pairs)?;
                experts_grouped(&mut b.pass, &down, &slots, &inner, groups, &y, rows)?;
                combine(&mut b.pass, &slots, &y, &out, rows)?;
            } else {
                experts_up(&mut b.pass, &up, &slots, &x, &inner, rows)?;
                experts_down(&mut b.pass, &down, &slots, &inner, &out, rows)?;
            }
            Ok([x, up.parts[0].data, down.parts[0].data, slots.gates, inner, out])
        });
        for row in 0..rows {
            let mut formula = wide(out.row_before(row));
            for slot in 0..k + shared {
                let (expert, gate) = if slot < k { (chosen(row, slot), f64::from(gates.row(row)[slot])) } else { (routed, 1.0) };
                let half = |at: usize| dot(&up.row(expert * 2 * hidden + at)[..dim], x.row(row));
                let swiglu: Vec<f64> = (0..hidden).map(|i| silu(half(i)) * half(hidden + i)).collect();
                near(inner.row(row * (k + shared) + slot), &swiglu);
                for (i, out) in formula.iter_mut().enumerate() {
                    *out += gate * wide_dot(&swiglu, &down.row(expert * dim + i)[..hidden]);
                }
            }
            near(out.row(row), &formula);
        }
    }
}

#[test]
fn swiglu_gates_by_silu() {
    let [x, y] = run(|b| {
        let values: Vec<f32> = (0..2 * 3 * 37).map(|_| 20.0 * b.next()).collect();
        let (x, y) = (b.f32s("x", 3, 74, |row, col| values[row * 74 + col])?, b.random("y", 3, 37)?);
        swiglu(&mut b.pass, &x, &y, 3)?;
        Ok([x, y])
    });
    for row in 0..3 {
        let (gate, up) = x.row(row).split_at(37);
        let silu = |z: f64| z / (1.0 + (-z).exp());
        near(y.row(row), &gate.iter().zip(up).map(|(gate, up)| silu(f64::from(*gate)) * f64::from(*up)).collect::<Vec<_>>());
    }
}

#[test]
fn the_router_takes_the_largest_biased_logits_and_weighs_without_bias() {
    let [u, gain, x, w, bias, ids, gates] = run(|b| {
        let weights = Router { gain: b.random("gain", 1, 13)?, w: b.random("w", 9, 13)?, bias: b.random("bias", 1, 9)? };
        let (u, x) = (b.random("u", 4, 13)?, b.random("x", 4, 13)?);
        let (ids, gates) = (b.u32s("ids", 4, 3, |_, _| 99)?, b.random("gates", 4, 3)?);
        router(&mut b.pass, &u, &weights, &x, &ids, &gates, 4)?;
        Ok([u, weights.gain, x, weights.w, weights.bias, ids, gates])
    });
    for row in 0..4 {
        near(x.row(row), &normed_by(&wide(u.row(row)), gain.row(0)));
        let logits: Vec<f64> = (0..9).map(|expert| dot(w.row(expert), x.row(row))).collect();
        let mut order: Vec<usize> = (0..9).collect();
        order.sort_by(|a, b| (logits[*b] + f64::from(bias.row(0)[*b])).total_cmp(&(logits[*a] + f64::from(bias.row(0)[*a]))));
        let chosen: Vec<usize> = ids.row(row).iter().map(|id| id.to_bits() as usize).collect();
        assert_eq!(chosen, order[..3], "row {row}");
        // softmax over all, kept for the chosen, divided by their sum.
        let all = softmax(&logits);
        let sum: f64 = chosen.iter().map(|expert| all[*expert]).sum();
        near(gates.row(row), &chosen.iter().map(|expert| all[*expert] / sum).collect::<Vec<_>>());
    }
}

#[test]
fn combine_adds_the_weighed_experts() {
    let [y, gates, x] = run(|b| {
        let slots = b.slots(2, 2, 9, 1, |_, _| 99)?;
        let (y, x) = (b.random("y", 6, 13)?, b.random("x", 2, 13)?);
        combine(&mut b.pass, &slots, &y, &x, 2)?;
        Ok([y, slots.gates, x])
    });
    for row in 0..2 {
        let gate = |slot: usize| gates.row(row).get(slot).map_or(1.0, |gate| f64::from(*gate));
        let weighed = |i: usize| (0..3).map(|s| gate(s) * f64::from(y.row(row * 3 + s)[i])).sum::<f64>();
        near(x.row(row), &(0..13).map(|i| f64::from(x.row_before(row)[i]) + weighed(i)).collect::<Vec<_>>());
    }
}

#[test]
fn recur_adds_the_lora_and_the_linear_update() {
    let [x, e, table, scale, h] = run(|b| {
        let list = b.list(1, &[[0, 0, 10, 1], [NO_PLACE, 1, 0, 9]])?;
        let (x, states, ending) = (b.random("x", 2, 13)?, b.states(13)?, b.ending(13, 5)?);
        let (out, act) = (b.random("out", 1, 13)?, b.random("act", 1, 8)?);
        recur(&mut b.pass, list, &x, &ending, &states, &out, &act)?;
        Ok([x, states.e, ending.table, ending.scale, states.h])
    });
    // Row 1 is at loop 9: beyond the 4 trained ones the last scale serves.
    for (row, state, at_loop) in [(0, 10, 1), (1, 11, 3)] {
        let low: Vec<f64> = (0..5).map(|k| dot(table.row(3 + k), x.row(row)) * f64::from(scale.row(at_loop)[k])).collect();
        let formula = (0..13).map(|i| {
            let [a, b, h, e, x] = [table.row(0)[i], table.row(1)[i], h.row_before(state)[i], e.row(state)[i], x.row(row)[i]].map(f64::from);
            a * h + b * e + x + (0..5).map(|k| low[k] * f64::from(table.row(8 + k)[i])).sum::<f64>()
        });
        near(h.row(state), &formula.collect::<Vec<_>>());
    }
}

/// The loop of adaptive computation time, run loop by loop with a state that stays as it is (A = 1, all else 0): the weights of every
/// row sum to 1 once all have halted.
#[test]
fn halting_shares_out_a_weight_of_one() {
    let [h, table, out, state] = run(|b| {
        let (x, states, scale) = (b.f32s("x", 5, 13, |_, _| 0.0)?, b.states(13)?, b.random("scale", 1, 1)?);
        let w: Vec<f32> = (0..13).map(|_| b.next()).collect();
        let table = b.f32s("table", 5, 13, |row, col| [1.0, 0.0, w[col], 0.0, 0.0][row])?;
        let ending = Ending { table, scale, head: Head { bias: -1.0, threshold: 0.9 } };
        let start = start(12, 3, Mode::Halt);
        let (out, act) = (b.f32s("out", 5, 13, |_, _| 0.0)?, b.f32s("act", 5, 8, |_, col| start[col])?);
        for at_loop in 0..12 {
            let list = b.list(0, &[0, 1, 2, 3, 4].map(|row| [row, 0, row, at_loop]))?;
            recur(&mut b.pass, list, &x, &ending, &states, &out, &act)?;
        }
        Ok([states.h, table, out, act])
    });
    for row in 0..5 {
        let p = 1.0 / (1.0 + (1.0 - dot(h.row(row), table.row(2))).exp());
        let (mut cum, mut total, mut loops) = (0.0, 0.0, 0.0);
        for at_loop in 0..12 {
            let p = if at_loop + 1 < 3 { 0.0 } else { p };
            if cum < 0.9 {
                total += if cum + p >= 0.9 { f64::max(1.0 - cum, 0.0) } else { p };
                (cum, loops) = (cum + p, loops + 1.0);
            }
        }
        near(out.row(row), &h.row(row).iter().map(|h| total * f64::from(*h)).collect::<Vec<_>>());
        near(&state.row(row)[..2], &[cum, loops]);
        assert_eq!(state.row(row)[7], 0.0, "row {row} has stopped, by itself or at its cap");
    }
    assert!((0..5).any(|row| state.row(row)[0] >= 0.9 && state.row(row)[1] < 12.0), "a row should halt before the last loop");
}

#[test]
fn top_sorts_and_sums() {
    let [x, values, ids] = run(|b| {
        let (x, values, ids) = (b.random("x", 3, 65)?, b.random("values", 3, 9)?, b.u32s("ids", 3, 7, |_, _| 99)?);
        b.top(&x, 7, &values, &ids, 3)?;
        Ok([x, values, ids])
    });
    for row in 0..3 {
        let mut order: Vec<usize> = (0..65).collect();
        order.sort_by(|a, b| x.row(row)[*b].total_cmp(&x.row(row)[*a]));
        let found: Vec<usize> = ids.row(row).iter().map(|id| id.to_bits() as usize).collect();
        assert_eq!(found, order[..7], "row {row}");
        let sum: f64 = wide(x.row(row)).iter().map(|x| x.exp()).sum();
        let mut formula = vec![sum.ln(), 0.0];
        formula.extend(order[..7].iter().map(|at| f64::from(x.row(row)[*at])));
        near(values.row(row), &formula);
    }
}

#[test]
fn zeros_of_both_signs_are_ties() {
    let [ids] = run(|b| {
        let x = b.f32s("x", 2, 300, |row, col| if (row + col * col / 7) % 2 == 0 { -0.0 } else { 0.0 })?;
        let (values, ids) = (b.random("values", 2, 42)?, b.u32s("ids", 2, 40, |_, _| 999)?);
        b.top(&x, 40, &values, &ids, 2)?;
        Ok([ids])
    });
    for row in 0..2 {
        let found: Vec<u32> = ids.row(row).iter().map(|id| id.to_bits()).collect();
        assert_eq!(found, (0..40).collect::<Vec<u32>>(), "row {row}: the lowest ids first");
    }
}
