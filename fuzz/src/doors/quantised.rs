//! Rows of any numbers in any dtype, read in every precision; and a tiny model of them, quantised and run.
//!
//! The first bytes say how many columns and rows, which dtype, and whether there is a model; the rest are the numbers, again and again.

use refrain::model::config::Config;
use refrain::model::defaults::Defaults;
use refrain::model::files::{Entry, FORMAT, FORMAT_KEY, Source, Weights, export, safetensors_header};
use refrain::precision::{Packed, Precision};

/// The dtypes of files and their precision, where they are one.
const DTYPES: [(&str, Option<Precision>); 5] = [
    ("F32", Some(Precision::F32)),
    ("F16", Some(Precision::F16)),
    ("BF16", None),
    ("I8", Some(Precision::Q8)),
    ("U8", Some(Precision::Q4)),
];

/// Reads rows, or quantises and runs a model.
pub fn enter(data: &[u8]) {
    let &[cols, rows, dtype, ref numbers @ ..] = data else { return };
    let dtype = DTYPES[usize::from(dtype) % DTYPES.len()];
    if rows >= 0xf0 {
        return model(dtype, numbers);
    }
    let (cols, rows) = (1 + usize::from(cols) % 80, 1 + usize::from(rows) % 5);
    let file = file(&[("w".into(), vec![rows, cols], true)], dtype, numbers);
    let source = super::memory(vec![("model.safetensors".into(), file)]);
    let weights = Weights::open(&source).expect("a right file");
    let Some(stored) = super::good(weights.stored("w", &[rows, cols], true)) else { panic!("{dtype:?} {rows} {cols}") };
    let Some(exact) = super::good(weights.read("w", &[rows, cols])) else { return };
    for precision in Precision::ALL {
        let Some(whole) = super::good(weights.read_rows(stored, 0, rows, precision)) else { continue };
        judge(precision, cols, &exact, &whole);
        let mut pieces = Packed::default();
        for row in 0..rows {
            let piece = weights.read_rows(stored, row, 1, precision).expect("a row of good ones");
            pieces.data.extend(piece.data);
            pieces.scales.extend(piece.scales);
        }
        assert_eq!(pieces, whole, "{precision}: row by row");
    }
}

/// What was packed is near to what was there.
fn judge(precision: Precision, cols: usize, exact: &[f32], packed: &Packed) {
    let found = precision.unpack(cols, packed);
    assert_eq!(found.len(), exact.len());
    let rows = exact.chunks(cols).zip(found.chunks(cols));
    for (exact, found) in rows.flat_map(|(a, b)| a.chunks(32).zip(b.chunks(32))) {
        let largest = exact.iter().fold(0f32, |max, x| max.max(x.abs()));
        // Steps of the smallest f16 are as coarse as that.
        let bound = match precision {
            Precision::F32 => 0.0,
            Precision::F16 => largest / 2048.0 + 3e-8,
            Precision::Q8 => largest / 200.0 + 4e-6,
            Precision::Q4 => largest / 4.0 + 1e-6,
        };
        for (x, y) in exact.iter().zip(found) {
            assert!((x - y).abs() <= bound, "{precision}: {y} of {x} in a block up to {largest}");
        }
    }
}

/// A tiny model of these numbers in every precision, from memory to a folder and onto the CPU.
fn model(dtype: (&str, Option<Precision>), numbers: &[u8]) {
    let specs = Config::parse("config.json", super::TINY.as_bytes()).expect("a right config").tensors();
    let tensors: Vec<_> =
        specs.iter().filter(|spec| !spec.optional).map(|spec| (spec.name.clone(), spec.shape.clone(), spec.matrix)).collect();
    let config = ("config.json".to_string(), super::TINY.as_bytes().to_vec());
    let source = super::memory(vec![config, ("model.safetensors".into(), file(&tensors, dtype, numbers))]);
    let weights = Weights::open(&source).expect("a right file");
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("m");
    let precision = Precision::ALL[numbers.len() % 4];
    let json = ("config.json", super::TINY.as_bytes());
    if super::good(export(&weights, json, Some(precision), &out, &mut |_| Ok(()), &mut |_, _| Ok(()))).is_none() {
        return assert!(!out.exists(), "an error leaves nothing");
    }
    let written = Source::folder(&out).expect("a folder");
    let again = Weights::open(&written).expect("a right file");
    for (name, shape, matrix) in &tensors {
        let precision = if *matrix { precision } else { Precision::F32 };
        let [found, expected] = [&again, &weights].map(|weights| {
            let stored = weights.stored(name, shape, *matrix).expect("a tensor");
            weights.read_rows(stored, 0, stored.rows(), precision).expect("its rows")
        });
        assert_eq!(found, expected, "{name} in {precision}");
    }
    let config = Config::parse("config.json", super::TINY.as_bytes()).expect("a right config");
    let needs = super::count(&config, &Defaults::default(), &super::options(), Some(&again)).expect("a tiny model fits");
    super::run(&written, &needs);
}

/// A file of tensors (name, shape, whether it is a matrix), matrices in this dtype and all else in f32, of bytes that repeat.
fn file(tensors: &[(String, Vec<usize>, bool)], (dtype, precision): (&str, Option<Precision>), numbers: &[u8]) -> Vec<u8> {
    let blocks = precision.filter(|precision| precision.is_quantized());
    let mut list: Vec<(String, &str, Vec<usize>)> = Vec::new();
    for (name, shape, matrix) in tensors {
        match (blocks.filter(|_| *matrix), shape.as_slice()) {
            (Some(blocks), &[rows, cols]) => {
                list.push((name.clone(), dtype, vec![rows, blocks.row_bytes(cols)]));
                list.push((format!("{name}.scales"), "F16", vec![rows, blocks.blocks(cols)]));
            }
            _ => list.push((name.clone(), if *matrix { dtype } else { "F32" }, shape.clone())),
        }
    }
    let entries: Vec<Entry> = list.iter().map(|(name, dtype, shape)| Entry { name, dtype, shape }).collect();
    let (mut bytes, length) = safetensors_header("w", &[(FORMAT_KEY, FORMAT.into())], &entries).expect("a right header");
    let numbers = if numbers.is_empty() { &[0] } else { numbers };
    bytes.extend(numbers.iter().cycle().take(length as usize));
    bytes
}
