//! `tokenizer.json`, then a prompt, then token ids, a byte each: there and back, whole and token by token.

use refrain::tokenizer::{TextStream, Tokenizer};

/// The model's vocabulary.
const VOCABULARY: usize = 300;

/// Encodes the prompt, decodes what came of it and the ids.
pub fn enter(data: &[u8]) {
    let mut parts = super::parts(data);
    let json = parts.next().unwrap_or_default();
    let Some(tokenizer) = super::good(Tokenizer::parse("tokenizer.json", json, VOCABULARY)) else { return };
    let prompt = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let given: Vec<u32> = parts.next().unwrap_or_default().iter().map(|byte| u32::from(*byte)).collect();
    let encoded = super::good(tokenizer.encode(&prompt)).unwrap_or_default();
    for ids in [encoded, given] {
        assert!(ids.iter().all(|id| (*id as usize) < VOCABULARY), "{ids:?}");
        super::good(tokenizer.decode(&ids));
        let mut stream = TextStream::new(&tokenizer);
        for id in &ids {
            super::good(stream.push(*id));
            tokenizer.text(*id);
        }
        super::good(stream.finish());
    }
    assert!(tokenizer.vocab_size() <= VOCABULARY);
}
