//! `config.json`, then `generation_config.json`: parsed, and what such a model takes is counted.

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
    assert!(again.as_ref().is_ok_and(|again| *again == config), "{config:?} was written as {again:?}");
    let parameters = config.parameters();
    assert!(parameters.active <= parameters.total && config.stored_bytes(Precision::F32) >= parameters.total, "{parameters:?}");
    assert!(config.cache_bytes_per_token(usize::MAX) >= config.cache_bytes_per_token(1));
    assert_eq!(config.loop_embedding(config.max_loop_iters).len(), config.dim);
    assert_eq!(config.rope_rows(config.max_seq_len - 1, 1).len(), config.rope_dim());
    if let Some(defaults) = defaults {
        super::count(&config, &defaults, None);
    }
}
