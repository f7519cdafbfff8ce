//! Input injection at loop t, and the norm that the block starts with:
//!
//! - x = RMSNorm(h + loop_emb(t) + e) · gain
//! - normed = RMSNorm(x) · attn_gain
//!
//! h, e: (sequences · context, dim), x, normed: (rows, dim); table: (2 + loops, dim) of gain, attn_gain, loop_emb(0), loop_emb(1), …
//!
//! It stands first in a pass, and so it also decides whether the pass is needed: where no token in flight runs on (see
//! [`halt`](super::halt)), it closes the gate for the kernels that follow. So a pass can be handed to the device before it is known
//! whether anybody needs it, and costs next to nothing if not.

use crate::backend::{GATE_LIVE, GATE_MARKS, Pass};
use crate::error::Result;
use crate::kernel::{Kernel, Link, Twin, f32s, u32s, words_mut};
use crate::kernels::halt::{ACT, RUNNING};
use crate::kernels::rmsnorm::normalise;
use crate::kernels::{EPS, RowList, States, expect, expect_room, row_info};
use crate::params;
use crate::tensor::Tensor;

params! {
    /// Parameters. `pass_index` numbers the passes of one submission: each marks whether it ran.
    Params { rows: u32, list: u32, dim: u32, stride: u32, sequences: u32, context: u32, places: u32, pass_index: u32, eps: f32 }
}

/// The kernel.
pub const INJECT: Kernel<Params, 5, 3> = Kernel {
    name: "inject",
    body: include_str!("../../shaders/inject.wgsl"),
    links: &[Link::Reduce, Link::State],
    reads: [u32s("list"), f32s("h"), f32s("e"), f32s("table"), f32s("act")],
    writes: [f32s("x"), f32s("normed"), u32s("gate")],
    grid: |p, _| [p.rows as usize, 1, 1],
    twin: Twin::Plain(twin),
};

fn twin(p: &Params, [list, h, e, table, act]: [&[f32]; 5], [x, normed, gate]: [&mut [f32]; 3]) {
    let live = act.chunks_exact(ACT).take(p.places as usize).any(|place| place[RUNNING] > 0.0);
    let gate = words_mut(gate);
    (gate[GATE_LIVE], gate[GATE_MARKS + p.pass_index as usize]) = (live.into(), live.into());
    if !live {
        return;
    }
    let (dim, stride) = (p.dim as usize, p.stride as usize);
    let (gain, attn_gain) = (&table[..dim], &table[stride..][..dim]);
    let mut sums = Vec::with_capacity(dim);
    for row in 0..p.rows as usize {
        let info = row_info(list, p.list + row as u32);
        let Some(state) = info.at(p.sequences, p.context).map(|state| state * stride) else { continue };
        let emb = &table[(2 + info.at_loop) * stride..][..dim];
        sums.clear();
        sums.extend(h[state..][..dim].iter().zip(&e[state..]).zip(emb).map(|((h, e), emb)| h + emb + e));
        let x = &mut x[row * stride..][..dim];
        normalise(&sums, gain, p.eps, x);
        normalise(x, attn_gain, p.eps, &mut normed[row * stride..][..dim]);
    }
}

/// Where a pass is decided on: the tokens in flight, the gate, and the number of the pass in its submission.
#[derive(Clone, Copy, Debug)]
pub struct Gating<'a> {
    /// (places, 8), see [`halt`](super::halt).
    pub act: &'a Tensor,
    /// The device's gate.
    pub gate: &'a Tensor,
    /// Which mark says whether the pass ran.
    pub pass_index: usize,
}

/// Records the injection for the listed rows.
pub fn inject(pass: &mut Pass, list: RowList, states: &States, table: &Tensor, gating: Gating, x: &Tensor, normed: &Tensor) -> Result<()> {
    for tensor in [&states.h, &states.e, table, normed] {
        expect("inject", "columns", x.cols, tensor.cols)?;
    }
    expect("inject", "columns of act", ACT, gating.act.cols)?;
    expect_room("inject", "rows", list.rows, x.rows.min(normed.rows))?;
    expect_room("inject", "marks", GATE_MARKS + gating.pass_index + 1, gating.gate.cols)?;
    let params = Params {
        rows: list.rows as u32,
        list: list.first as u32,
        dim: x.cols as u32,
        stride: x.stride as u32,
        sequences: states.sequences() as u32,
        context: states.context as u32,
        places: gating.act.rows as u32,
        pass_index: gating.pass_index as u32,
        eps: EPS,
    };
    let States { h, e, .. } = states;
    pass.dispatch(&INJECT, params, [&list.table, h, e, table, gating.act], [x, normed, gating.gate])
}
