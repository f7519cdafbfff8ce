//! A PyTorch checkpoint: the whole file where the input starts as a zip archive does, else the pickle in it.

use std::fs;
use std::io::{Cursor, Write};

use refrain::model::config::Config;
use refrain::model::files::{Checkpoint, export};
use refrain::precision::Precision;
use zip::write::SimpleFileOptions;

/// The archive of a pickle, with 64 numbers of f32 in storage 0 and 64 of f16 in storage 1.
pub fn archive(pickle: &[u8]) -> Vec<u8> {
    let (singles, halves) = ([0u8, 0, 0, 0x3f].repeat(64), [0u8, 0x38].repeat(64));
    let entries: [(&str, &[u8]); 4] = [("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", &singles), ("a/data/1", &halves)];
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(name, stored).expect("an entry");
        zip.write_all(bytes).expect("memory");
    }
    zip.finish().expect("an archive").into_inner()
}

/// Opens the checkpoint, reads every tensor, and converts it if it is whole.
pub fn enter(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.pt");
    let whole = data.starts_with(b"PK");
    fs::write(&path, if whole { data.to_vec() } else { archive(data) }).expect("a file");
    let Some(checkpoint) = super::good(Checkpoint::open(&path)) else { return };
    let weights = checkpoint.weights();
    for tensor in weights.tensors() {
        let numbers = super::good(weights.read(&tensor.name, &tensor.shape));
        assert!(numbers.is_none_or(|numbers| numbers.iter().all(|x| x.is_finite())), "{tensor:?}");
    }
    let Some((name, json)) = super::good(checkpoint.config_json()) else { return };
    let Some(config) = super::good(Config::parse(&name, &json)) else { return };
    if super::good(weights.check(&config.tensors())).is_none() {
        return;
    }
    let out = folder.path().join("m");
    for precision in [None, Some(Precision::Q4)] {
        super::good(export(weights, (&name, &json), precision, &out, &mut |_| Ok(()), &mut |_, _| Ok(())));
        let _ = fs::remove_dir_all(&out);
    }
}
