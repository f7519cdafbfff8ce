//! The model on flat rows.
//!
//! ```text
//! x = embed[token];  x = prelude.i(x) …;  e = x;  x = loop(x, e);  x = coda.i(x) …;  logits = RMSNorm(x) · embedᵀ
//! ```
//!
//! A row is one token at one loop of one sequence. [`Engine::forward`] takes tokens for any number of sequences, lays them out as
//! rows, cuts them into chunks, and replays a recorded plan for each chunk: prefill, chunked prefill, decoding and batches are one
//! code path with different lists of rows.

mod attention;
mod block;
pub mod config;
pub mod defaults;
mod ffn;
pub mod files;
mod loader;
mod needs;
mod recurrent;
mod rows;
mod sequence;
mod sizes;
mod trace;
mod work;

pub use loader::Progress;
pub use needs::Needs;
pub use recurrent::Depth;
pub use rows::{Feed, Logits, Output, Prediction, RowOutput};
pub use sequence::Sequence;
pub use trace::{LoopTrace, Trace};

use crate::backend::{Backend, Counters, DeviceInfo, DeviceOptions, Pass, Plan};
use crate::error::{Error, Result};
use crate::kernels::embed::embed;
use crate::kernels::linear::{Into, linear};
use crate::kernels::rmsnorm::rmsnorm;
use crate::kernels::top::{Parts, top};
use crate::kernels::{CacheTensor, RowList, Slot};
use crate::tensor::{Segmented, Tensor};
use attention::Step;
use block::Block;
use config::Config;
use defaults::{Defaults, Exit};
use ffn::{Dense, Ffn};
use files::{Source, Weights};
use loader::Loader;
use recurrent::Recurrent;
use sizes::{Sizes, check_driver, check_kernels};
use work::Work;

/// Positions of a sequence where nothing else is asked for (or the model's own limit, if that is smaller).
pub const DEFAULT_CONTEXT: usize = 4096;

/// Rows of a pass where nothing else is asked for.
pub const DEFAULT_CHUNK: usize = 128;

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The device to run on.
    pub device: DeviceOptions,
    /// Positions of each sequence's cache. Default: `max_seq_len`, at most [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// The most loops that will be asked for: the cache has a slot for each. Default: the folder's `n_loops`, else
    /// `max_loop_iters`.
    pub loops: Option<usize>,
    /// Sequences that can be held at once. Default: 1.
    pub sequences: Option<usize>,
    /// Rows of one pass. Default: [`DEFAULT_CHUNK`], fewer where the device's limits ask for it.
    pub chunk: Option<usize>,
}

/// A model on a device: tokens in, logits and loop counts out.
pub struct Engine {
    config: Config,
    defaults: Defaults,
    notes: Vec<String>,
    backend: Backend,
    net: Net,
    cache: CacheTensor,
    work: Work,
    sequences: sequence::Slots,
    loops: usize,
    plans: Vec<(PlanKey, Plan)>,
}

/// The weights.
struct Net {
    embed: Segmented,
    prelude: Vec<Block>,
    recurrent: Recurrent,
    coda: Vec<Block>,
    norm: Tensor,
    angles: Tensor,
}

/// What tells one plan from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PlanKey {
    rows: usize,
    picks: usize,
    best: usize,
    depth: Depth,
}

/// Plans that are kept; more than the shapes that one way of running a model uses.
const PLANS: usize = 32;

impl Engine {
    /// Loads a model. `progress` is called after every tensor.
    ///
    /// Errors: whatever is wrong with the files ([`Error::File`], [`Error::Format`], [`Error::Config`], [`Error::Tensor`]), the
    /// options ([`Error::Argument`], [`Error::Context`], [`Error::Loops`]) or the device ([`Error::NoAdapter`],
    /// [`Error::TooSmall`], [`Error::Gpu`]).
    pub async fn load(source: &Source, options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Self> {
        let (config, defaults) = read_config(source)?;
        // Everything about the files and the options is checked before a device is opened.
        let weights = Weights::open(source)?;
        let notes = weights.check(&config.tensors())?;
        let sizes = Sizes::choose(&config, &defaults, options)?;
        let backend = Backend::open(&options.device).await?;
        Self::build(config, defaults, notes, &weights, sizes, backend, progress)
    }

    /// Loads a model onto a backend that is already open: on a device that the program made itself, for instance. The device
    /// in `options` is not looked at.
    pub fn load_on(backend: Backend, source: &Source, options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Self> {
        let (config, defaults) = read_config(source)?;
        let weights = Weights::open(source)?;
        let notes = weights.check(&config.tensors())?;
        let sizes = Sizes::choose(&config, &defaults, options)?;
        Self::build(config, defaults, notes, &weights, sizes, backend, progress)
    }

    fn build(
        config: Config,
        defaults: Defaults,
        notes: Vec<String>,
        weights: &Weights,
        sizes: Sizes,
        mut backend: Backend,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        check_kernels(&config)?;
        check_driver(&config, &sizes, &backend)?;
        let slots = config.cache_slots(sizes.loops);
        let slot_rows = sizes.sequences * sizes.context;
        let rows = backend.segmented("the cache", slots * slot_rows, config.cache_width(), slot_rows)?;
        let cache = CacheTensor { rows, slots, sequences: sizes.sequences, context: sizes.context };
        let work = Work::new(&mut backend, &config, sizes.chunk, sizes.loops)?;
        let total = config.tensors().iter().filter(|t| !t.optional).map(|t| t.shape.iter().product::<usize>() as u64 * 4).sum();
        let state = Progress { loaded: 0, total };
        let mut loader = Loader { backend: &mut backend, weights, progress, state };
        let net = Net::load(&mut loader, &config, &sizes, &work)?;
        let sequences = sequence::Slots::new(sizes.sequences);
        Ok(Self { config, defaults, notes, backend, net, cache, work, sequences, loops: sizes.loops, plans: Vec::new() })
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the folder's `generation_config.json` says.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// What was skipped or is worth knowing about the files.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        self.backend.info()
    }

    /// What the device did so far.
    pub fn counters(&self) -> Counters {
        self.backend.counters()
    }

    /// Names of the kernels that ran so far.
    pub fn kernels(&self) -> &std::collections::BTreeSet<&'static str> {
        self.backend.kernels()
    }

    /// Bytes that the model, its cache and its work tensors take on the device.
    pub fn allocated_bytes(&self) -> usize {
        self.backend.allocated_bytes()
    }

    /// The most loops that can be asked for.
    pub fn max_loops(&self) -> usize {
        self.loops
    }

    /// Positions of each sequence.
    pub fn context(&self) -> usize {
        self.cache.context
    }

    /// The largest A of the loop: below 1, the loop is stable.
    pub fn spectral_radius(&self) -> f32 {
        self.net.recurrent.spectral_radius
    }

    /// The depth that is used where nothing else is said: the folder's defaults, within what the cache was made for.
    pub fn default_depth(&self) -> Depth {
        Depth {
            loops: self.defaults.n_loops.unwrap_or(self.config.max_loop_iters).min(self.loops),
            min_loops: self.defaults.min_loops.unwrap_or(0),
            exit: self.defaults.exit.unwrap_or_default(),
        }
    }

    /// The list of the rows of a pass, at loop `t` of the loop.
    fn list(&self, t: usize, rows: usize) -> RowList {
        RowList { table: self.work.table, first: t * self.work.chunk, rows }
    }

    fn step(&self, list: RowList, slot: Slot) -> Step<'_> {
        Step { list, slot, cache: &self.cache, angles: &self.net.angles, x: &self.work.x, normed: &self.work.normed }
    }

    // The stages of a pass. `forward` records them one after the other into one plan; a traced pass runs each alone.

    fn record_embed(&self, pass: &mut Pass, rows: usize) -> Result<()> {
        embed(pass, &self.net.embed, self.list(0, rows), &self.work.x)
    }

    fn record_prelude(&self, pass: &mut Pass, layer: usize, rows: usize) -> Result<()> {
        self.net.prelude[layer].record(pass, self.step(self.list(0, rows), Slot::Layer(layer)))
    }

    fn record_begin(&self, pass: &mut Pass, rows: usize) -> Result<()> {
        self.net.recurrent.record_begin(pass, &self.work.x, rows)
    }

    fn record_loop(&self, pass: &mut Pass, t: usize, rows: usize, depth: Depth) -> Result<()> {
        let first = self.config.prelude_layers + self.config.coda_layers;
        self.net.recurrent.record_loop(pass, self.step(self.list(t, rows), Slot::Loops(first)), depth)
    }

    fn record_coda(&self, pass: &mut Pass, layer: usize, rows: usize) -> Result<()> {
        let slot = Slot::Layer(self.config.prelude_layers + layer);
        // The coda goes on where the loop's output lies.
        let x = &self.net.recurrent.state.out;
        self.net.coda[layer].record(pass, Step { x, ..self.step(self.list(0, rows), slot) })
    }

    /// Logits of the rows in the list of picks, and their best candidates.
    fn record_logits(&self, pass: &mut Pass, picks: usize, best: usize) -> Result<()> {
        if picks == 0 {
            return Ok(());
        }
        let work = &self.work;
        let out = self.net.recurrent.state.out;
        let rows = Segmented { part_rows: out.rows, rows: out.rows, cols: out.cols, parts: vec![out] };
        embed(pass, &rows, RowList { table: work.table, first: work.picks_first(), rows: picks }, &work.picked)?;
        rmsnorm(pass, &work.picked, &self.net.norm, &work.normed, picks)?;
        linear(pass, &self.net.embed, 1, (&work.normed).into(), (&work.logits).into(), picks, Into::Set)?;
        let parts = Parts { values: &work.part_values, ids: &work.part_ids };
        top(pass, &work.logits, best, parts, &work.values, &work.ids, picks)
    }

    fn record(&self, key: PlanKey) -> Result<Pass> {
        let mut pass = self.backend.pass();
        self.record_embed(&mut pass, key.rows)?;
        for layer in 0..self.net.prelude.len() {
            self.record_prelude(&mut pass, layer, key.rows)?;
        }
        self.record_begin(&mut pass, key.rows)?;
        for t in 0..key.depth.loops {
            self.record_loop(&mut pass, t, key.rows, key.depth)?;
        }
        for layer in 0..self.net.coda.len() {
            self.record_coda(&mut pass, layer, key.rows)?;
        }
        self.record_logits(&mut pass, key.picks, key.best)?;
        Ok(pass)
    }

    /// Runs the plan for a shape, made once and kept.
    async fn replay(&mut self, key: PlanKey) -> Result<()> {
        if let Some(at) = self.plans.iter().position(|(k, _)| *k == key) {
            // Most recently used last.
            let plan = self.plans.remove(at);
            self.plans.push(plan);
        } else {
            let plan = self.backend.plan(self.record(key)?)?;
            if self.plans.len() == PLANS {
                self.plans.remove(0);
            }
            self.plans.push((key, plan));
        }
        match self.plans.last() {
            Some((_, plan)) => self.backend.run(plan).await,
            None => Ok(()),
        }
    }
}

/// `config.json` and `generation_config.json` of a source.
pub fn read_config(source: &Source) -> Result<(Config, Defaults)> {
    let path = source.path("config.json");
    let Some(json) = source.read_small("config.json")? else {
        return Err(Error::File { path, doing: "read", source: std::io::ErrorKind::NotFound.into() });
    };
    let config = Config::parse(&path, &json)?;
    let defaults = source.read_small("generation_config.json")?;
    Ok((config, Defaults::parse(&source.path("generation_config.json"), defaults.as_deref())?))
}

/// The largest A of a model's loop, read from its files alone.
pub fn spectral_radius(weights: &Weights, config: &Config) -> Result<f32> {
    let log_a = weights.read("recurrent.injection.log_A", &[config.dim])?;
    let log_dt = weights.read("recurrent.injection.log_dt", &[1])?;
    Ok(recurrent::decay(&log_a, log_dt[0]).into_iter().fold(0.0, f32::max))
}

impl Net {
    fn load(loader: &mut Loader, config: &Config, sizes: &Sizes, work: &Work) -> Result<Self> {
        let embed = loader.stacked(&[("embed.weight".into(), config.vocab_size)], config.dim)?;
        let dense = |loader: &mut Loader, prefix: String| {
            let ffn = Dense::load(loader, config, &[format!("{prefix}.ffn")], config.ffn_dim(), work.dense)?;
            Block::load(loader, config, &prefix, &work.attention, Ffn::Dense(ffn))
        };
        let prelude = (0..config.prelude_layers).map(|i| dense(loader, format!("prelude.{i}"))).collect::<Result<_>>()?;
        let coda = (0..config.coda_layers).map(|i| dense(loader, format!("coda.{i}"))).collect::<Result<_>>()?;
        Ok(Self {
            embed,
            prelude,
            recurrent: Recurrent::load(loader, config, sizes.loops, &work.attention, work.moe, work.state)?,
            coda,
            norm: loader.small("norm.weight", &[config.dim])?,
            angles: loader.upload("RoPE table", config.rope_dim(), &config.rope_rows(0, sizes.context))?,
        })
    }
}

impl Depth {
    /// An error unless these loops can be run with a cache for `limit` loops.
    fn check(&self, limit: usize) -> Result<()> {
        if !(1..=limit).contains(&self.loops) {
            return Err(Error::Loops { asked: self.loops, limit });
        }
        if self.min_loops > self.loops && self.exit == Exit::Model {
            return Err(Error::Argument {
                name: "min-loops".into(),
                expected: format!("at most the {} loops of --loops", self.loops),
                found: self.min_loops.to_string(),
            });
        }
        Ok(())
    }
}
