//! A tiny random model and a script of what to do with it, drawn by the input's bytes: the schedule `lazy` gives what `full` gives.
//!
//! With `REFRAIN_FUZZ_GPU` in the environment, the name of a GPU, the case is played there, and every kernel is checked against its CPU
//! twin.

use std::sync::OnceLock;

use refrain::backend::{DeviceChoice, DeviceOptions};
use refrain::model::Pace;

use crate::lazy::case::{Attention, CONTEXT, Cap, Case, Op, Setup, Shape, Step};
use crate::lazy::check;

/// Draws the case, plays and judges it.
pub fn enter(data: &[u8]) {
    static DEVICE: OnceLock<DeviceOptions> = OnceLock::new();
    let device = DEVICE.get_or_init(|| match std::env::var("REFRAIN_FUZZ_GPU") {
        Ok(name) => DeviceOptions { device: DeviceChoice::Name(name), shadow: true, ..DeviceOptions::default() },
        Err(_) => DeviceOptions { device: DeviceChoice::Cpu, ..DeviceOptions::default() },
    });
    let case = Draw(data).case();
    if let Err(reason) = check::check(&case, device) {
        panic!("{reason}\n{case:#?}");
    }
}

/// Draws from bytes; zeros at their end. The ranges are those of the tests' own random cases.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn from(&mut self, least: usize, most: usize) -> usize {
        least + usize::from(self.byte()) % (most - least + 1)
    }

    fn between(&mut self, least: f32, most: f32) -> f32 {
        least + (most - least) * f32::from(u16::from_le_bytes([self.byte(), self.byte()])) / 65535.0
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.from(1, n) == n
    }

    fn option(&mut self, least: usize, most: usize) -> Option<usize> {
        self.one_in(2).then(|| self.from(least, most))
    }

    fn case(mut self) -> Case {
        let (model, setup) = (self.shape(), self.setup());
        // As many as there are bytes for.
        let mut script = vec![self.op()];
        while !self.0.is_empty() && script.len() < 20 {
            script.push(self.op());
        }
        Case { model, setup, script }
    }

    fn shape(&mut self) -> Shape {
        let attention = match self.one_in(2) {
            false => Attention::Gqa { kv_heads: self.from(1, 2), share: self.from(1, 3), head: 2 * self.from(2, 5) },
            true => Attention::Mla {
                dim: self.from(5, 19),
                heads: self.from(1, 3),
                ranks: (self.from(2, 9), self.from(2, 9)),
                half_rope: self.from(1, 3),
                nope: self.from(1, 5),
                value: self.from(1, 5),
            },
        };
        Shape {
            attention,
            vocabulary: self.from(3, 37),
            prelude: self.from(0, 1),
            coda: self.from(0, 1),
            experts: (self.from(1, 4), self.from(1, 4), self.from(0, 2), self.from(1, 7)),
            lora: (self.from(1, 3), self.from(1, 5)),
            threshold: if self.one_in(4) { 1.0 } else { self.between(0.3, 0.99).into() },
            seed: u64::from_le_bytes([0; 8].map(|_: u8| self.byte())),
            scale: self.between(0.15, 0.35),
            halting: (self.between(0.2, 1.5), self.between(-2.0, 2.0)),
            router_bias: self.between(0.0, 0.5),
        }
    }

    fn setup(&mut self) -> Setup {
        Setup {
            sequences: self.from(1, 3),
            loops: self.from(1, 9),
            chunk: self.option(1, 8),
            catch_up: self.option(1, 5),
            eager: if self.one_in(4) { self.from(1, 4) } else { 0 },
            pace: self.one_in(2).then(|| Pace { group: self.from(1, 4), ahead: self.from(0, 1) }),
        }
    }

    fn cap(&mut self) -> Cap {
        let loops = if self.one_in(2) { self.from(1, 9) } else { 9 };
        let min_loops = if self.one_in(4) { self.from(0, 5) } else { 0 };
        Cap { loops, min_loops, fixed: self.one_in(10) }
    }

    fn tokens(&mut self, most: usize) -> Vec<u32> {
        (0..self.from(1, most)).map(|_| self.byte().into()).collect()
    }

    fn op(&mut self) -> Op {
        let who = self.from(0, 2);
        match self.from(0, 9) {
            0..=3 => {
                let feeds = (0..self.from(1, 3)).map(|_| (self.from(0, 2), self.tokens(7))).collect();
                Op::Feed { feeds, cap: self.cap(), traced: self.one_in(2) }
            }
            4 => Op::Decode { who, tokens: self.tokens(5), cap: self.cap() },
            5 => Op::Fork { who, onto: self.from(0, 2) },
            6 => Op::Truncate { who, keep: self.from(0, CONTEXT - 1) },
            7 => Op::Anew { who },
            8 => Op::CatchUp { who, rows: self.from(1, 9) },
            _ => Op::Batch { steps: (0..self.from(1, 11)).map(|_| self.step()).collect(), abandon: self.one_in(5) },
        }
    }

    fn step(&mut self) -> Step {
        let who = self.from(0, 2);
        match self.from(0, 7) {
            0..=3 => Step::Feed { who, tokens: self.tokens(5), cap: self.cap() },
            4..=6 => Step::Next,
            _ => Step::Leave { who },
        }
    }
}
