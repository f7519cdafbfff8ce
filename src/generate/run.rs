//! One generation, step by step: a pass over the prompt, then a pass a token.

use std::collections::VecDeque;

use web_time::Instant;

use crate::backend::Counters;
use crate::error::Result;
use crate::generate::stop::Stop;
use crate::generate::{Choice, Finish, Halt, Params, Role, Step};
use crate::model::defaults::Exit;
use crate::model::{Depth, Detail, Engine, Feed, Logits, Output, PassTrace, Prediction, RowOutput, Sequence, TokenTrace};
use crate::sampler::{self, Candidates, Sampler, Sampling};
use crate::tokenizer::{TextStream, Tokenizer};

/// The state of a generation.
pub(super) struct Run<'a> {
    engine: &'a mut Engine,
    tokenizer: Option<&'a Tokenizer>,
    text: Option<TextStream<'a>>,
    stop: Stop,
    sampler: Sampler,
    candidates: Candidates,
    sequence: Sequence,
    depth: Depth,
    prompt: Vec<u32>,
    /// Steps that are ready.
    ready: VecDeque<Step>,
    /// The token to run next, with its log-probability. `None` before the prompt was run.
    next: Option<(u32, f32)>,
    /// Output tokens still to come.
    left: usize,
    /// Tokens that end the output; they are not part of it.
    eos: Vec<u32>,
    echo: bool,
    in_place: bool,
    started: bool,
    detail: Option<Detail>,
    /// What the device had done at the last step.
    counted: Counters,
    /// What was taken down and not given to a step yet: of the tokens of the last pass, and of passes.
    traces: VecDeque<TokenTrace>,
    passes: Vec<PassTrace>,
}

impl<'a> Run<'a> {
    /// Checks everything that can be checked before a pass.
    pub fn new(engine: &'a mut Engine, tokenizer: Option<&'a Tokenizer>, prompt: Vec<u32>, params: Params) -> Result<Self> {
        let defaults = engine.defaults().clone();
        let sampling = params.sampling.unwrap_or_else(|| Sampling {
            temperature: defaults.temperature.unwrap_or(0.0),
            top_k: defaults.top_k.unwrap_or(0),
            top_p: defaults.top_p.unwrap_or(1.0),
            min_p: defaults.min_p.unwrap_or(0.0),
            seed: 0,
        });
        let own = engine.default_depth();
        let loops = params.loops.unwrap_or(own.loops);
        let depth = Depth {
            loops,
            // A folder's default gives way to a smaller number of loops; what the caller asks for does not.
            min_loops: params.min_loops.unwrap_or(own.min_loops.min(loops)),
            exit: params.exit.unwrap_or(own.exit),
        };
        engine.check_prompt(&prompt, depth)?;
        let left = match (params.in_place, params.max_tokens) {
            (true, _) => 0,
            (false, Some(asked)) => {
                engine.check_room(prompt.len().saturating_add(asked))?;
                asked
            }
            (false, None) => {
                let most = defaults.max_new_tokens.unwrap_or(engine.config().max_output_tokens);
                most.min(engine.context() - prompt.len())
            }
        };
        Ok(Self {
            sequence: engine.sequence()?,
            counted: engine.counters(),
            engine,
            tokenizer,
            text: tokenizer.map(TextStream::new),
            stop: Stop::new(params.stop),
            candidates: sampling.candidates(),
            sampler: Sampler::new(sampling)?,
            depth,
            prompt,
            ready: VecDeque::new(),
            next: None,
            left,
            eos: defaults.eos_token_id,
            echo: params.echo,
            in_place: params.in_place,
            started: false,
            detail: params.trace,
            traces: VecDeque::new(),
            passes: Vec::new(),
        })
    }

    /// The next step, `None` at the end.
    pub async fn step(&mut self) -> Result<Option<Step>> {
        if !self.started {
            self.started = true;
            self.run_prompt().await?;
        }
        if let Some(step) = self.ready.pop_front() {
            return Ok(Some(step));
        }
        let Some((token, logprob)) = self.next.filter(|_| self.left > 0) else { return Ok(None) };
        self.left -= 1;
        let begun = Instant::now();
        let output = self.forward(&[token], self.logits(false)).await?;
        let (Some(row), Some(prediction)) = (output.rows.first(), output.predictions.first()) else { return Ok(None) };
        let picked = self.pick_next(prediction)?;
        let (mut text, stopped) = match &mut self.text {
            Some(stream) => self.stop.push(&stream.push(token)?),
            None => (String::new(), false),
        };
        if stopped {
            self.left = 0;
        } else if self.left == 0 {
            text.push_str(&self.last_text()?);
        }
        let finish = match (stopped, self.eos.contains(&picked.0), self.left) {
            (true, ..) => Some(Finish::Stop),
            (_, true, _) => Some(Finish::End),
            (.., 0) => Some(Finish::Length),
            _ => None,
        };
        let (exit, next) = (self.exit(row), self.choice(picked));
        let index = self.sequence.len() - 1;
        let (loops, logprob) = (row.loops, Some(logprob));
        let (debt, reached) = self.standing().await?;
        let (work, trace, passes) = (self.work(), self.traces.pop_front(), std::mem::take(&mut self.passes));
        let (role, time) = (Role::Output, begun.elapsed());
        Ok(Some(Step { index, role, token, text, logprob, loops, exit, time, next, finish, work, debt, reached, trace, passes }))
    }

    /// Runs the prompt; makes its steps if they are wanted.
    async fn run_prompt(&mut self) -> Result<()> {
        let begun = Instant::now();
        let prompt = std::mem::take(&mut self.prompt);
        let every = self.echo || self.in_place;
        let output = self.forward(&prompt, self.logits(every)).await?;
        if let Some(last) = output.predictions.last().filter(|_| !self.in_place) {
            self.pick_next(last)?;
        }
        if every {
            let time = begun.elapsed() / prompt.len() as u32;
            let mut stream = self.tokenizer.map(TextStream::new);
            let (debt, reached) = self.standing().await?;
            for (index, (token, row)) in prompt.iter().zip(&output.rows).enumerate() {
                let prediction = &output.predictions[index];
                // The last position's prediction is the first output, where there is one.
                let best = match self.next.filter(|_| index + 1 == prompt.len()) {
                    Some(picked) => picked,
                    None => likeliest(prediction),
                };
                let before = index.checked_sub(1).map(|before| &output.predictions[before]);
                let logprob = before.and_then(|p| p.logits.get(*token as usize).map(|logit| logit - p.log_sum_exp));
                let text = match &mut stream {
                    Some(stream) => stream.push(*token)?,
                    None => String::new(),
                };
                let (loops, exit, next) = (row.loops, self.exit(row), self.choice(best));
                let (work, trace, passes) = (self.work(), self.traces.pop_front(), std::mem::take(&mut self.passes));
                let (role, token) = (Role::Prompt, *token);
                let finish = (self.in_place && index + 1 == prompt.len()).then_some(Finish::InPlace);
                let reached = reached.clone();
                let step = Step { index, role, token, text, logprob, loops, exit, time, next, finish, work, debt, reached, trace, passes };
                self.ready.push_back(step);
            }
        }
        Ok(())
    }

    async fn forward(&mut self, tokens: &[u32], logits: Logits) -> Result<Output> {
        let feed = Feed { sequence: &mut self.sequence, tokens };
        let Some(detail) = self.detail else { return self.engine.forward(&mut [feed], self.depth, logits).await };
        let (output, trace) = self.engine.forward_traced(&mut [feed], self.depth, logits, detail).await?;
        self.traces = trace.tokens.into();
        self.passes.extend(trace.passes);
        Ok(output)
    }

    /// What the device did since this was last asked.
    fn work(&mut self) -> Counters {
        let counters = self.engine.counters();
        counters.since(&std::mem::replace(&mut self.counted, counters))
    }

    /// What was put off, and the staircase of the cache where it is wanted.
    async fn standing(&mut self) -> Result<(usize, Vec<usize>)> {
        let ledger = self.engine.ledger(&self.sequence).await?;
        let deepest = if self.detail.is_some() { ledger.deepest() } else { 0 };
        Ok((ledger.debt(self.depth.loops), (0..deepest).map(|t| ledger.done(t)).collect()))
    }

    /// What to read back: the candidates that the sampling needs, or every logit.
    fn logits(&self, every: bool) -> Logits {
        let best = match self.candidates {
            Candidates::Best(best) => best,
            Candidates::One | Candidates::All => 1,
        };
        // Log-probabilities of the prompt's own tokens need all logits.
        Logits { every, best, all: self.candidates == Candidates::All || (every && self.echo) }
    }

    /// Picks the token to run next. One that ends the output leaves nothing to come.
    fn pick_next(&mut self, prediction: &Prediction) -> Result<(u32, f32)> {
        let choice = match self.candidates {
            Candidates::All => self.sampler.pick(&sampler::rank(&prediction.logits), prediction.log_sum_exp)?,
            _ => self.sampler.pick(&prediction.best, prediction.log_sum_exp)?,
        };
        self.next = Some((choice.token, choice.logprob));
        if self.eos.contains(&choice.token) {
            self.left = 0;
        }
        Ok((choice.token, choice.logprob))
    }

    fn exit(&self, row: &RowOutput) -> Halt {
        match (self.depth.exit, row.halted) {
            (Exit::Fixed, _) => Halt::Fixed,
            (Exit::Model, true) => Halt::Halted,
            (Exit::Model, false) => Halt::Max,
        }
    }

    fn choice(&self, (token, logprob): (u32, f32)) -> Choice {
        Choice { token, text: self.tokenizer.and_then(|t| t.text(token)).unwrap_or_default(), logprob }
    }

    /// What was held back, at the end of the output.
    fn last_text(&mut self) -> Result<String> {
        let mut text = String::new();
        if let Some(stream) = self.text.take() {
            let (shown, stopped) = self.stop.push(&stream.finish()?);
            text.push_str(&shown);
            if stopped {
                return Ok(text);
            }
        }
        text.push_str(&self.stop.finish());
        Ok(text)
    }
}

fn likeliest(prediction: &Prediction) -> (u32, f32) {
    prediction.best.first().map_or((0, f32::NEG_INFINITY), |(token, logit)| (*token, (logit - prediction.log_sum_exp).min(0.0)))
}
