//! One forward pass: tokens of several sequences in, loop counts and logits out.

use crate::error::{Error, Result};
use crate::model::drive::{Driver, Job};
use crate::model::trace::Watch;
use crate::model::{Depth, Detail, Engine, Sequence, Trace};

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Feed<'a> {
    /// The sequence that they continue.
    pub sequence: &'a mut Sequence,
    /// The tokens.
    pub tokens: &'a [u32],
}

/// Which predictions are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logits {
    /// Whether for every token, or only for the last of each feed.
    pub every: bool,
    /// The number of best candidates, 1 to 64.
    pub best: usize,
    /// Whether all logits are wanted too.
    pub all: bool,
}

impl Logits {
    /// The best token after the last of each feed: greedy decoding.
    pub const GREEDY: Logits = Logits { every: false, best: 1, all: false };
}

/// What became of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowOutput {
    /// Loops until it halted, or all that it was allowed.
    pub loops: usize,
    /// Whether its halting mass reached the threshold.
    pub halted: bool,
}

/// The prediction made at one token.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The token's index in the order of the feeds.
    pub row: usize,
    /// The best next tokens with their logits, descending, ties to the lowest id.
    pub best: Vec<(u32, f32)>,
    /// log Σ e^logit: a logit minus this is a log-probability.
    pub log_sum_exp: f32,
    /// All logits, where they were asked for; else empty.
    pub logits: Vec<f32>,
}

/// What a forward pass gives, in the order of the feeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// One a token.
    pub rows: Vec<RowOutput>,
    /// One a token, or one a feed.
    pub predictions: Vec<Prediction>,
}

impl Engine {
    /// Runs new tokens of one or several sequences and appends them to their caches.
    ///
    /// Errors: [`Error::EmptyPrompt`], [`Error::Token`], [`Error::Context`], [`Error::Loops`], [`Error::Usage`] before anything
    /// is computed; [`Error::NonFinite`], [`Error::Gpu`], [`Error::DeviceLost`] after. On an error no sequence has changed.
    pub async fn forward(&mut self, feeds: &mut [Feed<'_>], depth: Depth, logits: Logits) -> Result<Output> {
        Ok(self.drive(feeds, depth, logits, None).await?.0)
    }

    /// As [`forward`](Self::forward), with what happened to every token in every loop. It reads back after every step, so it is slow.
    /// Under [`Schedule::Lazy`](crate::model::Schedule) a token has only the loops that somebody needed.
    pub async fn forward_traced(
        &mut self,
        feeds: &mut [Feed<'_>],
        depth: Depth,
        logits: Logits,
        detail: Detail,
    ) -> Result<(Output, Trace)> {
        let (output, trace) = self.drive(feeds, depth, logits, Some(Watch::new(detail))).await?;
        Ok((output, trace.unwrap_or_default()))
    }

    async fn drive(
        &mut self,
        feeds: &mut [Feed<'_>],
        depth: Depth,
        logits: Logits,
        watch: Option<Watch>,
    ) -> Result<(Output, Option<Trace>)> {
        if feeds.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        for feed in feeds.iter() {
            self.check_owner(feed.sequence)?;
            self.check_prompt_at(feed.tokens, feed.sequence.len, depth)?;
        }
        let mut driver = Driver::new(self).await?;
        driver.watch = watch;
        for feed in feeds.iter() {
            driver.join(self, Job::new(feed.sequence.slot, feed.sequence.len, feed.tokens, depth, logits));
        }
        driver.run(self).await?;
        let mut output = Output::default();
        if let Some(error) = driver.jobs.iter_mut().find_map(|job| job.failed.take()) {
            return Err(error);
        }
        for job in driver.jobs {
            let first = output.rows.len();
            output.rows.extend(job.output.rows);
            output.predictions.extend(job.output.predictions.into_iter().map(|p| Prediction { row: first + p.row, ..p }));
        }
        let trace = driver.watch.map(|watch| {
            let positions = |feed: &Feed| feed.sequence.len..feed.sequence.len + feed.tokens.len();
            watch.finish(feeds.iter().flat_map(|feed| positions(feed).map(|position| (feed.sequence.slot, position))))
        });
        feeds.iter_mut().for_each(|feed| feed.sequence.len += feed.tokens.len());
        Ok((output, trace))
    }

    /// Refuses tokens that cannot start a sequence, as [`forward`](Self::forward) would, without running anything.
    pub fn check_prompt(&self, tokens: &[u32], depth: Depth) -> Result<()> {
        self.check_prompt_at(tokens, 0, depth)
    }

    pub(super) fn check_prompt_at(&self, tokens: &[u32], first: usize, depth: Depth) -> Result<()> {
        depth.check(self.loops)?;
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let vocab_size = self.config.vocab_size;
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(Error::Token { token: *token, vocab_size });
        }
        self.check_room(first + tokens.len())
    }

    /// An error where a sequence cannot have so many positions.
    pub fn check_room(&self, positions: usize) -> Result<()> {
        let limit = self.cache.context;
        if positions <= limit {
            return Ok(());
        }
        let of = if limit == self.config.max_seq_len { "max_seq_len" } else { "the cache (--ctx-size)" };
        Err(Error::Context { asked: positions, limit, of })
    }
}
