//! Several sequences at once, each at its own pace: continuous batching over depth.
//!
//! A pass reads the weights of the loop once, for all rows that are in it, and rows of different sequences may stand at different
//! loops. So sequences join and leave between passes: one whose token has halted gets its prediction and can be fed the next token
//! while others still loop.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::model::drive::{Driver, Job};
use crate::model::{Depth, Engine, Logits, Output, Sequence};

/// Sequences that run together. Dropping it gives up what is under way; sequences that are still in it are freed.
pub struct Batch<'a> {
    engine: &'a mut Engine,
    driver: Driver,
    members: BTreeMap<usize, Member>,
    next_key: usize,
}

struct Member {
    sequence: Sequence,
    /// The job that feeds it, with the number of its tokens.
    job: Option<(usize, usize)>,
}

/// What became of tokens that were fed.
#[derive(Debug)]
pub struct Finished {
    /// The sequence, as [`Batch::insert`] named it.
    pub key: usize,
    /// What the tokens gave, or [`Error::NonFinite`]; then the sequence is as if they had never been fed, and the others go on.
    pub output: Result<Output>,
}

impl Engine {
    /// A batch without sequences. No other use can be made of the engine while it lives.
    pub async fn batch(&mut self) -> Result<Batch<'_>> {
        let driver = Driver::new(self).await?;
        Ok(Batch { engine: self, driver, members: BTreeMap::new(), next_key: 0 })
    }
}

impl Batch<'_> {
    /// The engine, to ask it things.
    pub fn engine(&self) -> &Engine {
        self.engine
    }

    /// Takes in a sequence; returns the key to call it by. Fails, and frees the sequence, only if it is another model's.
    pub fn insert(&mut self, sequence: Sequence) -> Result<usize> {
        self.engine.check_owner(&sequence)?;
        let key = self.next_key;
        self.next_key += 1;
        self.members.insert(key, Member { sequence, job: None });
        Ok(key)
    }

    /// Feeds tokens to a sequence. Errors as of [`Engine::forward`] before anything is computed; [`Error::Usage`] too while earlier
    /// tokens of it are under way.
    pub fn feed(&mut self, key: usize, tokens: &[u32], depth: Depth, logits: Logits) -> Result<()> {
        let Some(member) = self.members.get_mut(&key) else { return Err(no_such(key)) };
        if member.job.is_some() {
            return Err(Error::Usage { reason: format!("sequence {key} of the batch is still busy with the tokens fed before") });
        }
        self.engine.check_prompt_at(tokens, member.sequence.len, depth)?;
        let job = Job::new(member.sequence.slot, member.sequence.len, tokens, depth, logits);
        member.job = Some((self.driver.join(self.engine, job), tokens.len()));
        Ok(())
    }

    /// Runs until the tokens of at least one sequence are done, and returns those; empty if nobody is under way.
    ///
    /// Errors: [`Error::Gpu`], [`Error::DeviceLost`]; the batch is of no use after one.
    pub async fn next(&mut self) -> Result<Vec<Finished>> {
        while !self.driver.jobs.is_empty() && !self.driver.jobs.iter().any(Job::is_done) {
            self.driver.tick(self.engine).await?;
        }
        let mut finished = Vec::new();
        for (key, Member { sequence, job }) in &mut self.members {
            let Some((name, tokens)) = *job else { continue };
            let Some(at) = self.driver.jobs.iter().position(|job| job.key == name && job.is_done()) else { continue };
            *job = None;
            let ended = self.driver.jobs.remove(at);
            let output = match ended.failed {
                Some(error) => Err(error),
                None => Ok(ended.output),
            };
            sequence.len += if output.is_ok() { tokens } else { 0 };
            finished.push(Finished { key: *key, output });
        }
        Ok(finished)
    }

    /// Takes a sequence out, at any time. Tokens that were under way are as if they had never been fed.
    pub async fn remove(&mut self, key: usize) -> Result<Sequence> {
        let Some(name) = self.members.get(&key).map(|member| member.job) else { return Err(no_such(key)) };
        if let Some((name, _)) = name {
            self.driver.remove(self.engine, name).await?;
        }
        self.members.remove(&key).map(|member| member.sequence).ok_or_else(|| no_such(key))
    }
}

fn no_such(key: usize) -> Error {
    Error::Usage { reason: format!("there is no sequence {key} in this batch") }
}
