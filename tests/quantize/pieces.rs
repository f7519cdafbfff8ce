//! Matrices that are read, written and loaded in several pieces.

use std::collections::BTreeMap;
use std::fs;

use pollster::block_on;
use refrain::model::config::Config;
use refrain::model::defaults::Exit;
use refrain::model::files::{Source, Weights};
use refrain::model::{Depth, Engine, Feed, Logits, Options};
use refrain::precision::{Packed, Precision};
use serde_json::Value;
use tempfile::TempDir;

use super::{Parts, Raw, cpu, file, folder_of, golden, quantize};

use Precision::{F16, F32, Q4, Q8};

/// Rows of 30 columns of a piece: 1 MiB of f32.
const PIECE: usize = (1 << 18) / 30;

/// The logits of tokens of every piece, each the first of a sequence, on one loop.
fn logits(folder: &std::path::Path, dtype: Option<Precision>) -> Vec<f32> {
    let options = Options { device: cpu(), dtype, loops: Some(1), context: Some(1), ..Options::default() };
    let mut engine = block_on(Engine::load(&Source::folder(folder).unwrap(), &options, &mut |_| {})).unwrap();
    let depth = Depth { loops: 1, min_loops: 0, exit: Exit::Model };
    let mut all = Vec::new();
    for token in [0, PIECE - 1, PIECE, 2 * PIECE - 1, 2 * PIECE, 19_999] {
        let mut sequence = engine.sequence().unwrap();
        let mut feeds = [Feed { sequence: &mut sequence, tokens: &[token as u32] }];
        let output = block_on(engine.forward(&mut feeds, depth, Logits { every: true, best: 1, all: true })).unwrap();
        all.extend_from_slice(&output.predictions[0].logits);
    }
    all
}

/// A vocabulary of three pieces: every row arrives where it belongs, with its own scale.
#[test]
fn a_matrix_of_several_pieces() {
    let temp = TempDir::new().unwrap();
    let [model, out, plain] = ["model", "out", "plain"].map(|name| temp.path().join(name));
    let mut parts = Parts::read(&file(&golden("gqa_bare")));
    let rows = 20_000;
    let value = |i: usize| ((i * 7919 % 10_007) as f32 / 5003.5 - 1.0) * (1.0 + (i / 30 % 97) as f32);
    let mut numbers: Vec<f32> = (0..rows * 30).map(value).collect();
    // The last row of all is the first.
    numbers.copy_within(..30, 19_999 * 30);
    let embed = Raw { dtype: "F32".into(), shape: vec![rows, 30], data: F32.pack(30, &numbers).data };
    parts.tensors.insert("embed.weight".into(), embed);
    folder_of(&golden("gqa_bare"), &parts, &model);
    let mut fields: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    fields["vocab_size"] = rows.into();
    let specs = Config::parse("c", fields.to_string().as_bytes()).unwrap().tensors();
    fs::write(model.join("config.json"), fields.to_string()).unwrap();
    for precision in Precision::ALL {
        quantize(&model, &out, precision).unwrap();
        let found = Parts::read(&file(&out)).tensors;
        let expected = precision.pack(30, &numbers);
        assert!(found["embed.weight"].data == expected.data, "{precision}");
        assert!(found.get("embed.weight.scales").map_or(&[][..], |raw| &raw.data) == expected.scales, "{precision}: scales");
        let written = logits(&out, None);
        assert!(written == logits(&model, Some(precision)), "{precision}");
        // Fed the last token or the first, it says the same, and of both the same.
        let said = |i: usize| &written[i * rows..][..rows];
        assert!(said(0) == said(5) && said(0) != said(1) && said(1) != said(2) && said(3) != said(4), "{precision}");
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * written.iter().fold(0f32, |max, x| max.max(x.abs()));
        assert!((0..6).all(|i| near(said(i)[0], said(i)[19_999]) && !near(said(i)[0], said(i)[PIECE])), "{precision}");
        // The same numbers in f32, of which the loader changes nothing.
        let mut wide = parts.clone();
        for spec in specs.iter().filter(|spec| spec.matrix && !spec.optional) {
            let (raw, cols) = (wide.tensors.get_mut(&spec.name).unwrap(), spec.shape[1]);
            let numbers = F32.unpack(cols, &Packed { data: std::mem::take(&mut raw.data), scales: Vec::new() });
            raw.data = F32.pack(cols, &precision.unpack(cols, &precision.pack(cols, &numbers))).data;
        }
        folder_of(&model, &wide, &plain);
        let expected = logits(&plain, None);
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        assert_eq!(expected.len(), written.len());
        assert!(expected.iter().zip(&written).all(|(e, f)| (e - f).abs() <= 1e-5 * largest), "{precision}: other rows");
        fs::remove_dir_all(&out).unwrap();
    }
}

/// The numbers of a tensor are the same however it is read: whole, in pieces, on its own.
#[test]
fn blocks_are_read_piece_by_piece() {
    let temp = TempDir::new().unwrap();
    let (rows, cols) = (5000, 65);
    let numbers: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919) % 10007) as f32 / 5003.5 - 1.0).collect();
    for precision in Precision::ALL {
        let packed = precision.pack(cols, &numbers);
        let raw = |dtype: &str, shape: Vec<usize>, data: &[u8]| Raw { dtype: dtype.into(), shape, data: data.to_vec() };
        let mut parts = Parts { metadata: BTreeMap::from([("refrain.format".into(), "1".into())]), tensors: BTreeMap::new() };
        let (dtype, shape) = match precision {
            F32 => ("F32", vec![rows, cols]),
            F16 => ("F16", vec![rows, cols]),
            Q8 => ("I8", vec![rows, precision.row_bytes(cols)]),
            Q4 => ("U8", vec![rows, precision.row_bytes(cols)]),
        };
        parts.tensors.insert("w".into(), raw(dtype, shape, &packed.data));
        if precision.is_quantized() {
            parts.tensors.insert("w.scales".into(), raw("F16", vec![rows, precision.blocks(cols)], &packed.scales));
        }
        folder_of(&golden("gqa_bare"), &parts, temp.path());
        let source = Source::folder(temp.path()).unwrap();
        let weights = Weights::open(&source).unwrap();
        let expected = precision.unpack(cols, &packed);
        assert_eq!(weights.read("w", &[rows, cols]).unwrap(), expected, "{precision}");
        let stored = weights.stored("w", &[rows, cols], true).unwrap();
        assert_eq!((stored.precision(), stored.rows(), stored.cols()), (precision, rows, cols));
        assert_eq!(stored.bytes(), (packed.data.len() + packed.scales.len()) as u64);
        let pieces = (0..rows).step_by(999).map(|first| stored.bytes_of(first, 999.min(rows - first))).sum::<u64>();
        assert_eq!(pieces, stored.bytes());
        for (first, count) in [(0, 1), (4999, 1), (17, 4001), (0, rows)] {
            for wanted in Precision::ALL {
                let expected = &expected[first * cols..][..count * cols];
                let found = weights.read_rows(stored, first, count, wanted).unwrap();
                let same = if wanted == precision {
                    found.data == packed.data[first * precision.row_bytes(cols)..][..found.data.len()]
                } else {
                    true
                };
                assert!(same, "{precision}: copied as it is");
                if wanted != precision {
                    assert!(found == wanted.pack(cols, expected), "{precision} as {wanted}");
                }
            }
        }
    }
}
