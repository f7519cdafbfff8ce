//! The model on flat rows.
//!
//! ```text
//! x = embed[token];  x = prelude.i(x) …;  e = x;  x = loop(x, e);  x = coda.i(x) …;  logits = RMSNorm(x) · embedᵀ
//! ```
//!
//! A row is one token at one loop of one sequence. Tokens enter through the prelude, loop until they halt, and leave through the coda;
//! a pass of the loop may hold rows of any sequences at any loops. Prefill, chunked prefill, decoding, batches and old tokens that
//! catch up at a deeper loop are one code path with different lists of rows: `ledger` says who has run which loop, `schedule` who
//! comes next, `drive` runs it.

mod attention;
mod batch;
mod block;
pub mod config;
pub mod defaults;
mod drive;
mod ffn;
pub mod files;
mod flight;
mod ledger;
mod loader;
mod needs;
mod profile;
pub mod published;
mod quality;
mod recurrent;
mod rows;
mod schedule;
mod sequence;
mod sizes;
mod stages;
mod trace;
mod work;

pub use batch::{Batch, Finished};
pub use drive::Pace;
pub use ledger::Ledger;
pub use loader::Progress;
pub use needs::Needs;
pub use quality::{Observed, Quality};
pub use recurrent::Depth;
pub use rows::{Feed, Logits, Output, Prediction, RowOutput};
pub use schedule::Schedule;
pub use sequence::Sequence;
pub use trace::{Detail, LoopTrace, PassTrace, TokenTrace, Trace};

use std::collections::{BTreeMap, HashMap};

use crate::backend::{Backend, Counters, DeviceInfo, DeviceOptions, Plan};
use crate::error::{Error, Result};
use crate::kernels::{CacheTensor, States};
use crate::precision::Precision;
use crate::tensor::{Dtype, Matrix, Tensor};
use attention::Attention;
use block::Block;
use config::Config;
use defaults::{Defaults, Exit};
use ffn::{Dense, Ffn};
use files::{Source, Weights};
use loader::{Filling, Loader};
use recurrent::Recurrent;
use sizes::{Sizes, check_driver, check_kernels};
use stages::PlanKey;
use work::Work;

/// Positions of a sequence where nothing else is asked for (or the model's own limit, if that is smaller).
pub const DEFAULT_CONTEXT: usize = 4096;

/// Rows of a pass where nothing else is asked for.
pub const DEFAULT_CHUNK: usize = 128;

/// Rows that catch up in a pass where nothing else is asked for: half a pass, so that sequences beside it go on.
pub const DEFAULT_CATCH_UP: usize = DEFAULT_CHUNK / 2;

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The device to run on.
    pub device: DeviceOptions,
    /// How weight matrices are stored on the device. Default: as in the files, bf16 as f16.
    pub dtype: Option<Precision>,
    /// Positions of each sequence's cache. Default: `max_seq_len`, at most [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// The most loops that will be asked for: the cache has a slot for each. Default: the folder's `n_loops`, else
    /// `max_loop_iters`.
    pub loops: Option<usize>,
    /// Sequences that can be held at once. Default: 1.
    pub sequences: Option<usize>,
    /// Rows of one pass. Default: [`DEFAULT_CHUNK`], fewer where the device's limits ask for it.
    pub chunk: Option<usize>,
    /// Who runs the loops that a token has no need of any more. Default: nobody, until a later token gets there.
    pub schedule: Schedule,
    /// Rows of older tokens that may catch up in one pass because a deeper token needs them; more of them take more passes. It
    /// bounds how long one pass can take. Default: [`DEFAULT_CATCH_UP`].
    pub catch_up: Option<usize>,
    /// Rows of older tokens that join each pass before anybody needs them, where there is room: the weights are read anyway, and a
    /// deep token finds less to catch up. Default: 0.
    pub eager: usize,
    /// How far the device may run ahead of what the host has seen. Default: by the kind of the device.
    pub pace: Option<Pace>,
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
    schedule: Schedule,
    catch_up: usize,
    eager: usize,
    pace: Pace,
    flight: flight::Flight,
    plans: HashMap<PlanKey, Plan>,
    needs: Needs,
}

/// The weights.
struct Net {
    embed: Matrix,
    prelude: Vec<Block>,
    recurrent: Recurrent,
    coda: Vec<Block>,
    norm: Tensor,
    angles: Tensor,
}

impl Engine {
    /// Loads a model. `progress` is called after every piece that was read. What it takes is counted before anything is allocated.
    ///
    /// Errors: whatever is wrong with the files ([`Error::File`], [`Error::Format`], [`Error::Config`], [`Error::Tensor`]), the
    /// options ([`Error::Argument`], [`Error::Context`], [`Error::Loops`]) or the device ([`Error::NoAdapter`],
    /// [`Error::TooSmall`], [`Error::Memory`], [`Error::Gpu`]).
    pub async fn load(source: &Source, options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Self> {
        // Everything about the files and the options is checked before a device is opened.
        let (weights, config, defaults, notes) = open(source)?;
        Sizes::choose(&config, &defaults, options)?;
        let backend = Backend::open(&options.device).await?;
        let engine = Self::build(backend, config, defaults, options, Filling::Files(&weights), progress)?;
        Ok(Self { notes, ..engine })
    }

    /// Loads a model onto a backend that is already open: on a device that the program made itself, for instance. The device
    /// in `options` is not looked at.
    pub fn load_on(backend: Backend, source: &Source, options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Self> {
        let (weights, config, defaults, notes) = open(source)?;
        let engine = Self::build(backend, config, defaults, options, Filling::Files(&weights), progress)?;
        Ok(Self { notes, ..engine })
    }

    /// A model of these sizes with weights that nobody has trained, made on the device: to time it. Its matrices are f32 where `options`
    /// ask for nothing else. Errors: those of [`load`](Self::load) that are not about files.
    pub async fn untrained(config: Config, options: &Options) -> Result<Self> {
        Sizes::choose(&config, &Defaults::default(), options)?;
        let backend = Backend::open(&options.device).await?;
        Self::build(backend, config, Defaults::default(), options, Filling::Noise, &mut |_| {})
    }

    /// Builds the model, unless it is known beforehand that the device has not the memory.
    fn build(
        backend: Backend,
        config: Config,
        defaults: Defaults,
        options: &Options,
        filling: Filling,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let weights = filling.weights();
        let imagined = backend.imagine();
        let plan = |options: &Options| Needs::count(imagined.imagine(), &config, &defaults, options, weights);
        let needs = plan(options)?;
        needs.check_memory(backend.info(), backend.memory(), options, &plan)?;
        let info = backend.info().clone();
        let built = Self::allocate(backend, &config, &defaults, options, filling, progress);
        // Counting has shown that every piece fits a binding: what is too small now is the memory.
        built.map_err(|error| match error {
            error @ Error::TooSmall { .. } => needs.refused(&info, &error, options, &plan),
            error => error,
        })
    }

    /// Allocates everything and fills the weights.
    fn allocate(
        mut backend: Backend,
        config: &Config,
        defaults: &Defaults,
        options: &Options,
        filling: Filling,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let sizes = Sizes::choose(config, defaults, options)?;
        check_kernels(config)?;
        check_driver(config, &sizes, &backend)?;
        let mut needs = Needs { context: sizes.context, loops: sizes.loops, sequences: sizes.sequences, ..Needs::default() };
        let mut allocated = 0;
        let mut since_then = |backend: &Backend| {
            let before = std::mem::replace(&mut allocated, backend.allocated_bytes());
            allocated - before
        };
        let slots = config.cache_slots(sizes.loops);
        // In addresses of 32 bits not every product of sizes that are right has room.
        let rows = sizes.sequences.checked_mul(sizes.context).and_then(|slot_rows| Some((slot_rows, slot_rows.checked_mul(slots)?)));
        let (slot_rows, rows) = rows.ok_or_else(|| Error::TooSmall {
            what: "the cache".into(),
            needed: format!("{slots} slots for {} sequences of {} positions", sizes.sequences, sizes.context),
            available: "fewer addresses".into(),
        })?;
        let pace = sizes.pace.unwrap_or_else(|| Pace::of(&backend));
        let work = Work::new(&mut backend, config, sizes.chunk, pace.group.min(sizes.loops).min(drive::MOST_PASSES))?;
        needs.work = since_then(&backend);
        let rows = backend.segmented("the cache", rows, config.cache_width(), slot_rows)?;
        let cache = CacheTensor { rows, slots, sequences: sizes.sequences, context: sizes.context };
        needs.cache = since_then(&backend);
        let states = States {
            h: backend.tensor("the states of all positions", Dtype::F32, slot_rows, config.dim)?,
            e: backend.tensor("the states of all positions", Dtype::F32, slot_rows, config.dim)?,
            context: sizes.context,
        };
        needs.states = since_then(&backend);
        let state = Progress { loaded: 0, total: filling.bytes(config)? };
        let mut loader = Loader { backend: &mut backend, filling, dtype: options.dtype, progress, state, matrices: BTreeMap::new() };
        let net = Net::load(&mut loader, config, &sizes, &work, states)?;
        needs.matrices = loader.matrices;
        needs.tables = since_then(&backend) - needs.matrices.values().sum::<u64>();
        Ok(Self {
            config: config.clone(),
            defaults: defaults.clone(),
            notes: Vec::new(),
            backend,
            net,
            cache,
            work,
            sequences: sequence::Slots::new(sizes.sequences),
            loops: sizes.loops,
            schedule: sizes.schedule,
            catch_up: sizes.catch_up,
            eager: sizes.eager,
            pace,
            flight: flight::Flight::default(),
            plans: HashMap::new(),
            needs,
        })
    }

    /// What the model takes on the device.
    pub fn needs(&self) -> &Needs {
        &self.needs
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
    pub fn allocated_bytes(&self) -> u64 {
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

    /// Who runs the loops that a token has no need of any more.
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// Changes the schedule for tokens from here on. The logits are the same either way.
    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.schedule = schedule;
    }

    /// How far the device may run ahead of what the host has seen.
    pub fn pace(&self) -> Pace {
        self.pace
    }
}

/// The files of a model, checked against each other; what is worth a note.
fn open(source: &Source) -> Result<(Weights<'_>, Config, Defaults, Vec<String>)> {
    let (config, defaults) = read_config(source)?;
    let weights = Weights::open(source)?;
    let notes = weights.check(&config.tensors())?;
    Ok((weights, config, defaults, notes))
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
    fn load(loader: &mut Loader, config: &Config, sizes: &Sizes, work: &Work, states: States) -> Result<Self> {
        let embed = loader.stacked(&[("embed.weight".into(), config.vocab_size)], config.dim)?;
        let dense = |loader: &mut Loader, prefix: String| {
            Ok(Block {
                attn_norm: Some(loader.small(&format!("{prefix}.attn_norm.weight"), &[config.dim])?),
                attention: Attention::load(loader, config, &prefix, &work.attention)?,
                ffn: Ffn::Dense(Dense::load(loader, config, &prefix, work.dense)?),
            })
        };
        let prelude = (0..config.prelude_layers).map(|i| dense(loader, format!("prelude.{i}"))).collect::<Result<_>>()?;
        let coda = (0..config.coda_layers).map(|i| dense(loader, format!("coda.{i}"))).collect::<Result<_>>()?;
        Ok(Self {
            embed,
            prelude,
            recurrent: Recurrent::load(loader, config, sizes.loops, &work.attention, work.moe, states)?,
            coda,
            norm: loader.small("norm.weight", &[config.dim])?,
            angles: loader.upload("RoPE table", (sizes.context, config.rope_dim()), || config.rope_rows(0, sizes.context))?,
        })
    }
}

impl Depth {
    /// An error unless these loops can be run with a cache for `limit` loops.
    fn check(&self, limit: usize) -> Result<()> {
        if !(1..=limit).contains(&self.loops) {
            return Err(Error::Loops { asked: self.loops, limit, of: "the cache" });
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
