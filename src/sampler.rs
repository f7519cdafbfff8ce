//! Picks the next token from the model's logits.
//!
//! With candidates l₀ ≥ l₁ ≥ … (ties: the lowest id first), in this order:
//!
//! 1. temperature: wᵢ = exp((lᵢ − l₀) / temperature);
//! 2. top-k: only the first k stay;
//! 3. top-p: with pᵢ = wᵢ / Σ w over those that stayed, only the shortest beginning with Σ p ≥ top_p stays, so at least one;
//! 4. min-p: of those, only the ones with wᵢ ≥ min_p · w₀ stay, that is min_p times the largest probability;
//! 5. with one uniform number u in [0, 1), the token is the first with w₀ + … + wᵢ > u · Σ w over those that stayed.
//!
//! Temperature 0 is greedy: the first candidate, and no random number is drawn. All sums are f64 in the order of the
//! candidates, and the random numbers are PCG64 (O'Neill 2014) from the seed alone. So one seed gives one text on every
//! backend, as long as logits that differ by rounding do not change the order of two candidates or cross a boundary.

use crate::error::{Error, Result};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64;

/// The largest top-k that needs only [`Candidates::Best`].
pub const BEST: usize = 64;

/// How tokens are picked. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy, and then the other fields have no effect.
    pub temperature: f32,
    /// How many of the best candidates may be picked; 0 is off.
    pub top_k: usize,
    /// Share of the probability that the candidates kept must reach, in (0, 1]; 1 is off.
    pub top_p: f32,
    /// Smallest probability that is kept, as a share of the largest, in [0, 1); 0 is off.
    pub min_p: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

/// Which candidates [`Sampler::pick`] needs to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// The best one: greedy.
    One,
    /// The best so many (fewer where the vocabulary is smaller): always [`BEST`].
    Best(usize),
    /// The whole vocabulary.
    All,
}

/// One picked token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id.
    pub token: u32,
    /// Its log probability, natural, under the model itself: at temperature 1 and before any filter.
    pub logprob: f32,
}

impl Sampling {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Argument`] for a NaN, infinite or negative temperature, a top_p outside (0, 1], a min_p outside [0, 1).
    pub fn check(&self) -> Result<()> {
        let rules = [
            ("temperature", self.temperature, self.temperature >= 0.0 && self.temperature.is_finite(), "a number of at least 0"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "a number above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..1.0).contains(&self.min_p), "a number from 0 to below 1"),
        ];
        match rules.into_iter().find(|&(_, _, good, _)| !good) {
            Some((name, value, _, expected)) => {
                Err(Error::Argument { name: name.into(), expected: expected.into(), found: value.to_string() })
            }
            None => Ok(()),
        }
    }

    /// The candidates that this sampling needs.
    pub fn candidates(&self) -> Candidates {
        match self.top_k {
            _ if self.temperature == 0.0 => Candidates::One,
            1..=BEST => Candidates::Best(BEST),
            _ => Candidates::All,
        }
    }
}

/// All candidates of one row of logits, as [`Sampler::pick`] wants them: descending, ties by the lowest id. NaN comes
/// first, where `pick` will find it.
pub fn rank(logits: &[f32]) -> Vec<(u32, f32)> {
    // Adding 0 makes −0 a +0: the two are equal as logits but not to total_cmp.
    let mut candidates: Vec<(u32, f32)> = logits.iter().zip(0..).map(|(&logit, id)| (id, logit + 0.0)).collect();
    let key = |x: f32| if x.is_nan() { f32::INFINITY } else { x };
    candidates.sort_unstable_by(|a, b| key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0)));
    candidates
}

/// Picks token after token; holds the random numbers of one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: Pcg64,
}

impl Sampler {
    /// A sampler at the start of the random numbers of its seed.
    ///
    /// # Errors
    /// Those of [`Sampling::check`].
    pub fn new(sampling: Sampling) -> Result<Self> {
        sampling.check()?;
        Ok(Self { sampling, random: Pcg64::seed_from_u64(sampling.seed) })
    }

    /// Picks from (id, logit) pairs: those that [`Sampling::candidates`] asks for, or more of them, in the order of [`rank`].
    /// `log_sum_exp` is ln Σ exp(logit) over the whole vocabulary.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a logit that is NaN or +∞ and for a `log_sum_exp` that is not finite (a −∞ is a token that
    /// cannot be picked); [`Error::Usage`] for no candidate or candidates out of order. No random number is drawn then.
    pub fn pick(&mut self, candidates: &[(u32, f32)], log_sum_exp: f32) -> Result<Choice> {
        let Some(&(_, best)) = candidates.first() else {
            return Err(Error::Usage { reason: "there is no candidate to pick from".into() });
        };
        if !best.is_finite() || !log_sum_exp.is_finite() || candidates.iter().any(|c| c.1.is_nan()) {
            return Err(Error::NonFinite { place: "the logits".into() });
        }
        if !candidates.is_sorted_by(|a, b| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0)) {
            return Err(Error::Usage { reason: "the candidates must come in the order of rank()".into() });
        }
        let index = if self.sampling.temperature == 0.0 { 0 } else { self.draw(candidates, best) };
        let (token, logit) = candidates[index];
        // The difference of two rounded numbers can be a hair above 0; a probability cannot be above 1.
        Ok(Choice { token, logprob: (logit - log_sum_exp).min(0.0) })
    }

    /// Steps 1 to 5: the index of the candidate picked.
    fn draw(&mut self, candidates: &[(u32, f32)], best: f32) -> usize {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let kept = if top_k == 0 { candidates.len() } else { top_k.min(candidates.len()) };
        let weight = |logit: f32| ((f64::from(logit) - f64::from(best)) / f64::from(temperature)).exp();
        let mut weights: Vec<f64> = candidates[..kept].iter().map(|&(_, logit)| weight(logit)).collect();
        if top_p < 1.0 {
            let goal = f64::from(top_p) * weights.iter().sum::<f64>();
            weights.truncate(first_sum(&weights, |sum| sum >= goal) + 1);
        }
        // Descending, so that the ones to keep are a beginning; the first is 1 and always kept. What has no weight left could
        // otherwise be picked where u · Σ w rounds up to Σ w.
        weights.truncate(weights.partition_point(|&w| w > 0.0 && w >= f64::from(min_p)));
        // 53 random bits: every f64 multiple of 2^-53 in [0, 1).
        let u = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let goal = u * weights.iter().sum::<f64>();
        first_sum(&weights, |sum| sum > goal)
    }
}

/// The index at which the running sum first satisfies `reached`; the last index if rounding keeps it from ever doing so.
fn first_sum(weights: &[f64], reached: impl Fn(f64) -> bool) -> usize {
    let mut sum = 0.0;
    let found = weights.iter().position(|w| {
        sum += w;
        reached(sum)
    });
    found.unwrap_or(weights.len().saturating_sub(1))
}
