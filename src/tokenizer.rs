//! `tokenizer.json` (the Hugging Face format): text to token ids and back, whole or token by token.

use crate::error::{Error, Result};
use crate::model::files::stranger;
use serde_json::Value;
use tokenizers::decoders::strip::Strip;
use tokenizers::{Decoder, DecoderWrapper, Model, OffsetReferential, OffsetType, PreTokenizer};

/// How many known words an unknown one is answered with.
const SIMILAR: usize = 5;

/// Tokens without complete text that a [`TextStream`] waits for more of; a character has at most 4 bytes.
const LONGEST_WAIT: usize = 16;

/// A tokenizer that fits its model.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    path: String,
    inner: tokenizers::Tokenizer,
    /// Of the model, which may have more ids than the tokenizer.
    model_vocab_size: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` for a model with `vocab_size` ids. `path` is only for messages. Truncation and padding that the
    /// file asks for are switched off: they would change a prompt without a word.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the file is no tokenizer, has no token, or has an id that the model lacks.
    pub fn parse(path: &str, json: &[u8], vocab_size: usize) -> Result<Self> {
        let fail = |reason: String| Error::Tokenizer { path: path.into(), reason };
        let mut inner = from_json(json).map_err(|error| match stranger(json) {
            Some(what) => fail(format!("expected a tokenizer in JSON, found {what}")),
            None => fail(format!("expected a tokenizer in JSON, found a fault: {error}")),
        })?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| fail(error.to_string()))?;
        match inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id) {
            None => Err(fail("expected a vocabulary, found no token".into())),
            Some((word, id)) if id as usize >= vocab_size => {
                Err(fail(format!("expected token ids below {vocab_size}, the model's vocab_size, found {id} ({word:?})")))
            }
            Some(_) => Ok(Self { path: path.into(), inner, model_vocab_size: vocab_size }),
        }
    }

    /// Number of tokens of the tokenizer, added ones included. The model may have more ids; those have no text.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The ids of a text, with the special tokens that the tokenizer adds by itself (often one at the start).
    ///
    /// # Errors
    /// [`Error::UnknownWord`] for the first word that the vocabulary can express neither in pieces nor by an "unknown" token;
    /// [`Error::Token`] for a special token past the model's vocabulary; [`Error::Tokenizer`] where the tokenizer fails otherwise.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, true) {
            // The vocabulary was checked, but a template writes its special tokens by numbers of its own.
            Ok(encoding) => self.check(encoding.get_ids()).map(<[u32]>::to_vec),
            Err(error) => Err(match self.unknown_word(text) {
                Some(word) => Error::UnknownWord { known: self.similar(&word), word: shorten(word) },
                None => Error::Tokenizer { path: self.path.clone(), reason: format!("cannot encode the text: {error}") },
            }),
        }
    }

    /// The text of ids. Special tokens have none, nor have ids that only the model knows.
    ///
    /// # Errors
    /// [`Error::Token`] for an id past the model's vocabulary, [`Error::Tokenizer`] where the decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let fail = |error| Error::Tokenizer { path: self.path.clone(), reason: format!("cannot decode the tokens: {error}") };
        self.decode_all(self.check(ids)?, true).map_err(fail)
    }

    /// What the crate does to decode, but for [`apply`].
    fn decode_all(&self, ids: &[u32], skip_special: bool) -> tokenizers::Result<String> {
        let added = self.inner.get_added_vocabulary();
        let tokens = ids.iter().filter_map(|id| self.inner.id_to_token(*id));
        let tokens: Vec<String> = tokens.filter(|token| !skip_special || !added.is_special_token(token)).collect();
        match self.inner.get_decoder() {
            Some(decoder) => Ok(apply(decoder, tokens)?.concat()),
            None => Ok(tokens.join(" ")),
        }
    }

    /// One token for people to look at: its text where it has one of its own, else (part of a character, special token) the
    /// way the vocabulary writes it. `None` for an id that the tokenizer lacks.
    pub fn text(&self, id: u32) -> Option<String> {
        let piece = self.inner.id_to_token(id)?;
        let text = self.decode_all(&[id], false).ok();
        text.filter(|text| !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER)).or(Some(piece))
    }

    /// The ids, if the model has them all.
    fn check<'i>(&self, ids: &'i [u32]) -> Result<&'i [u32]> {
        match ids.iter().find(|&&id| id as usize >= self.model_vocab_size) {
            Some(&token) => Err(Error::Token { token, vocab_size: self.model_vocab_size }),
            None => Ok(ids),
        }
    }

    /// The first word at which encoding fails, found by taking the tokenizer's own steps one word at a time.
    fn unknown_word(&self, text: &str) -> Option<String> {
        let mut split = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split).ok()?;
        }
        let words = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let unknown = words.into_iter().find(|(word, _, tokens)| tokens.is_none() && self.inner.get_model().tokenize(word).is_err());
        // As the user wrote it, if the offsets still lead there.
        unknown.map(|(word, (start, end), _)| text.get(start..end).unwrap_or(word).to_string())
    }

    /// A few known words for the place of an unknown one: same first character, then same length, then the lowest id.
    fn similar(&self, word: &str) -> String {
        let (first, length) = (word.chars().next(), word.chars().count());
        let mut known: Vec<_> = self.inner.get_vocab(false).into_iter().collect();
        known.sort_by_cached_key(|(other, id)| (other.chars().next() != first, other.chars().count().abs_diff(length), *id));
        known.truncate(SIMILAR);
        known.into_iter().map(|(other, _)| other).collect::<Vec<_>>().join(", ")
    }
}

/// Takes tokens through a decoder. Version 0.23 of the crate panics where "BPEDecoder" gets no token, which special tokens and earlier decoders
/// can leave it, and where "Strip" would take more than a token has: what is empty stays so, and "Strip" is done here.
fn apply(decoder: &DecoderWrapper, mut tokens: Vec<String>) -> tokenizers::Result<Vec<String>> {
    match decoder {
        DecoderWrapper::Sequence(list) => list.get_decoders().iter().try_fold(tokens, |tokens, decoder| apply(decoder, tokens)),
        DecoderWrapper::Strip(strip) => {
            tokens.iter_mut().for_each(|token| *token = stripped(token, strip).to_string());
            Ok(tokens)
        }
        _ if tokens.is_empty() => Ok(tokens),
        _ => decoder.decode_chain(tokens),
    }
}

/// A token without so many of the character at its start and its end.
fn stripped<'t>(mut token: &'t str, strip: &Strip) -> &'t str {
    for _ in 0..strip.start {
        let Some(rest) = token.strip_prefix(strip.content) else { break };
        token = rest;
    }
    for _ in 0..strip.stop {
        let Some(rest) = token.strip_suffix(strip.content) else { break };
        token = rest;
    }
    token
}

/// At most the first 60 characters of a word.
fn shorten(mut word: String) -> String {
    if let Some((end, _)) = word.char_indices().nth(60) {
        word.truncate(end);
        word.push('…');
    }
    word
}

/// The tokenizer of a file. Version 0.23 of the crate panics at some faults, so they are looked for first: bad JSON inside
/// "decoder", a damaged "Precompiled" normalizer, a template that uses a special token or a second text that it lacks, pieces of
/// length 0, merges of words that the vocabulary lacks.
fn from_json(json: &[u8]) -> tokenizers::Result<tokenizers::Tokenizer> {
    let file: Value = serde_json::from_slice(json)?;
    check_merges(&file["model"])?;
    for splitter in parts(&file, "pre_tokenizer", "pretokenizers", "length") {
        if splitter.get("length").and_then(Value::as_u64) == Some(0) {
            return Err("the pre_tokenizer FixedLength has length 0".into());
        }
    }
    for normalizer in parts(&file, "normalizer", "normalizers", "precompiled_charsmap") {
        check_charsmap(normalizer)?;
        // Through text, as the crate does: it does not take a borrowed value.
        serde_json::from_str::<tokenizers::normalizers::Precompiled>(&normalizer.to_string())?;
    }
    for template in parts(&file, "post_processor", "processors", "single") {
        let known = |piece: &Value| match (piece.get("SpecialToken"), piece.get("Sequence")) {
            (Some(token), _) => token.get("id").and_then(Value::as_str).is_some_and(|id| template["special_tokens"].get(id).is_some()),
            (_, Some(text)) => text.get("id").and_then(Value::as_str) == Some("A"),
            _ => true,
        };
        let mut pieces = template.get("single").and_then(Value::as_array).into_iter().flatten();
        if let Some(piece) = pieces.find(|piece| !known(piece)) {
            return Err(format!("the post_processor uses {piece}, which it does not define").into());
        }
    }
    drop(file);
    tokenizers::Tokenizer::from_bytes(json)
}

/// Refuses merges, as ["a", "b"] or "a b", that do not give a word of the vocabulary. What the second word begins with is dropped, where the
/// model says so: it must have it.
fn check_merges(model: &Value) -> tokenizers::Result<()> {
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else { return Ok(()) };
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    let pair = |merge: &Value| match merge {
        Value::String(words) => words.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string())),
        _ => Some((merge[0].as_str()?.to_string(), merge[1].as_str()?.to_string())),
    };
    let known = |(a, b): &(String, String)| b.strip_prefix(prefix).is_some_and(|b| vocab.contains_key(&format!("{a}{b}")));
    // What is no pair is refused by the crate.
    match merges.iter().filter_map(pair).find(|pair| !known(pair)) {
        Some((a, b)) => Err(format!("the merge of {:?} and {:?} gives no word of the vocabulary", shorten(a), shorten(b)).into()),
        None => Ok(()),
    }
}

/// Refuses a "Precompiled" map whose first number, the bytes of the trie that follows, does not fit the map: the crate would
/// allocate that much. Base64 of the first 8 characters holds it.
fn check_charsmap(normalizer: &Value) -> tokenizers::Result<()> {
    let map = normalizer.get("precompiled_charsmap").and_then(Value::as_str).unwrap_or_default();
    if map.is_empty() {
        return Ok(());
    }
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(u64::from(c - b'A')),
        b'a'..=b'z' => Some(u64::from(c - b'a') + 26),
        b'0'..=b'9' => Some(u64::from(c - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    // 6 characters are 36 bits: the number's 32, first byte lowest, and 4 more.
    let bits = map.bytes().take(6).try_fold(0u64, |bits, c| Some(bits << 6 | digit(c)?));
    let trie = bits.map(|bits| u64::from(((bits >> 4) as u32).swap_bytes()));
    match trie.filter(|trie| map.len() >= 6 && trie.is_multiple_of(4) && trie + 4 <= map.len() as u64 / 4 * 3) {
        Some(_) => Ok(()),
        None => Err("the normalizer Precompiled has a damaged map".into()),
    }
}

/// The parts with this field of the file's `step`, which may be one part or a sequence, nested, of parts in a `list`. Not by their type: the
/// crate takes a part by its fields where it has none.
fn parts<'v>(file: &'v Value, step: &str, list: &str, field: &str) -> Vec<&'v Value> {
    let mut open: Vec<&Value> = file.get(step).into_iter().collect();
    let mut found = Vec::new();
    while let Some(part) = open.pop() {
        open.extend(part.get(list).and_then(Value::as_array).into_iter().flatten());
        if part.get(field).is_some() {
            found.push(part);
        }
    }
    found
}

/// Text from tokens that come one by one. What it has given so far is always a beginning of the final text: a character
/// whose bytes are split over tokens is held back until it is whole.
///
/// A token's text can depend on its neighbours (a space between words, the bytes of a character), so the new text is the
/// difference between two decodings of the last few tokens: those of the last text given, and the ones since. The window
/// never exceeds twice `LONGEST_WAIT` tokens, so that the cost of a token does not grow with the text.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The window.
    ids: Vec<u32>,
    /// How many of them, at the start, have been given as text.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// A stream at the start of a text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), given: 0 }
    }

    /// Takes the next token and gives the text that is now complete: often one word, nothing while a character is incomplete.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`]; the token is then not taken.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let new = match self.new_text(self.ids.len()) {
            Ok(new) => new,
            Err(error) => {
                self.ids.pop();
                return Err(error);
            }
        };
        if !new.is_empty() && !new.ends_with(char::REPLACEMENT_CHARACTER) {
            self.advance(self.ids.len());
            return Ok(new);
        }
        if self.ids.len() - self.given < LONGEST_WAIT {
            return Ok(String::new());
        }
        if new.is_empty() {
            // Tokens without text, such as a model that ends with the same special token for ever: forget them.
            self.ids.truncate(self.given);
            return Ok(new);
        }
        // No character is so long: these bytes are no text and U+FFFD is their right form. The last three may begin one.
        let end = self.ids.len() - 3;
        let new = self.new_text(end)?;
        self.advance(end);
        Ok(new)
    }

    /// The text that was held back: after a complete text nothing, else U+FFFD for the incomplete character.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String> {
        self.new_text(self.ids.len())
    }

    /// What the tokens from `given` to `end` add to the text of those before.
    fn new_text(&self, end: usize) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.given])?;
        let after = self.tokenizer.decode(&self.ids[..end])?;
        // A decoder that rewrites what it gave before cannot be streamed exactly; the length is then the best guess.
        Ok(after.strip_prefix(&before).or(after.get(before.len()..)).unwrap_or_default().to_string())
    }

    /// The text of the tokens before `end` has been given. The window then starts with the tokens just given, which the next
    /// token needs as its neighbours.
    fn advance(&mut self, end: usize) {
        self.ids.drain(..self.given);
        self.given = end - self.given;
    }
}
