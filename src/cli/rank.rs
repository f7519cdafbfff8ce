//! Spearman's rank correlation: whether one number grows with another, however it grows.

/// The correlation of pairs, -1 to 1. `None` where it is not defined: fewer than two pairs, or one side all equal.
pub(super) fn spearman(pairs: &[(usize, usize)]) -> Option<f64> {
    let (a, b): (Vec<usize>, Vec<usize>) = pairs.iter().copied().unzip();
    let (a, b) = (centred_ranks(&a), centred_ranks(&b));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms = dot(&a, &a) * dot(&b, &b);
    (norms > 0.0).then(|| dot(&a, &b) / norms.sqrt())
}

/// Twice each number's rank, equal numbers sharing the average of theirs, less the mean: whole numbers, so that their products
/// are exact and a perfect correlation is 1 and no less.
fn centred_ranks(numbers: &[usize]) -> Vec<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let twice = |number: usize| {
        // The ranks that equal numbers share go from below + 1 to upto.
        let (below, upto) = (sorted.partition_point(|other| *other < number), sorted.partition_point(|other| *other <= number));
        (below + 1 + upto) as f64
    };
    numbers.iter().map(|number| twice(*number) - (numbers.len() + 1) as f64).collect()
}

/// A correlation with two decimals, cut off and not rounded: 1.00 is a perfect one.
pub(super) fn correlation(value: Option<f64>) -> String {
    // Adding 0 takes the sign off a zero.
    value.map_or_else(|| "–".into(), |value| format!("{:.2}", (100.0 * value).trunc() / 100.0 + 0.0))
}
