//! The two kinds of feed-forward layer: dense SwiGLU, and the mixture of experts
//!
//! - dense: y = down(silu(gate x) ⊙ up x)
//! - mixture: y = Σ_k gate_k · expert_{id_k}(x) + Σ_s shared_s(x), each expert a SwiGLU of its own
//!
//! x is the normed input. Gate and up are stacked into one matrix. A shared expert is K times as wide as a routed one, so it is K experts
//! of the routed ones' size that always fire: they lie behind the routed ones, and every kernel of the mixture serves both.

use crate::backend::{Backend, Pass};
use crate::error::{Error, Result};
use crate::kernels::combine::combine;
use crate::kernels::experts::{Slots, experts_down, experts_up};
use crate::kernels::experts_grouped::{Groups, experts_grouped};
use crate::kernels::group::{group, most_tiles};
use crate::kernels::linear::{FEW_ROWS, Into, linear};
use crate::kernels::rmsnorm::rmsnorm;
use crate::kernels::router::{Router, router};
use crate::kernels::swiglu::swiglu;
use crate::model::config::Config;
use crate::model::loader::{Loader, Piece};
use crate::precision::BLOCK;
use crate::tensor::{Dtype, Matrix, Tensor};

/// Dense SwiGLU.
pub(crate) struct Dense {
    norm: Tensor,
    gate_up: Matrix,
    down: Matrix,
    work: SwigluWork,
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
    /// Loads `PREFIX.ffn_norm` and `PREFIX.ffn`.
    pub fn load(loader: &mut Loader, config: &Config, prefix: &str, work: SwigluWork) -> Result<Self> {
        let (d, f) = (config.dim, config.ffn_dim());
        let name = |part: &str| format!("{prefix}.ffn.{part}.weight");
        Ok(Self {
            norm: loader.small(&format!("{prefix}.ffn_norm.weight"), &[d])?,
            gate_up: loader.stacked(&[(name("gate"), f), (name("up"), f)], d)?,
            down: loader.stacked(&[(name("down"), d)], f)?,
            work,
        })
    }

    /// Records x += down(silu(gate normed) ⊙ up normed).
    fn record(&self, pass: &mut Pass, x: &Tensor, normed: &Tensor, rows: usize) -> Result<()> {
        rmsnorm(pass, x, &self.norm, normed, rows)?;
        linear(pass, &self.gate_up, normed.into(), (&self.work.gate_up).into(), rows, Into::Set)?;
        swiglu(pass, &self.work.gate_up, &self.work.hidden, rows)?;
        linear(pass, &self.down, (&self.work.hidden).into(), x.into(), rows, Into::Add)
    }
}

/// Mixture of experts.
pub(crate) struct Moe {
    router: Router,
    /// \[gate; up\] of every expert: (experts · 2F, dim).
    gate_up: Matrix,
    /// (experts · dim, F).
    down: Matrix,
    work: MoeWork,
}

/// Work tensors of the mixture. Those of the experts have a row for every (row, slot).
#[derive(Clone, Copy)]
pub(crate) struct MoeWork {
    /// The chosen experts and their weights, (rows, K) each.
    pub slots: Slots,
    swiglu: SwigluWork,
    y: Tensor,
    tiles: Tensor,
    order: Tensor,
    tile: usize,
}

impl MoeWork {
    /// Allocates them for `rows` rows.
    pub fn new(backend: &mut Backend, config: &Config, rows: usize) -> Result<Self> {
        let (k, tile) = (config.n_experts_per_tok, backend.tier().area()[1]);
        let slots = Slots {
            ids: backend.tensor("expert ids", Dtype::U32, rows, k)?,
            gates: backend.tensor("expert gates", Dtype::F32, rows, k)?,
            routed: config.n_experts,
            shared: config.n_shared_experts * k,
        };
        let pairs = rows.checked_mul(slots.count()).ok_or_else(|| Error::Usage { reason: "too many rows".into() })?;
        Ok(Self {
            slots,
            swiglu: SwigluWork::new(backend, pairs, config.expert_dim)?,
            y: backend.tensor("expert outputs", Dtype::F32, pairs, config.dim)?,
            tiles: backend.tensor("expert tiles", Dtype::U32, most_tiles(pairs, slots.experts(), tile), 4)?,
            order: backend.tensor("expert order", Dtype::U32, 1, pairs)?,
            tile,
        })
    }
}

impl Moe {
    /// Loads `PREFIX.ffn_norm` and `PREFIX.ffn`.
    pub fn load(loader: &mut Loader, config: &Config, prefix: &str, work: MoeWork) -> Result<Self> {
        let (d, f, e, k) = (config.dim, config.expert_dim, config.n_experts, config.n_experts_per_tok);
        let router = Router {
            gain: loader.small(&format!("{prefix}.ffn_norm.weight"), &[d])?,
            w: loader.small(&format!("{prefix}.ffn.router.weight"), &[e, d])?,
            bias: loader.small(&format!("{prefix}.ffn.router_bias"), &[e])?,
        };
        // Each file's tensor with the experts that it holds: a routed one, or the K of a shared one.
        let routed = (0..e).map(|i| (format!("{prefix}.ffn.routed_experts.{i}"), i..i + 1));
        let shared = (0..config.n_shared_experts).map(|s| (format!("{prefix}.ffn.shared_experts.{s}"), e + s * k..e + (s + 1) * k));
        let files: Vec<_> = routed.chain(shared).collect();
        let count = work.slots.experts();
        let gates_ups = files.iter().flat_map(|(name, of)| ["gate", "up"].map(|part| (format!("{name}.{part}.weight"), [of.len() * f, d])));
        let gate_up = loader.matrix(&gates_ups.collect::<Vec<_>>(), (count * 2 * f, d), 2 * f, false)?;
        let downs: Vec<_> = files.iter().map(|(name, of)| (format!("{name}.down.weight"), [d, of.len() * f])).collect();
        // The columns of a shared expert are cut into K pieces.
        let cut = config.n_shared_experts > 0 && k > 1 && !f.is_multiple_of(BLOCK);
        let down = loader.matrix(&downs, (count * d, f), d, cut)?;
        for (name, of) in files {
            let all = of.len() * f;
            let rows =
                |at: usize| of.clone().enumerate().map(move |(i, e)| Piece { first: 2 * f * e + at, rows: i * f..(i + 1) * f, cols: 0..d });
            loader.fill(&gate_up, &format!("{name}.gate.weight"), [all, d], &rows(0).collect::<Vec<_>>())?;
            loader.fill(&gate_up, &format!("{name}.up.weight"), [all, d], &rows(f).collect::<Vec<_>>())?;
            let cols = of.clone().enumerate().map(|(i, e)| Piece { first: d * e, rows: 0..d, cols: i * f..(i + 1) * f });
            loader.fill(&down, &format!("{name}.down.weight"), [d, all], &cols.collect::<Vec<_>>())?;
        }
        Ok(Self { router, gate_up, down, work })
    }

    /// The router's weights.
    pub fn router(&self) -> Router {
        self.router
    }

    /// Records x += Σ_k gate_k · expert_k(normed) + Σ_s shared_s(normed).
    fn record(&self, pass: &mut Pass, x: &Tensor, normed: &Tensor, rows: usize) -> Result<()> {
        let MoeWork { slots, swiglu: SwigluWork { gate_up, hidden }, y, tiles, order, tile } = &self.work;
        router(pass, x, &self.router, normed, &slots.ids, &slots.gates, rows)?;
        if rows <= FEW_ROWS {
            experts_up(pass, &self.gate_up, slots, normed, hidden, rows)?;
            return experts_down(pass, &self.down, slots, hidden, x, rows);
        }
        let groups = Groups { tiles, order, tile: *tile };
        group(pass, slots, groups, rows)?;
        experts_grouped(pass, &self.gate_up, slots, normed, groups, gate_up, rows)?;
        swiglu(pass, gate_up, hidden, rows * slots.count())?;
        experts_grouped(pass, &self.down, slots, hidden, groups, y, rows)?;
        combine(pass, slots, y, x, rows)
    }
}

/// Either kind.
pub(crate) enum Ffn {
    Dense(Dense),
    Moe(Box<Moe>),
}

impl Ffn {
    /// Records x += ffn(RMSNorm(x)); `normed` is memory for the norm.
    pub fn record(&self, pass: &mut Pass, x: &Tensor, normed: &Tensor, rows: usize) -> Result<()> {
        match self {
            Self::Dense(dense) => dense.record(pass, x, normed, rows),
            Self::Moe(moe) => moe.record(pass, x, normed, rows),
        }
    }
}

/// The most words of one row of the feed-forward work tensors, counting a row's slots together.
pub(crate) fn widest(config: &Config) -> usize {
    let slots = slots(config);
    [2 * config.ffn_dim(), slots * 2 * config.expert_dim, slots * config.dim].into_iter().max().unwrap_or(0)
}

/// Slots of a row: the chosen experts, and those that always fire.
pub(crate) fn slots(config: &Config) -> usize {
    (1 + config.n_shared_experts) * config.n_experts_per_tok
}
