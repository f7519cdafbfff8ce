//! One forward pass: tokens of several sequences in, cut into chunks of rows, loop counts and logits out.

use crate::backend::Span;
use crate::error::{Error, Result};
use crate::model::defaults::Exit;
use crate::model::work::BEST;
use crate::model::{Depth, Engine, PlanKey, Sequence};

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

/// A row before it is written to the device.
pub(super) struct Row {
    token: u32,
    sequence: u32,
    position: u32,
    /// Whether its logits are wanted.
    pick: bool,
}

impl Row {
    /// Whether its logits are wanted.
    pub fn pick(&self) -> bool {
        self.pick
    }
}

impl Engine {
    /// Runs new tokens of one or several sequences and appends them to their caches.
    ///
    /// Errors: [`Error::EmptyPrompt`], [`Error::Token`], [`Error::Context`], [`Error::Loops`], [`Error::Usage`] before anything
    /// is computed; [`Error::NonFinite`], [`Error::Gpu`], [`Error::DeviceLost`] after. On an error no sequence has changed.
    pub async fn forward(&mut self, feeds: &mut [Feed<'_>], depth: Depth, logits: Logits) -> Result<Output> {
        let rows = self.rows(feeds, depth, logits.every)?;
        let best = logits.best.clamp(1, BEST.min(self.config.vocab_size));
        let mut output = Output::default();
        for chunk in rows.chunks(self.work.chunk) {
            self.write_rows(chunk, depth)?;
            let picks = chunk.iter().filter(|row| row.pick).count();
            self.replay(PlanKey { rows: chunk.len(), picks, best, depth }).await?;
            self.collect(chunk, depth, best, logits.all, &mut output).await?;
        }
        self.advance(feeds, depth);
        Ok(output)
    }

    /// Checks the feeds and lays them out as rows.
    pub(super) fn rows(&self, feeds: &[Feed<'_>], depth: Depth, every: bool) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for feed in feeds {
            self.check_owner(feed.sequence)?;
            self.check_tokens(feed.tokens, feed.sequence, depth)?;
            for (i, token) in feed.tokens.iter().enumerate() {
                rows.push(Row {
                    token: *token,
                    sequence: feed.sequence.slot as u32,
                    position: (feed.sequence.len + i) as u32,
                    pick: every || i + 1 == feed.tokens.len(),
                });
            }
        }
        if rows.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        Ok(rows)
    }

    /// Refuses tokens that cannot follow what a sequence holds.
    fn check_tokens(&self, tokens: &[u32], sequence: &Sequence, depth: Depth) -> Result<()> {
        self.check_prompt_at(tokens, sequence.len, depth)?;
        if sequence.len > 0 && depth.loops > sequence.filled {
            return Err(Error::Usage {
                reason: format!(
                    "{} loops asked for, but the tokens before were computed with {}: start a new sequence to go deeper",
                    depth.loops, sequence.filled
                ),
            });
        }
        Ok(())
    }

    /// Refuses tokens that cannot start a sequence, as [`forward`](Self::forward) would, without running anything.
    pub fn check_prompt(&self, tokens: &[u32], depth: Depth) -> Result<()> {
        self.check_prompt_at(tokens, 0, depth)
    }

    fn check_prompt_at(&self, tokens: &[u32], first: usize, depth: Depth) -> Result<()> {
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

    /// Writes the lists of a chunk: its rows at every loop, and the picks.
    pub(super) fn write_rows(&mut self, chunk: &[Row], depth: Depth) -> Result<()> {
        self.backend.count_pass(chunk.len() * depth.loops);
        let mut list: Vec<u32> = Vec::with_capacity(chunk.len() * 4);
        for t in 0..depth.loops {
            list.clear();
            list.extend(chunk.iter().flat_map(|row| [row.token, row.sequence, row.position, t as u32]));
            self.backend.write(&self.work.table, t * self.work.chunk * 4, bytemuck::cast_slice(&list))?;
        }
        let picks: Vec<u32> = chunk.iter().enumerate().filter(|(_, row)| row.pick).flat_map(|(i, _)| [i as u32, 0, 0, 0]).collect();
        self.backend.write(&self.work.table, self.work.picks_first() * 4, bytemuck::cast_slice(&picks))
    }

    /// Reads what a chunk gave, in one go.
    pub(super) async fn collect(&mut self, chunk: &[Row], depth: Depth, best: usize, all: bool, output: &mut Output) -> Result<()> {
        let first = output.rows.len();
        let picked: Vec<usize> = (0..chunk.len()).filter(|i| chunk[*i].pick).collect();
        let picks = picked.len();
        let (work, act) = (&self.work, &self.net.recurrent.state.act);
        let mut spans = vec![Span::rows(act, 0, chunk.len())];
        if picks > 0 {
            spans.extend([Span::rows(&work.values, 0, picks), Span::rows(&work.ids, 0, picks)]);
        }
        if picks > 0 && all {
            spans.push(Span::rows(&work.logits, 0, picks));
        }
        let (values_stride, ids_stride, logits_stride) = (work.values.stride, work.ids.stride, work.logits.stride);
        let read = self.backend.read(&spans).await?;
        let threshold = self.config.act_threshold;
        output.rows.extend(
            read[0]
                .chunks_exact(4)
                .map(|state| RowOutput { loops: state[1] as usize, halted: depth.exit == Exit::Model && state[0] >= threshold }),
        );
        for (pick, row) in picked.into_iter().enumerate() {
            let values = &read[1][pick * values_stride..][..2 + best];
            let ids: &[u32] = bytemuck::cast_slice(&read[2][pick * ids_stride..][..best]);
            if values[1] != 0.0 || !values[0].is_finite() {
                return Err(Error::NonFinite { place: format!("the logits at position {}", chunk[row].position) });
            }
            output.predictions.push(Prediction {
                row: first + row,
                best: ids.iter().copied().zip(values[2..].iter().copied()).collect(),
                log_sum_exp: values[0],
                logits: match read.get(3) {
                    Some(logits) => logits[pick * logits_stride..][..self.config.vocab_size].to_vec(),
                    None => Vec::new(),
                },
            });
        }
        Ok(())
    }

    /// Counts the new tokens into their sequences.
    pub(super) fn advance(&self, feeds: &mut [Feed<'_>], depth: Depth) {
        for feed in feeds {
            let sequence = &mut *feed.sequence;
            sequence.filled = if sequence.len == 0 { depth.loops } else { sequence.filled.min(depth.loops) };
            sequence.len += feed.tokens.len();
        }
    }
}
