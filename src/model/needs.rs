//! What a model takes on a device, counted before anything is allocated: the model is built on an imagined device, by the same code that
//! builds the real one. And what would make it fit, where it does not.

use std::collections::BTreeMap;

use super::config::Config;
use super::defaults::Defaults;
use super::loader::Filling;
use super::{Engine, Options};
use crate::backend::{Backend, DeviceInfo};
use crate::error::{Error, Remedy, Result, size};
use crate::model::files::Weights;
use crate::precision::Precision;

/// The sizes that a model is loaded with, and the bytes that follow. Buffers through which results are read are made on demand and do
/// not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Positions of each sequence.
    pub context: usize,
    /// Loops that the cache has slots for.
    pub loops: usize,
    /// Sequences.
    pub sequences: usize,
    /// Bytes of the weight matrices in each precision, scales included.
    pub matrices: BTreeMap<Precision, u64>,
    /// Bytes of what is always f32: router, norms, LoRA, halting head, and the tables of positions and loops.
    pub tables: u64,
    /// Bytes of the cache of all sequences.
    pub cache: u64,
    /// Bytes of the states at which the loop stands at every cached position, of all sequences.
    pub states: u64,
    /// Bytes of the tensors that a pass works on, and of the parameters of kernels.
    pub work: u64,
}

impl Needs {
    /// What loading a model of this config with these options takes on a device, and why the device cannot hold it where that is known.
    /// `weights` tell the precision of each matrix where the options do not; without them it is f32.
    ///
    /// # Errors
    /// Those of options that no device can serve.
    pub fn of(
        info: &DeviceInfo,
        config: &Config,
        defaults: &Defaults,
        options: &Options,
        weights: Option<&Weights>,
    ) -> Result<(Self, Option<Error>)> {
        let backend = Backend::imagined(info, &options.device);
        let memory = backend.memory();
        let plan = |options: &Options| Self::count(backend.imagine(), config, defaults, options, weights);
        match plan(options) {
            Ok(needs) => {
                let fault = needs.check_memory(info, memory, options, &plan).err();
                Ok((needs, fault))
            }
            // A piece is too large for this device: counted as if it were not.
            Err(fault @ Error::TooSmall { .. }) => {
                let boundless = Backend::imagined(&DeviceInfo::cpu(), &Default::default());
                Ok((Self::count(boundless, config, defaults, options, weights)?, Some(fault)))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn count(
        backend: Backend,
        config: &Config,
        defaults: &Defaults,
        options: &Options,
        weights: Option<&Weights>,
    ) -> Result<Self> {
        Engine::allocate(backend, config, defaults, options, Filling::Nothing(weights), &mut |_| {}).map(|engine| engine.needs)
    }

    /// Bytes of all weights.
    pub fn weights(&self) -> u64 {
        self.matrices.values().sum::<u64>() + self.tables
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.weights() + self.cache + self.states + self.work
    }

    /// [`Error::Memory`] where it is known that the device has less memory than that. `plan` counts for other options.
    pub(super) fn check_memory(
        &self,
        info: &DeviceInfo,
        memory: Option<u64>,
        options: &Options,
        plan: &dyn Fn(&Options) -> Result<Needs>,
    ) -> Result<()> {
        match memory {
            Some(memory) if memory < self.total() => Err(Error::Memory {
                device: info.name.clone(),
                needed: self.total(),
                available: Some(memory),
                parts: self.parts(),
                advice: self.advice(memory, options, plan),
            }),
            _ => Ok(()),
        }
    }

    /// The error of a device that refused an allocation, which nobody knew beforehand.
    pub(super) fn refused(&self, info: &DeviceInfo, reason: &Error, options: &Options, plan: &dyn Fn(&Options) -> Result<Needs>) -> Error {
        Error::Memory {
            device: info.name.clone(),
            needed: self.total(),
            available: None,
            parts: format!("{}; it got as far as this: {reason}", self.parts()),
            advice: self.advice(self.total() / 2, options, plan),
        }
    }

    /// "matrices 4.1 GiB in f32, other weights …".
    fn parts(&self) -> String {
        let matrices: Vec<String> = self.matrices.iter().map(|(precision, bytes)| format!("{} in {precision}", size(*bytes))).collect();
        let sizes = format!("context {}, loops {}, sequences {}", self.context, self.loops, self.sequences);
        format!(
            "matrices {}, other weights {}, cache {} ({sizes}), states {}, work {}",
            matrices.join(" and "),
            size(self.tables),
            size(self.cache),
            size(self.states),
            size(self.work)
        )
    }

    /// What would make it fit into `memory` bytes: the largest dtype below the present ones, or half, a quarter, … of one of the other
    /// sizes; where none does so alone, the largest dtype with which one of the others does; else all of them together.
    fn advice(&self, memory: u64, options: &Options, plan: &dyn Fn(&Options) -> Result<Needs>) -> Vec<Remedy> {
        let fits = |remedy: &Remedy| plan(&options.remedied(remedy)).is_ok_and(|needs| needs.total() <= memory);
        let halves = |now: usize, least: usize| std::iter::successors(Some(now / 2), |n| Some(n / 2)).take_while(move |n| *n >= least);
        // Each of the other sizes beside this dtype.
        let others = |dtype: Option<Precision>| {
            let with = Remedy { dtype, ..Remedy::default() };
            [
                halves(self.context, LEAST_CONTEXT).map(|n| Remedy { context: Some(n), ..with }).find(&fits),
                halves(self.loops, 1).map(|n| Remedy { loops: Some(n), ..with }).find(&fits),
                halves(self.sequences, 1).map(|n| Remedy { sequences: Some(n), ..with }).find(&fits),
            ]
        };
        let now = self.matrices.keys().copied().max().unwrap_or(Precision::F32);
        let smaller = || Precision::ALL.into_iter().rev().filter(|precision| *precision < now);
        let dtype = smaller().map(|dtype| Remedy { dtype: Some(dtype), ..Remedy::default() }).find(&fits);
        let alone: Vec<Remedy> = dtype.into_iter().chain(others(None).into_iter().flatten()).collect();
        if !alone.is_empty() {
            return alone;
        }
        smaller()
            .map(|dtype| others(Some(dtype)).into_iter().flatten().collect::<Vec<_>>())
            .find(|ways| !ways.is_empty())
            .unwrap_or_else(|| self.together(&fits))
    }

    /// The smallest dtype and sequence, then loops and context halved in turn until it fits.
    fn together(&self, fits: &dyn Fn(&Remedy) -> bool) -> Vec<Remedy> {
        let (mut context, mut loops) = (self.context, self.loops);
        while context > LEAST_CONTEXT || loops > 1 {
            (context, loops) = ((context / 2).max(LEAST_CONTEXT.min(context)), (loops / 2).max(1));
            let sequences = (self.sequences > 1).then_some(1);
            let remedy = Remedy { dtype: Some(Precision::Q4), context: Some(context), loops: Some(loops), sequences };
            if fits(&remedy) {
                return vec![remedy];
            }
        }
        Vec::new()
    }
}

/// A context below this is no advice.
const LEAST_CONTEXT: usize = 16;

impl Options {
    /// These options with the sizes that a remedy names.
    pub fn remedied(&self, remedy: &Remedy) -> Self {
        Self {
            dtype: remedy.dtype.or(self.dtype),
            context: remedy.context.or(self.context),
            loops: remedy.loops.or(self.loops),
            sequences: remedy.sequences.or(self.sequences),
            ..self.clone()
        }
    }
}
