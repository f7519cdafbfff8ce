//! Sampling: greedy, each filter alone, their order, the random numbers, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use refrain::sampler::{Candidates, Sampler, Sampling, rank};
use std::collections::BTreeMap;

/// Tokens with the share of the picks that each should have.
type Shares<'a> = &'a [(u32, f64)];
/// Candidates, in order or not.
type Ranked<'a> = &'a [(u32, f32)];

/// Logits whose softmax at temperature 1 is `p`.
fn logits(p: &[f32]) -> Vec<f32> {
    p.iter().map(|p| p.ln()).collect()
}

/// The share of each token over many picks.
fn shares(sampling: Sampling, candidates: &[(u32, f32)]) -> BTreeMap<u32, f64> {
    let mut sampler = Sampler::new(sampling).unwrap();
    let (n, mut counts) = (40_000, BTreeMap::new());
    for _ in 0..n {
        *counts.entry(sampler.pick(candidates, 0.0).unwrap().token).or_insert(0.0) += 1.0 / f64::from(n);
    }
    counts
}

#[test]
fn filters_keep_what_they_should() {
    let candidates = rank(&logits(&[0.1, 0.4, 0.2, 0.05, 0.25]));
    let base = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
    let table: [(&str, Sampling, Shares<'_>); 9] = [
        ("nothing", base, &[(0, 0.1), (1, 0.4), (2, 0.2), (3, 0.05), (4, 0.25)]),
        (
            "temperature 0.5 squares",
            Sampling { temperature: 0.5, ..base },
            &[(0, 0.0364), (1, 0.5818), (2, 0.1455), (3, 0.0091), (4, 0.2273)],
        ),
        ("top-k 2", Sampling { top_k: 2, ..base }, &[(1, 0.6154), (4, 0.3846)]),
        ("top-k beyond the vocabulary", Sampling { top_k: 99, ..base }, &[(0, 0.1), (1, 0.4), (2, 0.2), (3, 0.05), (4, 0.25)]),
        ("top-p keeps the one that crosses", Sampling { top_p: 0.5, ..base }, &[(1, 0.6154), (4, 0.3846)]),
        ("top-p keeps at least one", Sampling { top_p: 1e-6, ..base }, &[(1, 1.0)]),
        ("min-p 0.45 of 0.4 is 0.18", Sampling { min_p: 0.45, ..base }, &[(1, 0.4706), (4, 0.2941), (2, 0.2353)]),
        // Of the top 3 the first has 0.47, the first two 0.76: without top-k first, top-p 0.7 would keep three of five.
        ("top-k before top-p", Sampling { top_k: 3, top_p: 0.7, ..base }, &[(1, 0.6154), (4, 0.3846)]),
        // At temperature 0.5 the first has 0.56: at 1 top-p 0.5 would keep two.
        ("temperature before top-p", Sampling { temperature: 0.5, top_p: 0.5, ..base }, &[(1, 1.0)]),
    ];
    for (name, sampling, expected) in table {
        let found = shares(sampling, &candidates);
        let tokens: Vec<u32> = found.keys().copied().collect();
        let mut wanted: Vec<u32> = expected.iter().map(|e| e.0).collect();
        wanted.sort_unstable();
        assert_eq!(tokens, wanted, "{name}");
        for &(token, share) in expected {
            assert!((found[&token] - share).abs() < 0.012, "{name}: token {token} has {}, not {share}", found[&token]);
        }
    }
}

#[test]
fn greedy_takes_the_lowest_of_equals_and_no_random_number() {
    let candidates = rank(&[0.5, 2.0, -1.0, 2.0]);
    assert_eq!(candidates, [(1, 2.0), (3, 2.0), (0, 0.5), (2, -1.0)]);
    assert_eq!(rank(&[-0.0, 0.0]).iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1], "-0 equals 0");
    let choice = Sampler::new(Sampling { seed: 3, ..Sampling::default() }).unwrap().pick(&candidates, 2.8).unwrap();
    assert_eq!(choice.token, 1);
    assert!((choice.logprob + 0.8).abs() < 1e-6);
    // One candidate is enough, and a log_sum_exp that rounding left a hair too small gives no probability above 1.
    let choice = Sampler::new(Sampling::default()).unwrap().pick(&[(9, 1.0)], 0.999_999_9).unwrap();
    assert_eq!((choice.token, choice.logprob), (9, 0.0));
}

#[test]
fn log_probabilities_are_the_models_own() {
    let candidates = rank(&[1.0, 3.0, 2.0]);
    let log_sum_exp = 3.407_606;
    let mut sampler = Sampler::new(Sampling { temperature: 5.0, top_k: 2, min_p: 0.1, seed: 1, ..Sampling::default() }).unwrap();
    for _ in 0..50 {
        let choice = sampler.pick(&candidates, log_sum_exp).unwrap();
        let logit = candidates.iter().find(|c| c.0 == choice.token).unwrap().1;
        assert_eq!(choice.logprob, logit - log_sum_exp);
    }
}

/// The numbers themselves are fixed: a new version of a dependency must not change what a seed gives.
#[test]
fn a_seed_gives_the_same_tokens_for_ever() {
    let candidates = rank(&[0.0; 100]);
    let draw = |seed| -> Vec<u32> {
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::default() }).unwrap();
        (0..8).map(|_| sampler.pick(&candidates, 4.605_17).unwrap().token).collect()
    };
    assert_eq!(draw(0), [12, 34, 70, 3, 85, 16, 19, 50]);
    assert_eq!(draw(1), [83, 1, 11, 98, 88, 47, 18, 38]);
    assert_eq!(draw(u64::MAX), [84, 74, 95, 5, 98, 41, 7, 0]);
}

#[test]
fn extreme_values_are_picked_from() {
    let cold = Sampling { temperature: 1e-45, ..Sampling::default() };
    assert_eq!(shares(cold, &rank(&[1.0, 5.0, 5.0, -3e38])).keys().copied().collect::<Vec<_>>(), [1, 2]);
    let hot = Sampling { temperature: f32::MAX, ..Sampling::default() };
    assert_eq!(shares(hot, &rank(&[-30.0, 30.0])).len(), 2);
    let never = [(0, 0.0), (1, f32::NEG_INFINITY)];
    assert_eq!(shares(Sampling { temperature: 1.0, ..Sampling::default() }, &never).keys().copied().collect::<Vec<_>>(), [0]);
}

#[test]
fn the_candidates_needed_follow_from_the_sampling() {
    let table = [
        (0.0, 5, Candidates::One),
        (0.7, 1, Candidates::Best(64)),
        (0.7, 64, Candidates::Best(64)),
        (0.7, 65, Candidates::All),
        (0.7, 0, Candidates::All),
    ];
    for (temperature, top_k, expected) in table {
        assert_eq!(Sampling { temperature, top_k, ..Sampling::default() }.candidates(), expected, "{temperature} {top_k}");
    }
}

#[test]
fn bad_values_are_refused() {
    let base = Sampling::default();
    let table = [
        (Sampling { temperature: f32::NAN, ..base }, "temperature: expected a number of at least 0, found NaN"),
        (Sampling { temperature: -0.1, ..base }, "temperature: expected a number of at least 0, found -0.1"),
        (Sampling { temperature: f32::INFINITY, ..base }, "temperature: expected a number of at least 0, found inf"),
        (Sampling { top_p: 0.0, ..base }, "top_p: expected a number above 0 and at most 1, found 0"),
        (Sampling { top_p: 1.01, ..base }, "top_p: expected a number above 0 and at most 1, found 1.01"),
        (Sampling { top_p: f32::NAN, ..base }, "top_p: expected a number above 0 and at most 1, found NaN"),
        (Sampling { min_p: 1.0, ..base }, "min_p: expected a number from 0 to below 1, found 1"),
        (Sampling { min_p: -0.5, ..base }, "min_p: expected a number from 0 to below 1, found -0.5"),
    ];
    for (sampling, message) in table {
        for error in [sampling.check().unwrap_err(), Sampler::new(sampling).unwrap_err()] {
            assert_eq!((error.code(), error.to_string().as_str()), ("argument", message));
        }
    }
    let nan = rank(&[1.0, f32::NAN, 2.0]);
    let table: [(Ranked<'_>, f32, &str); 6] = [
        (&[], 0.0, "usage"),
        (&[(0, 1.0), (1, 2.0)], 0.0, "usage"),
        (&[(1, 1.0), (0, 1.0)], 0.0, "usage"),
        (&nan, 0.0, "non_finite"),
        (&[(0, f32::INFINITY)], 0.0, "non_finite"),
        (&[(0, 1.0)], f32::NAN, "non_finite"),
    ];
    for (candidates, log_sum_exp, code) in table {
        for temperature in [0.0, 1.0] {
            let error = Sampler::new(Sampling { temperature, ..base }).unwrap().pick(candidates, log_sum_exp).unwrap_err();
            assert_eq!(error.code(), code, "{candidates:?}");
        }
    }
}
