//! The two kinds of feed-forward layer: dense SwiGLU, and the mixture of experts
//!
//! - dense: y = down(silu(gate x) ⊙ up x)
//! - mixture: y = Σ_k gate_k · expert_{id_k}(x) + Σ_s shared_s(x), each expert a SwiGLU of its own
//!
//! Gate and up are stacked into one matrix. The shared experts always fire, so side by side they are one dense layer.

use crate::backend::{Backend, Pass};
use crate::error::{Error, Result};
use crate::kernels::combine::combine;
use crate::kernels::experts::experts;
use crate::kernels::experts_grouped::{Groups, experts_grouped};
use crate::kernels::group::{group, most_tiles};
use crate::kernels::linear::{Into, linear};
use crate::kernels::router::router;
use crate::kernels::swiglu::swiglu;
use crate::model::config::Config;
use crate::model::loader::Loader;
use crate::precision::BLOCK;
use crate::tensor::{Dtype, Matrix, Tensor};

/// Dense SwiGLU.
pub(crate) struct Dense {
    gate_up: Matrix,
    down: Matrix,
    work: SwigluWork,
}

/// Hidden numbers of each of several layers side by side. What lies beside another starts where a block of weights may start.
fn share(layers: usize, dim: usize) -> usize {
    if layers > 1 { dim.next_multiple_of(2 * BLOCK) } else { dim }
}

/// Hidden numbers of all shared experts together, as they lie on the device.
fn shared_dim(config: &Config) -> usize {
    config.n_shared_experts * share(config.n_shared_experts, config.expert_dim * config.n_experts_per_tok)
}

/// [gate | up] and silu(gate) ⊙ up of some rows.
#[derive(Clone, Copy)]
pub(crate) struct SwigluWork {
    gate_up: Tensor,
    hidden: Tensor,
}

impl SwigluWork {
    /// Allocates them for `rows` rows of `dim` hidden numbers.
    pub fn new(backend: &mut Backend, rows: usize, dim: usize) -> Result<Self> {
        let gate_up = backend.tensor("gate and up", Dtype::F32, rows, 2 * dim)?;
        Ok(Self { gate_up, hidden: backend.tensor("hidden", Dtype::F32, rows, dim)? })
    }
}

impl Dense {
    /// Loads `PREFIX.{gate,up,down}`; with several prefixes the layers of `dim` hidden numbers each, side by side.
    pub fn load(loader: &mut Loader, config: &Config, prefixes: &[String], dim: usize, work: SwigluWork) -> Result<Self> {
        let share = share(prefixes.len(), dim);
        let (d, all) = (config.dim, prefixes.len() * share);
        let named = |part: &str, rows: usize| prefixes.iter().map(|p| (format!("{p}.{part}.weight"), rows)).collect::<Vec<_>>();
        let (gates_ups, downs) = ([named("gate", dim), named("up", dim)].concat(), named("down", d));
        let gate_up = loader.matrix(&gates_ups, d, (2 * all, d), 1)?;
        for (i, (name, _)) in gates_ups.into_iter().enumerate() {
            loader.fill(&gate_up, i * share, &[name], (dim, d))?;
        }
        let down = loader.matrix(&downs, dim, (d, all), 1)?;
        let beside: Vec<String> = downs.into_iter().map(|(name, _)| name).collect();
        loader.fill(&down, 0, &beside, (d, dim))?;
        Ok(Self { gate_up, down, work })
    }

    /// Records y += down(silu(gate x) ⊙ up x).
    fn record(&self, pass: &mut Pass, x: &Tensor, y: &Tensor, rows: usize) -> Result<()> {
        linear(pass, &self.gate_up, x.into(), (&self.work.gate_up).into(), rows, Into::Set)?;
        swiglu(pass, &self.work.gate_up, &self.work.hidden, rows)?;
        linear(pass, &self.down, (&self.work.hidden).into(), y.into(), rows, Into::Add)
    }
}

/// Mixture of experts.
pub(crate) struct Moe {
    /// (experts, dim).
    pub router: Tensor,
    /// (1, experts).
    pub bias: Tensor,
    /// \[gate; up\] of every expert: (experts · 2F, dim).
    gate_up: Matrix,
    /// (experts · dim, F).
    down: Matrix,
    shared: Option<Dense>,
    work: MoeWork,
}

/// Work tensors of the mixture. Those of the experts have a row for every (row, slot).
#[derive(Clone, Copy)]
pub(crate) struct MoeWork {
    /// The chosen experts, (rows, K) of u32.
    pub ids: Tensor,
    /// Their weights, (rows, K).
    pub gates: Tensor,
    gate_up: Tensor,
    hidden: Tensor,
    y: Tensor,
    tiles: Tensor,
    order: Tensor,
    tile: usize,
    shared: Option<SwigluWork>,
}

impl MoeWork {
    /// Allocates them for `rows` rows.
    pub fn new(backend: &mut Backend, config: &Config, rows: usize) -> Result<Self> {
        let (k, tile) = (config.n_experts_per_tok, backend.tier().tile());
        let pairs = rows.checked_mul(k).ok_or_else(|| Error::Usage { reason: "too many rows".into() })?;
        let swiglu = SwigluWork::new(backend, pairs, config.expert_dim)?;
        let shared = match shared_dim(config) {
            0 => None,
            dim => Some(SwigluWork::new(backend, rows, dim)?),
        };
        Ok(Self {
            ids: backend.tensor("expert ids", Dtype::U32, rows, k)?,
            gates: backend.tensor("expert gates", Dtype::F32, rows, k)?,
            gate_up: swiglu.gate_up,
            hidden: swiglu.hidden,
            y: backend.tensor("expert outputs", Dtype::F32, pairs, config.dim)?,
            tiles: backend.tensor("expert tiles", Dtype::U32, most_tiles(pairs, config.n_experts, tile), 4)?,
            order: backend.tensor("expert order", Dtype::U32, 1, pairs)?,
            tile,
            shared,
        })
    }
}

impl Moe {
    /// Loads `recurrent.block.ffn`.
    pub fn load(loader: &mut Loader, config: &Config, prefix: &str, work: MoeWork) -> Result<Self> {
        let (d, f, e) = (config.dim, config.expert_dim, config.n_experts);
        let router = loader.small(&format!("{prefix}.router.weight"), &[e, d])?;
        let bias = loader.small(&format!("{prefix}.router_bias"), &[e])?;
        let name = |expert: usize, part: &str| format!("{prefix}.routed_experts.{expert}.{part}.weight");
        let each = |parts: &[&str], rows: usize| {
            let names = (0..e).flat_map(|expert| parts.iter().map(move |part| name(expert, part)));
            names.map(|name| (name, rows)).collect::<Vec<_>>()
        };
        let gate_up = loader.matrix(&each(&["gate", "up"], f), d, (e * 2 * f, d), 2 * f)?;
        let down = loader.matrix(&each(&["down"], d), f, (e * d, f), d)?;
        for expert in 0..e {
            loader.fill(&gate_up, 2 * f * expert, &[name(expert, "gate")], (f, d))?;
            loader.fill(&gate_up, 2 * f * expert + f, &[name(expert, "up")], (f, d))?;
            loader.fill(&down, d * expert, &[name(expert, "down")], (d, f))?;
        }
        let prefixes: Vec<String> = (0..config.n_shared_experts).map(|s| format!("{prefix}.shared_experts.{s}")).collect();
        let shared = match work.shared {
            Some(work) => Some(Dense::load(loader, config, &prefixes, f * config.n_experts_per_tok, work)?),
            None => None,
        };
        Ok(Self { router, bias, gate_up, down, shared, work })
    }

    /// Records y += Σ_k gate_k · expert_k(x) + Σ_s shared_s(x).
    fn record(&self, pass: &mut Pass, x: &Tensor, y: &Tensor, rows: usize) -> Result<()> {
        let work = &self.work;
        let (k, e) = (work.ids.cols, self.router.rows);
        router(pass, x, &self.router, &self.bias, &work.ids, &work.gates, rows)?;
        // From about two rows an expert on, reading its weights once for all of them pays.
        if rows * k <= 2 * e || rows == 1 {
            experts(pass, &self.gate_up, e, x, &work.ids, &work.gate_up, rows)?;
            swiglu(pass, &work.gate_up, &work.hidden, rows * k)?;
            experts(pass, &self.down, e, &work.hidden, &work.ids, &work.y, rows)?;
        } else {
            let groups = Groups { tiles: &work.tiles, order: &work.order, tile: work.tile };
            group(pass, &work.ids, e, work.tile, &work.tiles, &work.order, rows)?;
            experts_grouped(pass, &self.gate_up, e, x, groups, k, &work.gate_up, rows)?;
            swiglu(pass, &work.gate_up, &work.hidden, rows * k)?;
            experts_grouped(pass, &self.down, e, &work.hidden, groups, k, &work.y, rows)?;
        }
        combine(pass, &work.y, &work.gates, y, rows)?;
        match &self.shared {
            Some(shared) => shared.record(pass, x, y, rows),
            None => Ok(()),
        }
    }
}

/// Either kind.
pub(crate) enum Ffn {
    Dense(Dense),
    Moe(Box<Moe>),
}

impl Ffn {
    /// Records y += ffn(x).
    pub fn record(&self, pass: &mut Pass, x: &Tensor, y: &Tensor, rows: usize) -> Result<()> {
        match self {
            Self::Dense(dense) => dense.record(pass, x, y, rows),
            Self::Moe(moe) => moe.record(pass, x, y, rows),
        }
    }
}

/// The most words of one row of the feed-forward work tensors, counting a row's K slots together.
pub(crate) fn widest(config: &Config) -> usize {
    let k = config.n_experts_per_tok;
    [2 * config.ffn_dim(), 2 * shared_dim(config), k * 2 * config.expert_dim, k * config.dim].into_iter().max().unwrap_or(0)
}
