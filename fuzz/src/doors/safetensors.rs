//! A model in memory: `config.json`, the index of shards (if there is none, there is one file), then the headers of up to four files. The
//! length in front of a header and the numbers behind it are made to fit, unless `!` stands in front of it.

use refrain::model::config::Config;
use refrain::model::defaults::Defaults;
use refrain::model::files::{Source, Weights};
use refrain::precision::Precision;
use serde_json::Value;

/// The most bytes of numbers that are made.
const MOST_NUMBERS: u64 = 1 << 14;

/// Opens the model, reads every tensor as it is and in every precision, and loads it if it is whole.
pub fn enter(data: &[u8]) {
    let mut parts = super::parts(data);
    let config = parts.next().unwrap_or_default().to_vec();
    let index = parts.next().unwrap_or_default().to_vec();
    let sharded = !index.is_empty();
    let mut files = vec![("config.json".to_string(), config)];
    if sharded {
        files.push(("model.safetensors.index.json".into(), index));
    }
    for (i, header) in parts.take(4).enumerate() {
        let name = if sharded { format!("{i}.safetensors") } else { "model.safetensors".into() };
        files.push((name, file(header)));
    }
    open(&super::memory(files));
}

/// The file of a header.
fn file(header: &[u8]) -> Vec<u8> {
    if let Some(bytes) = header.strip_prefix(b"!") {
        return bytes.to_vec();
    }
    let json: Value = serde_json::from_slice(header).unwrap_or_default();
    let ends = json.as_object().into_iter().flatten().filter_map(|(_, tensor)| tensor["data_offsets"][1].as_u64());
    let numbers = ends.max().unwrap_or(0).min(MOST_NUMBERS) as usize;
    let numbers = [0u8, 0, 0, 0x3f].into_iter().cycle().take(numbers);
    let length = (header.len() as u64).to_le_bytes();
    length.into_iter().chain(header.iter().copied()).chain(numbers).collect()
}

fn open(source: &Source) {
    let Some(weights) = super::good(Weights::open(source)) else { return };
    for tensor in weights.tensors() {
        let numbers = super::good(weights.read(&tensor.name, &tensor.shape));
        assert!(numbers.is_none_or(|numbers| numbers.iter().all(|x| x.is_finite())), "{tensor:?}");
        if let Some((shape, numbers)) = super::good(weights.read_integers(&tensor.name)) {
            assert_eq!(shape.iter().product::<usize>(), numbers.len(), "{tensor:?}");
        }
        let Some(stored) = super::good(weights.stored(&tensor.name, &tensor.shape, true)) else { continue };
        for precision in Precision::ALL {
            super::good(weights.read_rows(stored, 0, stored.rows().min(2), precision));
        }
    }
    let Ok(Some(config)) = source.read_small("config.json") else { return };
    let Some(config) = super::good(Config::parse("config.json", &config)) else { return };
    if super::good(weights.check(&config.tensors())).is_none() {
        return;
    }
    if let Some(needs) = super::count(&config, &Defaults::default(), &super::options(), Some(&weights)) {
        super::run(source, &needs);
    }
}
