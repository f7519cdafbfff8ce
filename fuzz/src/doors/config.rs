//! `config.json`, then `generation_config.json`, then sizes that are asked for (context, loops, sequences, chunk and memory, each as the number
//! of its highest bit): parsed, and what such a model takes is counted.

use refrain::Options;
use refrain::backend::DeviceOptions;
use refrain::model::config::Config;
use refrain::model::defaults::Defaults;
use refrain::precision::Precision;

/// Parses both files and does what a load does before it reads weights.
pub fn enter(data: &[u8]) {
    let mut parts = super::parts(data);
    let config = super::good(Config::parse("config.json", parts.next().unwrap_or_default()));
    let defaults = super::good(Defaults::parse("generation_config.json", parts.next()));
    let Some(config) = config else { return };
    let again = Config::parse("again", config.to_json().as_bytes());
    // serde_json reads some numbers of many digits one unit in the last place off; what counts is theta as f32.
    let rounded = |config: &Config| Config { rope_theta: f64::from(config.rope_theta as f32), ..config.clone() };
    assert!(again.as_ref().is_ok_and(|again| rounded(again) == rounded(&config)), "{config:?} was written as {again:?}");
    let parameters = config.parameters();
    assert!(parameters.active <= parameters.total && config.stored_bytes(Precision::F32) >= parameters.total, "{parameters:?}");
    assert!(config.cache_bytes_per_token(usize::MAX) >= config.cache_bytes_per_token(1));
    assert_eq!(config.loop_embedding(config.max_loop_iters).len(), config.dim);
    assert_eq!(config.rope_rows(config.max_seq_len - 1, 1).len(), config.rope_dim());
    let Some(defaults) = defaults else { return };
    let sizes = parts.next().unwrap_or_default();
    let size = |at: usize| sizes.get(at).map(|bit| 1u64 << (bit % 64));
    let own = super::options();
    let options = Options {
        context: size(0).map(|n| n as usize),
        loops: size(1).map(|n| n as usize),
        sequences: size(2).map(|n| n as usize),
        chunk: size(3).map(|n| n as usize),
        device: DeviceOptions { memory: size(4).or(own.device.memory), ..own.device.clone() },
        ..own
    };
    super::count(&config, &defaults, &options, None);
}
