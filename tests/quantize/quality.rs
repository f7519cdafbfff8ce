//! `Quality` against numbers worked out by hand, and the table for the shipped models.

use std::process::Command;

use refrain::model::{Observed, Quality};
use refrain::shipped;
use serde_json::Value;

fn observed(probabilities: &[f32], loops: usize, experts: &[&[u32]]) -> Observed {
    let experts = experts.iter().map(|ids| ids.to_vec()).collect();
    Observed { log_probabilities: probabilities.iter().map(|p| p.ln()).collect(), loops, experts }
}

#[test]
fn a_small_example_by_hand() {
    let reference = [
        observed(&[0.5, 0.25, 0.25], 2, &[&[0, 1], &[2, 3]]),
        observed(&[0.25, 0.5, 0.25], 1, &[&[0, 1]]),
        observed(&[0.125, 0.125, 0.75], 3, &[&[0, 1], &[0, 1], &[4, 5]]),
        observed(&[0.5, 0.5, 0.0], 1, &[]),
    ];
    let other = [
        // Σ p ln (p / q) = 0.5 ln 2 + 0.25 ln 1 + 0.25 ln 0.5 = 0.25 ln 2; another best; other experts in the second loop.
        observed(&[0.25, 0.25, 0.5], 2, &[&[0, 1], &[2, 4]]),
        // The same; a loop more, of which the reference knows no experts.
        observed(&[0.25, 0.5, 0.25], 2, &[&[0, 1], &[6, 7]]),
        // 0.125 ln (0.125 / 0.25) + 0.125 ln (0.125 / 0.25) + 0.75 ln (0.75 / 0.5) = 0.75 ln 1.5 − 0.25 ln 2.
        observed(&[0.25, 0.25, 0.5], 2, &[&[1, 2], &[1, 2]]),
        // Of equal ones the lowest id; what P holds impossible costs nothing: 0.5 ln (0.5 / 0.25) = 0.5 ln 2.
        observed(&[0.5, 0.25, 0.25], 1, &[]),
    ];
    let found = Quality::of(&reference, &other);
    let (ln2, ln15) = (2f64.ln(), 1.5f64.ln());
    let kl = [0.25 * ln2, 0.0, 0.75 * ln15 - 0.25 * ln2, 0.5 * ln2];
    assert_eq!((found.tokens, found.same_best, found.other_loops, found.other_experts), (4, 3, 2, 2));
    assert!((found.kl_mean - kl.iter().sum::<f64>() / 4.0).abs() < 1e-7, "{found:?}");
    assert!((found.kl_max - 0.5 * ln2).abs() < 1e-7, "{found:?}");
    let same = Quality::of(&reference, &reference);
    assert_eq!(same, Quality { tokens: 4, same_best: 4, ..Quality::default() });
    assert_eq!(Quality::of(&[], &[]), Quality::default());
    assert_eq!(reference[3].best(), 0);
}

/// What `refrain quantize NAME --quality` measures on the shipped models' own problems, all tokens of them.
#[test]
fn shipped_models_keep_their_answers() {
    for name in shipped::NAMES {
        let args = ["quantize", name, "--dtype", "f16,q8,q4", "--quality", "--format", "jsonl", "--device", "cpu", "--quiet"];
        let output = Command::new(env!("CARGO_BIN_EXE_refrain")).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let dtypes: Vec<&str> = rows.iter().map(|row| row["dtype"].as_str().unwrap()).collect();
        assert_eq!(dtypes, ["f32", "f16", "q8", "q4"]);
        assert!(rows.windows(2).all(|pair| pair[0]["weights_bytes"].as_u64() > pair[1]["weights_bytes"].as_u64()), "{name}: {text}");
        let right = |row: &Value| row["right"].as_u64().unwrap();
        assert!(right(&rows[0]) * 200 >= rows[0]["answers"].as_u64().unwrap() * 199 && rows[0]["against_f32"].is_null());
        for (row, least, kl) in [(&rows[1], 0.999, 1e-4), (&rows[2], 0.99, 1e-2), (&rows[3], 0.9, 1.0)] {
            let found = &row["against_f32"];
            let number = |key: &str| found[key].as_f64().unwrap();
            assert!(number("same_best") >= least * number("tokens"), "{name}: {row}");
            assert!(number("kl_mean") <= kl && number("kl_mean") <= number("kl_max"), "{name}: {row}");
            assert_eq!(row["answers"], rows[0]["answers"]);
            if row["dtype"] != "q4" {
                assert!(right(row) >= right(&rows[0]), "{name}: {row}");
            }
        }
    }
}
