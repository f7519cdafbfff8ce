//! What a property is tried on: a tiny model of random weights, the options of an engine, and a script of things to do with it.
//! Every script is valid for every model (numbers wrap around, what does not fit is left out), so that cases shrink freely.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use refrain::backend::DeviceOptions;
use refrain::model::defaults::Exit;
use refrain::model::files::Source;
use refrain::model::{Depth, Options, Pace};
use serde_json::{Value, json};

use crate::random;

/// Positions of every model.
pub const CONTEXT: usize = 48;

#[derive(Clone, Debug)]
pub struct Case {
    pub model: Shape,
    pub setup: Setup,
    pub script: Vec<Op>,
}

/// A model: its configuration without what depends on the attention, and how its weights are spread.
#[derive(Clone, Debug)]
pub struct Shape {
    pub attention: Attention,
    pub vocabulary: usize,
    pub prelude: usize,
    pub coda: usize,
    /// Routed experts, and how many of them (but not more than there are) each token uses; shared ones; their size.
    pub experts: (usize, usize, usize, usize),
    /// Rank, and rows of the table of scales.
    pub lora: (usize, usize),
    pub threshold: f64,
    pub seed: u64,
    pub scale: f32,
    /// Of the halting head: weights of about this size, and a bias. Together they make depths vary from token to token.
    pub halting: (f32, f32),
    pub router_bias: f32,
}

#[derive(Clone, Debug)]
pub enum Attention {
    Gqa { kv_heads: usize, share: usize, head: usize },
    Mla { dim: usize, heads: usize, ranks: (usize, usize), half_rope: usize, nope: usize, value: usize },
}

/// How the lazy engine is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    pub sequences: usize,
    pub loops: usize,
    pub chunk: Option<usize>,
    pub catch_up: Option<usize>,
    pub eager: usize,
    pub pace: Option<Pace>,
}

/// Loops of tokens, as far as the engine has so many.
#[derive(Clone, Copy, Debug)]
pub struct Cap {
    pub loops: usize,
    pub min_loops: usize,
    pub fixed: bool,
}

/// One thing to do. Sequences are numbered; the number wraps around.
#[derive(Clone, Debug)]
pub enum Op {
    /// Tokens of one or several sequences in one forward.
    Feed {
        feeds: Vec<(usize, Vec<u32>)>,
        cap: Cap,
        traced: bool,
    },
    /// Token after token.
    Decode {
        who: usize,
        tokens: Vec<u32>,
        cap: Cap,
    },
    /// The copy takes the place of another sequence.
    Fork {
        who: usize,
        onto: usize,
    },
    /// Keeps so many tokens, wrapping around.
    Truncate {
        who: usize,
        keep: usize,
    },
    /// Dropped, and begun anew in the same place.
    Anew {
        who: usize,
    },
    CatchUp {
        who: usize,
        rows: usize,
    },
    /// Sequences join a batch when they are fed. With `abandon` it is dropped with whoever is under way, else run to the end.
    Batch {
        steps: Vec<Step>,
        abandon: bool,
    },
}

#[derive(Clone, Debug)]
pub enum Step {
    Feed { who: usize, tokens: Vec<u32>, cap: Cap },
    Next,
    Leave { who: usize },
}

pub fn case() -> impl Strategy<Value = Case> {
    (shape(), setup(), vec(op(), 1..20)).prop_map(|(model, setup, script)| Case { model, setup, script })
}

fn shape() -> impl Strategy<Value = Shape> {
    let gqa = (1..=2usize, 1..=3usize, 2..=5usize).prop_map(|(kv_heads, share, half)| Attention::Gqa { kv_heads, share, head: 2 * half });
    let mla = (5..=19usize, 1..=3usize, (2..=9usize, 2..=9usize), 1..=3usize, 1..=5usize, 1..=5usize)
        .prop_map(|(dim, heads, ranks, half_rope, nope, value)| Attention::Mla { dim, heads, ranks, half_rope, nope, value });
    let threshold = prop_oneof![3 => 0.3..0.99, 1 => Just(0.99), 1 => Just(1.0)];
    let sizes = (prop_oneof![gqa, mla], 3..=37usize, 0..=1usize, 0..=1usize);
    let loop_sizes = ((1..=4usize, 1..=4usize, 0..=2usize, 1..=7usize), (1..=3usize, 1..=5usize), threshold);
    // What has no small values that are simpler does not shrink.
    // Larger weights than these amplify rounding from loop to loop, until correct programs are too far apart.
    let weights = (any::<u64>().no_shrink(), 0.15f32..0.35, (0.2f32..1.5, -2f32..2.0), 0f32..0.5);
    (sizes, loop_sizes, weights).prop_map(|((attention, vocabulary, prelude, coda), (experts, lora, threshold), weights)| {
        let (seed, scale, halting, router_bias) = weights;
        Shape { attention, vocabulary, prelude, coda, experts, lora, threshold, seed, scale, halting, router_bias }
    })
}

fn setup() -> impl Strategy<Value = Setup> {
    let pace = (1..=4usize, 0..=1usize).prop_map(|(group, ahead)| Pace { group, ahead });
    let limits = (option::of(1..=8usize), option::of(1..=5usize), prop_oneof![3 => Just(0), 1 => 1..=4usize]);
    (prop_oneof![1 => Just(1usize), 4 => 2..=3usize], prop_oneof![1 => 1..=3usize, 3 => 4..=9usize], limits, option::of(pace))
        .prop_map(|(sequences, loops, (chunk, catch_up, eager), pace)| Setup { sequences, loops, chunk, catch_up, eager, pace })
}

fn cap() -> impl Strategy<Value = Cap> {
    // Mostly all that there are; also fewer, so that what follows finds tokens that were fed with another cap.
    let loops = prop_oneof![3 => Just(9), 2 => 1..=9usize];
    let min_loops = prop_oneof![3 => Just(0), 1 => 0..=5usize];
    (loops, min_loops, prop::bool::weighted(0.1)).prop_map(|(loops, min_loops, fixed)| Cap { loops, min_loops, fixed })
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..3usize;
    let feeds = prop_oneof![2 => vec((who.clone(), tokens(7)), 1..=1), 1 => vec((who.clone(), tokens(7)), 2..=3)];
    let step = prop_oneof![
        4 => (who.clone(), tokens(5), cap()).prop_map(|(who, tokens, cap)| Step::Feed { who, tokens, cap }),
        3 => Just(Step::Next),
        1 => who.clone().prop_map(|who| Step::Leave { who }),
    ];
    prop_oneof![
        6 => (feeds, cap(), prop::bool::weighted(0.4)).prop_map(|(feeds, cap, traced)| Op::Feed { feeds, cap, traced }),
        3 => (who.clone(), tokens(5), cap()).prop_map(|(who, tokens, cap)| Op::Decode { who, tokens, cap }),
        1 => (who.clone(), who.clone()).prop_map(|(who, onto)| Op::Fork { who, onto }),
        1 => (who.clone(), 0..CONTEXT).prop_map(|(who, keep)| Op::Truncate { who, keep }),
        1 => who.clone().prop_map(|who| Op::Anew { who }),
        1 => (who, 1..=9usize).prop_map(|(who, rows)| Op::CatchUp { who, rows }),
        2 => (vec(step, 1..12), prop::bool::weighted(0.2)).prop_map(|(steps, abandon)| Op::Batch { steps, abandon }),
    ]
}

fn tokens(most: usize) -> impl Strategy<Value = Vec<u32>> {
    vec(0..37u32, 1..=most)
}

impl Shape {
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The model in memory.
    pub fn source(&self) -> Source {
        let (halting, bias) = self.halting;
        random::in_memory(&self.config(), self.seed, |name, unit| match name {
            "embed.weight" => unit,
            "recurrent.act.halt.weight" => halting * unit,
            "recurrent.act.halt.bias" => bias,
            name if name.ends_with("router.weight") => unit,
            name if name.ends_with("router_bias") => self.router_bias * unit,
            name if name.contains("norm") => 1.0 + 0.1 * unit,
            _ => self.scale * unit,
        })
    }

    fn config(&self) -> Value {
        let (experts, chosen, shared, expert_dim) = self.experts;
        let mut config = json!({
            "vocab_size": self.vocabulary, "max_seq_len": CONTEXT, "max_loop_iters": self.lora.1, "lora_rank": self.lora.0,
            "prelude_layers": self.prelude, "coda_layers": self.coda, "n_experts": experts, "n_experts_per_tok": chosen.min(experts),
            "n_shared_experts": shared, "expert_dim": expert_dim, "act_threshold": self.threshold, "rope_theta": 10000.0
        });
        let attention = match self.attention {
            Attention::Gqa { kv_heads, share, head } => json!({
                "attn_type": "gqa", "dim": kv_heads * share * head, "n_heads": kv_heads * share, "n_kv_heads": kv_heads
            }),
            Attention::Mla { dim, heads, ranks, half_rope, nope, value } => json!({
                "attn_type": "mla", "dim": dim, "n_heads": heads, "kv_lora_rank": ranks.0, "q_lora_rank": ranks.1,
                "qk_rope_head_dim": 2 * half_rope, "qk_nope_head_dim": nope, "v_head_dim": value
            }),
        };
        for (field, value) in attention.as_object().into_iter().flatten() {
            config[field] = value.clone();
        }
        config
    }
}

impl Setup {
    pub fn options(&self, device: DeviceOptions) -> Options {
        Options {
            device,
            loops: Some(self.loops),
            sequences: Some(self.sequences),
            chunk: self.chunk,
            catch_up: self.catch_up,
            eager: self.eager,
            pace: self.pace,
            ..Options::default()
        }
    }
}

impl Cap {
    /// The depth on an engine that has so many loops.
    pub fn depth(self, most: usize) -> Depth {
        let loops = self.loops.min(most);
        Depth { loops, min_loops: self.min_loops.min(loops), exit: if self.fixed { Exit::Fixed } else { Exit::Model } }
    }
}
