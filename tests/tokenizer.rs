//! Text to tokens and back: the shipped word tokenizers, byte-level BPE, byte fallback, and streams that split characters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use refrain::shipped::NAMES;
use refrain::tokenizer::{TextStream, Tokenizer};
use serde_json::{Value, json};

fn shipped(model: &str) -> Vec<u8> {
    std::fs::read(format!("{}/examples/models/{model}/tokenizer.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn parse(value: &Value, vocab_size: usize) -> Tokenizer {
    Tokenizer::parse("tokenizer.json", value.to_string().as_bytes(), vocab_size).unwrap()
}

/// The byte-level alphabet of GPT-2: the character that stands for each byte. Printable bytes stand for themselves.
fn alphabet() -> Vec<char> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    (0..256u32)
        .map(|b| {
            let code = if printable(b) { b } else { next };
            next += u32::from(!printable(b));
            char::from_u32(code).unwrap()
        })
        .collect()
}

/// One token for each byte (its id is the byte), one for " h" (256), and a special token at the start (257).
fn byte_level() -> Tokenizer {
    let mut vocab: serde_json::Map<String, Value> = alphabet().iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    vocab.insert("Ġh".into(), json!(256));
    vocab.insert("<s>".into(), json!(257));
    let special =
        json!({"id": 257, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let start = json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    parse(
        &json!({
            "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
            "added_tokens": [special], "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {"type": "TemplateProcessing", "single": start, "pair": start,
                "special_tokens": {"<s>": {"id": "<s>", "ids": [257], "tokens": ["<s>"]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": ["Ġ h"]}
        }),
        300,
    )
}

/// As Llama's: words with ▁ for the space, and a token for each byte that no word has. Ids: bytes, then words.
fn byte_fallback() -> Tokenizer {
    let mut vocab: serde_json::Map<String, Value> = (0..256).map(|b| (format!("<0x{b:02X}>"), json!(b))).collect();
    for (i, word) in ["▁", "▁a", "a", "▁b", "b"].iter().enumerate() {
        vocab.insert((*word).into(), json!(256 + i));
    }
    parse(
        &json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "pre_tokenizer": null, "post_processor": null,
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": true, "ignore_merges": false, "vocab": vocab, "merges": ["▁ a", "▁ b"]}
        }),
        261,
    )
}

/// What a stream gives for each token, then what it held back.
fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer);
    let mut parts: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    parts.push(stream.finish().unwrap());
    parts
}

#[test]
fn shipped_tokenizers_read_their_own_problems() {
    for model in NAMES {
        let file = |name: &str| std::fs::read_to_string(format!("{}/examples/models/{model}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let config: Value = serde_json::from_str(&file("config.json")).unwrap();
        let words = config["vocab_size"].as_u64().unwrap() as usize;
        let tokenizer = Tokenizer::parse("tokenizer.json", &shipped(model), words).unwrap();
        assert_eq!(tokenizer.vocab_size(), words);
        let problems = file("problems.jsonl");
        assert!(problems.lines().count() > 0);
        for line in problems.lines() {
            let problem: Value = serde_json::from_str(line).unwrap();
            let prompt = problem["prompt"].as_str().unwrap();
            let mut ids = tokenizer.encode(prompt).unwrap();
            if model == "add" {
                assert_eq!(ids.remove(0), tokenizer.encode("=").unwrap()[1], "sums begin behind a `=`");
            }
            assert_eq!(ids.len(), prompt.split_whitespace().count());
            assert_eq!(tokenizer.decode(&ids).unwrap(), prompt);
            let parts = stream(&tokenizer, &ids);
            assert_eq!(parts.concat(), prompt);
            assert!(parts[1].starts_with(' ') && !parts[0].starts_with(' ') && parts[ids.len()].is_empty(), "{parts:?}");
        }
    }
    let cups = Tokenizer::parse("tokenizer.json", &shipped("cups"), 78).unwrap();
    assert_eq!(cups.encode(" @1  12\n~ ").unwrap(), [0, 5, 20]);
    assert_eq!(cups.encode("").unwrap(), [0; 0]);
    assert_eq!((cups.text(5).as_deref(), cups.text(21), cups.text(u32::MAX)), (Some("12"), None, None));
}

#[test]
fn shipped_tokenizers_read_what_people_type() {
    for (model, plain, typed) in [
        ("follow", "a >b b >b ?a", &["A->b, b->B; ?a", "a>b b>b?a", "a → b . b > b ? A", "a=>b\nb=>b\n?a\n"][..]),
        ("cups", "@1 12 23 45", &["@1 21 32 54", "@ 1, 1-2, 3<->2; 4↔5", "@1 12. 23. 45."]),
        ("add", "6+7 8+4 =", &["6 + 7, 8 + 4 =", "6+7 8+4=", " 6+7\n8+4\n="]),
    ] {
        let tokenizer = Tokenizer::parse("tokenizer.json", &shipped(model), 1000).unwrap();
        for text in typed {
            assert_eq!(tokenizer.encode(text).unwrap(), tokenizer.encode(plain).unwrap(), "{model}: {text:?}");
        }
    }
    // Numbers that are not written in columns are refused rather than cut up.
    let add = Tokenizer::parse("tokenizer.json", &shipped("add"), 1000).unwrap();
    assert!(add.encode("586+847=").unwrap_err().to_string().contains("586+847"));
}

#[test]
fn the_first_unknown_word_is_named_with_similar_ones() {
    let cups = Tokenizer::parse("tokenizer.json", &shipped("cups"), 78).unwrap();
    let table = [
        ("12 16 zebra", "16", "12, 13, 14, 15, 1"),
        ("@9", "@9", "@1, @2, @3, @4, @5"),
        ("1 ünï", "ünï", "@1, @2, @3, @4, @5"),
        ("<unk>", "<unk>", "@1"),
    ];
    for (text, word, known) in table {
        let error = cups.encode(text).unwrap_err();
        assert_eq!((error.code(), error.to_string()), ("unknown_word", format!("the word {word:?} is not in the model's vocabulary")));
        assert!(error.hint().unwrap().contains(known), "{:?}", error.hint());
    }
    // With a token for unknown words there is nothing to refuse.
    let mut value: Value = serde_json::from_slice(&shipped("cups")).unwrap();
    value["model"]["vocab"]["<unk>"] = json!(21);
    assert_eq!(parse(&value, 78).encode("12 zebra").unwrap(), [5, 21]);
    // A normalizer changes the word that is looked up, not the one that is reported.
    value["model"]["vocab"].as_object_mut().unwrap().remove("<unk>");
    value["normalizer"] = json!({"type": "Lowercase"});
    assert!(parse(&value, 78).encode("12 ZEBRA").unwrap_err().to_string().contains("\"ZEBRA\""));
}

#[test]
fn what_is_no_tokenizer_for_this_model_is_refused() {
    let cups = shipped("cups");
    let mut empty: Value = serde_json::from_slice(&cups).unwrap();
    empty["model"]["vocab"] = json!({});
    let mut added: Value = serde_json::from_slice(&cups).unwrap();
    added["added_tokens"] = json!([{"id": 90, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]);
    let (empty, added) = (empty.to_string().into_bytes(), added.to_string().into_bytes());
    // At these three the tokenizers crate panics when it is left alone.
    let broken = String::from_utf8(cups.clone()).unwrap().replace("\"decoder\": null", "\"decoder\": {7}").into_bytes();
    let mut damaged: Value = serde_json::from_slice(&cups).unwrap();
    damaged["normalizer"] =
        json!({"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "Precompiled", "precompiled_charsmap": "%"}]});
    let damaged = damaged.to_string().into_bytes();
    let mut template: Value = serde_json::from_slice(&cups).unwrap();
    let single = json!([{"SpecialToken": {"id": "<t>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    template["post_processor"] = json!({"type": "TemplateProcessing", "single": single, "pair": single,
        "special_tokens": {"<s>": {"id": "<s>", "ids": [99], "tokens": ["<s>"]}}});
    let undefined = template.to_string().into_bytes();
    // Its number is the template's own, in no vocabulary: only encoding can show it.
    let beyond = Tokenizer::parse("t", template.to_string().replace("<t>", "<s>").as_bytes(), 78).unwrap();
    assert_eq!(beyond.encode("12").unwrap_err().to_string(), "token id 99 is past the vocabulary: expected 0 to 77");
    let with = |step: &str, part: Value| {
        let mut tokenizer: Value = serde_json::from_slice(&cups).unwrap();
        tokenizer[step] = part;
        tokenizer.to_string().into_bytes()
    };
    let pieces = with("pre_tokenizer", json!({"type": "FixedLength", "length": 0}));
    // Its first number promises 4 GiB.
    let map = with("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "/////wAAAA=="}));
    let ends = with("model", json!({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}));
    let table: [(&[u8], usize, &str); 14] = [
        (&ends, 78, "the merge of \"a\" and \"b\" gives no word"),
        (&pieces, 78, "FixedLength has length 0"),
        (&map, 78, "Precompiled has a damaged map"),
        (b"", 78, "an empty file"),
        (b"{}", 78, "a fault"),
        (b"<!doctype html>", 78, "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1", 78, "Git LFS"),
        (&cups[..200], 78, "a fault"),
        (&broken, 78, "a fault: key must be a string"),
        (&damaged, 78, "a fault"),
        (&undefined, 78, "which it does not define"),
        (&cups, 20, "expected token ids below 20, the model's vocab_size, found 20 (\"~\")"),
        (&empty, 78, "found no token"),
        (&added, 21, "found 21 (\"<end>\")"),
    ];
    for (bytes, vocab_size, text) in table {
        let error = Tokenizer::parse("some/tokenizer.json", bytes, vocab_size).expect_err(text);
        assert_eq!(error.code(), "tokenizer");
        assert!(error.to_string().starts_with("some/tokenizer.json: expected ") && error.to_string().contains(text), "{error}");
    }
    assert!(Tokenizer::parse("t", &cups, 21).is_ok(), "ids 0 to 20 fit");

    // The crate's BPE decoder panics at an empty list, and its decoder Strip where it would take more than there is.
    let bpe = Tokenizer::parse("t", &with("decoder", json!({"type": "BPEDecoder", "suffix": "</w>"})), 78).unwrap();
    assert_eq!(bpe.decode(&[]).unwrap(), "");
    assert_eq!(TextStream::new(&bpe).push(5).unwrap(), bpe.decode(&[5]).unwrap());
    assert_eq!(bpe.decode(&[77]).unwrap(), "", "of an id that only the model has nothing is left");
    for (content, start, stop, text) in [("@", 1, 0, "112"), ("2", 0, 3, "@11"), ("1", 2, 2, "@2"), ("~", 1, 1, "@112")] {
        let strip = json!({"type": "Sequence", "decoders": [{"type": "Strip", "content": content, "start": start, "stop": stop}]});
        let strip = Tokenizer::parse("t", &with("decoder", strip), 78).unwrap();
        assert_eq!(strip.decode(&[0, 5, 20]).unwrap(), text.to_string() + if content == "~" { "" } else { "~" });
        assert_eq!(strip.decode(&[20]).unwrap(), if content == "~" { "" } else { "~" });
    }
}

#[test]
fn ids_past_the_vocabulary_are_refused_and_the_stream_goes_on() {
    let cups = Tokenizer::parse("tokenizer.json", &shipped("cups"), 78).unwrap();
    assert_eq!(cups.decode(&[0, 77, 5]).unwrap(), "@1 12", "an id that only the model has is no text");
    let error = cups.decode(&[0, 78]).unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), ("token", "token id 78 is past the vocabulary: expected 0 to 77"));
    let mut stream = TextStream::new(&cups);
    assert_eq!(stream.push(0).unwrap(), "@1");
    assert_eq!(stream.push(78).unwrap_err().code(), "token");
    assert_eq!(stream.push(5).unwrap(), " 12");
}

#[test]
fn a_character_split_over_tokens_is_held_back() {
    let tokenizer = byte_level();
    let text = "oh 😀é!";
    let ids = tokenizer.encode(text).unwrap();
    // The special token at the start, no truncation to 3, no padding to 40.
    let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
    assert_eq!(ids, [&[257], &bytes[..]].concat());
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    assert_eq!(stream(&tokenizer, &ids), ["", "o", "h", " ", "", "", "", "😀", "", "é", "!", ""]);
    assert_eq!(tokenizer.encode(" hh").unwrap(), [257, 256, 104]);
    assert_eq!(
        (tokenizer.text(256).as_deref(), tokenizer.text(0xf0).as_deref(), tokenizer.text(257).as_deref()),
        (Some(" h"), Some("ð"), Some("<s>"))
    );

    let fallback = byte_fallback();
    let ids = fallback.encode("a 😀 b").unwrap();
    assert_eq!(fallback.decode(&ids).unwrap(), "a 😀 b");
    let parts = stream(&fallback, &ids);
    assert_eq!((parts.concat().as_str(), parts.iter().any(|p| p.contains('\u{fffd}'))), ("a 😀 b", false), "{parts:?}");
    // Two split characters in a row: this decoder takes back the first while the second is incomplete.
    let ids: Vec<u32> = "€😀".bytes().map(u32::from).collect();
    assert_eq!(stream(&fallback, &ids), ["", "", "€", "", "", "", "😀", ""]);
}

#[test]
fn what_never_completes_is_given_at_the_end() {
    let tokenizer = byte_level();
    assert_eq!(stream(&tokenizer, &[0x61, 0xf0, 0x9f]), ["a", "", "", "\u{fffd}"]);
    // Bytes that begin no character, then a whole one: nothing of it is lost.
    let mut ids = vec![0xff; 100];
    ids.extend("😀.".bytes().map(u32::from));
    let parts = stream(&tokenizer, &ids);
    assert_eq!(parts.concat(), format!("{}😀.", "\u{fffd}".repeat(100)));
    assert!(parts[..50].iter().any(|part| !part.is_empty()), "text that will never complete is not held back for ever");
    assert_eq!(stream(&tokenizer, &[vec![257; 100], vec![0x61]].concat()).concat(), "a");
}

/// Every text comes out of a stream as it went in, wherever its tokens end.
#[test]
fn streams_add_up_to_the_text() {
    let mut state = 1u64;
    let mut random = move |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let alphabet = ["a", "b", " ", " a", "é", "€", "😀", "👩‍👩‍👧", "\u{fffd}", "\n"];
    for tokenizer in [byte_level(), byte_fallback()] {
        for _ in 0..300 {
            let text: String = (0..random(30)).map(|_| alphabet[random(alphabet.len())]).collect();
            let ids = tokenizer.encode(&text).unwrap();
            assert_eq!(stream(&tokenizer, &ids).concat(), tokenizer.decode(&ids).unwrap(), "{text:?}");
        }
    }
}

/// Work for a token must not grow with the text before it: four times the tokens in about four times the time.
#[test]
fn long_streams_take_linear_time() {
    let tokenizer = byte_level();
    for ids in [[0x61u32, 0x20], [0xff, 0xff], [257, 257]] {
        let time = |n: usize| {
            let start = std::time::Instant::now();
            let mut stream = TextStream::new(&tokenizer);
            for i in 0..n {
                stream.push(ids[i % 2]).unwrap();
            }
            start.elapsed()
        };
        let (short, long) = (time(5_000), time(20_000));
        assert!(long < short * 10 + std::time::Duration::from_millis(200), "{ids:x?}: {short:?}, then {long:?}");
    }
}
