//! The cases of kernels that read weights: every precision with odd sizes, one row and many, matrices in several parts.

use refrain::kernels::embed::embed;
use refrain::kernels::experts::{experts_down, experts_up};
use refrain::kernels::experts_grouped::{Groups, experts_grouped};
use refrain::kernels::group::{group, most_tiles};
use refrain::kernels::linear::{Columns, FEW_ROWS, Into, PerHead, linear};
use refrain::kernels::noise;
use refrain::kernels::transposed::transposed;
use refrain::precision::Precision;
use refrain::tensor::stride;

use super::bench::Bench;
use super::cases::{CHOICES, Choice, Table};

/// Adds them for every precision.
pub fn add(table: &mut Table) {
    for precision in Precision::ALL {
        table_of_words(table, precision);
        products(table, precision);
        heads(table, precision);
        mixtures(table, precision);
    }
    for words in [1, 67, 5000] {
        table.add("noise", format!("{words} words"), move |b| {
            let w = b.u32s("w", 1, words, |_, _| 9)?;
            noise::words(&mut b.pass, &w, 77, 0x83ff_83ff, 0x2400_2400)
        });
    }
}

fn table_of_words(table: &mut Table, precision: Precision) {
    table.add("embed", format!("first and last token of each part, and one past the end, {precision}"), move |b| {
        let table = b.weights(precision, 1501, 37, 1)?;
        let last = table.part_rows.min(1500) as u32 - 1;
        let list = b.list(3, &[0, last, last + 1, 1500, 1501, 7, u32::MAX].map(|token| [token, 9, 9, 9]))?;
        let y = b.random("y", 8, 37)?;
        embed(&mut b.pass, &table, list, &y)
    });
    table.add("embed", format!("one row, {precision}"), move |b| {
        let (table, list, y) = (b.weights(precision, 2, 3, 1)?, b.list(0, &[[1, 0, 0, 0]])?, b.random("y", 1, 3)?);
        embed(&mut b.pass, &table, list, &y)
    });
}

/// One matrix, which may come in several parts.
fn products(table: &mut Table, precision: Precision) {
    // The last two come in several parts in every precision.
    let sizes = [(1, 1), (3, 5), (61, 130), (64, 33), (130, 17), (37, 1700), (700, 100)];
    for rows in [1, 2, FEW_ROWS, FEW_ROWS + 1, 9, 33] {
        let kernel = if rows <= FEW_ROWS { "matvec" } else { "matmul" };
        for (ins, outs) in sizes.into_iter().filter(|(ins, outs)| (rows + 1) * ins.max(outs) < 7100) {
            for into in [Into::Set, Into::Add] {
                table.add(kernel, format!("{rows} rows, {outs} × {ins}, {into:?}, {precision}"), move |b| {
                    let w = b.weights(precision, outs, ins, 1)?;
                    let (x, y) = (b.random("x", rows + 1, 4 + stride(ins))?, b.random("y", rows + 1, outs + 3)?);
                    linear(&mut b.pass, &w, (&x).into(), (&y).into(), rows, into)
                });
            }
        }
    }
}

/// A matrix a head with rows of other matrices between them; the last case in several parts.
fn heads(table: &mut Table, precision: Precision) {
    let sizes = [(3, 5, 1, 2), (61, 13, 3, 0), (70, 16, 5, 7), (130, 9, 1, 4), (64, 30, 10, 97)];
    for rows in [1, 3, 9] {
        for (cols, outs, batch, others) in sizes {
            let what = format!("{rows} rows, {batch} heads of {outs} × {cols} and {others} between, {precision}");
            let w = move |b: &mut Bench| b.weights(precision, batch * (outs + others), cols, outs + others);
            table.add(if rows <= FEW_ROWS { "matvec" } else { "matmul" }, what.clone(), move |b| {
                let w = w(b)?;
                let heads = PerHead { w: &w, batch, start: others, step: outs + others, outs };
                let (x_step, y_step) = (stride(cols) + 4, outs + 1);
                let x = b.random("x", rows + 1, 4 + (batch - 1) * x_step + stride(cols))?;
                let y = b.random("y", rows + 1, 3 + batch * y_step)?;
                let (x, y) = (Columns { tensor: &x, step: x_step }, Columns { tensor: &y, step: y_step });
                linear(&mut b.pass, heads, x, y, rows, Into::Set)
            });
            table.add("transposed", what, move |b| {
                let w = w(b)?;
                let heads = PerHead { w: &w, batch, start: others, step: outs + others, outs };
                let (x, y) = (b.random("x", rows + 1, 3 + batch * (outs + 1))?, b.random("y", rows + 1, 5 + batch * (cols + 2))?);
                let (x, y) = (Columns { tensor: &x, step: outs + 1 }, Columns { tensor: &y, step: cols + 2 });
                transposed(&mut b.pass, heads, x, y, rows)
            });
        }
    }
}

fn mixtures(table: &mut Table, precision: Precision) {
    for (choice, Choice(expert)) in CHOICES {
        for (rows, k, routed) in [(1, 1, 7), (3, 2, 70), (3, 2, 7), (20, 3, 7), (5, 3, 70)] {
            for shared in [0, 2] {
                let what = format!("{rows} rows of {k} slots of {routed} experts, {choice}, {shared} shared, {precision}");
                // Of 70, every tenth: they come in several parts in every precision.
                let id = move |row: usize, slot: usize| (expert(row * k + slot) * routed / 7) as u32;
                let slots = move |b: &mut Bench| b.slots(rows, k, routed, shared, id);
                if rows < 9 {
                    table.add("experts_up", what.clone(), move |b| {
                        let (w, slots) = (b.weights(precision, (routed + shared) * 2 * 9, 70, 18)?, slots(b)?);
                        let (x, y) = (b.random("x", rows + 1, 70)?, b.random("y", rows * slots.count() + 1, 9)?);
                        experts_up(&mut b.pass, &w, &slots, &x, &y, rows)
                    });
                    table.add("experts_down", what.clone(), move |b| {
                        let (w, slots) = (b.weights(precision, (routed + shared) * 19, 70, 19)?, slots(b)?);
                        let (x, y) = (b.random("x", rows * slots.count() + 1, 70)?, b.random("y", rows + 1, 19)?);
                        experts_down(&mut b.pass, &w, &slots, &x, &y, rows)
                    });
                }
                for one in [true, false] {
                    let what = format!("{what}, {}", if one { "x of a row" } else { "x of a slot" });
                    table.add("experts_grouped", what, move |b| {
                        let (w, slots, tile) = (b.weights(precision, (routed + shared) * 19, 70, 19)?, slots(b)?, b.tile);
                        let pairs = rows * slots.count();
                        let (x, y) = (b.random("x", if one { rows } else { pairs }, 70)?, b.random("y", pairs, 19)?);
                        let tiles = b.u32s("tiles", most_tiles(pairs, slots.experts(), tile), 4, |_, _| 99)?;
                        let order = b.u32s("order", 1, pairs, |_, _| 99)?;
                        let groups = Groups { tiles: &tiles, order: &order, tile };
                        group(&mut b.pass, &slots, groups, rows)?;
                        experts_grouped(&mut b.pass, &w, &slots, &x, groups, &y, rows)
                    });
                }
            }
        }
    }
}
