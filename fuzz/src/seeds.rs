//! The inputs that a target starts from, made of the crate's own files when it starts.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use refrain::model::config::{Config, TensorSpec};
use refrain::model::files::{Entry, FORMAT, FORMAT_KEY, safetensors_header};

use crate::doors::{TINY, checkpoint};

/// Where no UTF-8 goes on.
const END: &[u8] = b"\xff";

/// Writes the inputs of a target to the folder that `REFRAIN_FUZZ_SEEDS` names, or to where cargo-fuzz looks for them.
pub fn write(target: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::var_os("REFRAIN_FUZZ_SEEDS").map_or_else(|| here.join("corpus").join(target), PathBuf::from);
    fs::create_dir_all(&folder).expect("a folder for the seeds");
    for (i, seed) in of(target, &here.join("..")).into_iter().enumerate() {
        fs::write(folder.join(format!("seed-{i}")), seed).expect("a seed");
    }
}

/// The inputs of a target.
fn of(target: &str, root: &Path) -> Vec<Vec<u8>> {
    let read = |path: &str| fs::read(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    match target {
        "arguments" => ARGUMENTS.iter().map(|line| line.replace(' ', "\n").into_bytes()).collect(),
        "checkpoint" => checkpoints(root),
        "config" => {
            let golden =
                ["gqa_bare", "gqa_odd", "mla_bias", "mla_all_experts"].map(|name| read(&format!("tests/golden/{name}/config.json")));
            let defaults =
                br#"{"n_loops":4,"min_loops":1,"exit":"fixed","in_place":true,"temperature":0.5,"top_k":3,"top_p":0.5,"min_p":0.1,
                "max_new_tokens":3,"eos_token_id":[1,2]}"#;
            golden.into_iter().chain([[TINY.as_bytes(), END, defaults, END, &[3, 2, 1, 4, 30]].concat()]).collect()
        }
        "quantised" => {
            let numbers: Vec<u8> = (0..64u8).flat_map(|i| (f32::from(i) * 0.1 - 3.0).to_le_bytes()).collect();
            (0..10u8).map(|i| [&[40, if i < 5 { i } else { 0xff }, i], &numbers[..], &[0; 4][..usize::from(i % 4)]].concat()).collect()
        }
        "safetensors" => {
            let golden = ["gqa_bare", "mla_bare"].map(|name| {
                let weights = read(&format!("tests/golden/{name}/model.safetensors"));
                let length = u64::from_le_bytes(weights[..8].try_into().expect("8 bytes")) as usize;
                [&read(&format!("tests/golden/{name}/config.json")), END, END, &weights[8..][..length]].concat()
            });
            golden.into_iter().chain(safetensors()).collect()
        }
        "tokenizer" => tokenizers(&read),
        "twins" => (1..=16).map(|seed| random(seed, 200)).collect(),
        other => panic!("no seeds of {other}"),
    }
}

const ARGUMENTS: [&str; 16] = [
    "run -p a --show loops",
    "run -m cups -p x --show lens,debt --trace t --seed 7 --temperature 0.5 --top-k 3 --top-p 0.9 --min-p 0.1",
    "run -m hf:owner/repo@main -n 50 -c 128 --loops 4 --min-loops 2 --exit fixed --stop x -i",
    "run -f file --in-place --schedule full --catch-up 3 --eager 2 --dtype q8",
    "forward model in.safetensors out.safetensors --loops 3",
    "sweep follow --loops 1,2,4,8 --format json",
    "bench --loops 4,8 -r 3 -d 16 --roofline --format json --config mythos_1b",
    "inspect follow --tensors --check --format json",
    "inspect --config mythos_1b --dtype q4 --memory 8GiB --sequences 3",
    "convert a.pt out --config c.json --dtype f16 --tokenizer t.json",
    "quantize a b --dtype f16,q8,q4 --quality --prompts p --limit 3",
    "devices --format json",
    "doctor --device shadow --memory 1.5GB --color always -v",
    "--help",
    "--version",
    "run --offline -q --device 3 --allow-software",
];

/// The tensors of the tiny model.
fn tiny() -> Vec<TensorSpec> {
    let config = Config::parse("config.json", TINY.as_bytes()).expect("a right config");
    config.tensors().into_iter().filter(|spec| !spec.optional).collect()
}

/// The tiny model in one file, in two shards, in blocks; a file of one tensor; the same with its own length.
fn safetensors() -> Vec<Vec<u8>> {
    let specs = tiny();
    let header = |specs: &[TensorSpec], blocks: bool| {
        let mut list = Vec::new();
        for spec in specs {
            match spec.shape.as_slice() {
                [rows, _] if blocks && spec.matrix => {
                    list.push((spec.name.clone(), "U8", vec![*rows, 16]));
                    list.push((format!("{}.scales", spec.name), "F16", vec![*rows, 1]));
                }
                shape => list.push((spec.name.clone(), "F32", shape.to_vec())),
            }
        }
        let entries: Vec<Entry> = list.iter().map(|(name, dtype, shape)| Entry { name, dtype, shape }).collect();
        let metadata = [(FORMAT_KEY, FORMAT.to_string())];
        safetensors_header("m", if blocks { &metadata } else { &[] }, &entries).expect("a right header").0
    };
    let (first, second) = specs.split_at(specs.len() / 2);
    let shard = |specs: &[TensorSpec], file: usize| -> Vec<String> {
        specs.iter().map(|spec| format!("{:?}:\"{file}.safetensors\"", spec.name)).collect()
    };
    let index = format!("{{\"weight_map\":{{{}}}}}", [shard(first, 0), shard(second, 1)].concat().join(","));
    let one = [TensorSpec { name: "w".into(), shape: vec![2, 3], optional: false, matrix: true }];
    vec![
        [TINY.as_bytes(), END, END, &header(&specs, false)[8..]].concat(),
        [TINY.as_bytes(), END, END, &header(&specs, true)[8..]].concat(),
        [TINY.as_bytes(), END, index.as_bytes(), END, &header(first, false)[8..], END, &header(second, false)[8..]].concat(),
        [END, END, &header(&one, false)[8..]].concat(),
        [END, END, b"!", &header(&one, false), &[0; 24]].concat(),
    ]
}

/// The shipped tokenizers, and small ones that have each kind of part.
fn tokenizers(read: &dyn Fn(&str) -> Vec<u8>) -> Vec<Vec<u8>> {
    let with = |model: &str, parts: &str| {
        format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{{"id":9,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}],{parts},"model":{model}}}"#
        )
    };
    let bpe = r#"{"type":"BPE","dropout":null,"unk_token":"?","continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,"vocab":{"?":0,"a":1,"b":2,"ab":3,"Ġ":4,"c":5},"merges":[["a","b"]]}"#;
    let unigram = r#"{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.0],["b",-2.5],["▁",-0.5]],"byte_fallback":false}"#;
    let piece = r###"{"type":"WordPiece","unk_token":"?","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"?":0,"a":1,"##b":2}}"###;
    let level = r#"{"type":"WordLevel","vocab":{"?":0,"a":1,"b":2},"unk_token":"?"}"#;
    let small = [
        with(
            bpe,
            r#""normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},"post_processor":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true},"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}"#,
        ),
        with(
            unigram,
            r#""normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Replace","pattern":{"String":" "},"content":"▁"},{"type":"Prepend","prepend":"▁"},{"type":"Lowercase"}]},"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"<s>":{"id":"<s>","ids":[9],"tokens":["<s>"]}}},"decoder":{"type":"Sequence","decoders":[{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},{"type":"Strip","content":" ","start":1,"stop":0},{"type":"Fuse"}]}"#,
        ),
        with(
            piece,
            r###""normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":{"type":"BertProcessing","sep":["b",2],"cls":["a",1]},"decoder":{"type":"WordPiece","prefix":"##","cleanup":true}"###,
        ),
        with(
            level,
            r#""normalizer":{"type":"Strip","strip_left":true,"strip_right":true},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"a+(?=b)|\\s"},"behavior":"Isolated","invert":false},{"type":"Punctuation","behavior":"Contiguous"},{"type":"Digits","individual_digits":true},{"type":"UnicodeScripts"},{"type":"CharDelimiterSplit","delimiter":"-"},{"type":"WhitespaceSplit"},{"type":"FixedLength","length":2}]},"post_processor":{"type":"RobertaProcessing","sep":["b",2],"cls":["a",1],"trim_offsets":true,"add_prefix_space":true},"decoder":{"type":"CTC","pad_token":"?","word_delimiter_token":"|","cleanup":true}"#,
        ),
        with(
            &bpe.replace("\"byte_fallback\":false", "\"byte_fallback\":true"),
            r#""normalizer":null,"pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"BPEDecoder","suffix":"</w>"}]}"#,
        ),
    ];
    let shipped = ["add", "cups", "follow"].map(|name| read(&format!("examples/models/{name}/tokenizer.json")));
    let prompts: [&[u8]; 8] = [b"9+1 =", b"@1 12 23", b"a >b ?a", "ab  cé".as_bytes(), b"Ab a", b"a b, a", b"aab-1 b", b"a\nab ?"];
    let jsons = shipped.into_iter().chain(small.map(String::into_bytes));
    jsons.zip(prompts).map(|(json, prompt)| [&json[..], END, prompt, END, &[1, 2, 0, 9, 3]].concat()).collect()
}

/// Bytes that nobody chose.
fn random(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| byte()).collect()
}

/// Pickles made by hand: a state dict alone, with a configuration, of the tiny model; the golden ones; one in its archive.
fn checkpoints(root: &Path) -> Vec<Vec<u8>> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let dict = |entries: &[(&str, Vec<u8>)]| {
        let entries: Vec<u8> = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
        [b"}(", &entries[..], b"u"].concat()
    };
    let int = |n: usize| [&[b'J'][..], &(n as u32).to_le_bytes()].concat();
    let ints = |numbers: &[usize]| [b"(", &numbers.iter().flat_map(|n| int(*n)).collect::<Vec<_>>()[..], b"t"].concat();
    let tensor = |class: &str, key: &str, shape: &[usize]| {
        let storage =
            [b"(", &text("storage")[..], format!("ctorch\n{class}\n").as_bytes(), &text(key), &text("cpu"), &int(64), b"tQ"].concat();
        let strides: Vec<usize> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
        let rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(";
        [rebuild, &storage[..], &int(0), &ints(shape), &ints(&strides), b"\x89ccollections\nOrderedDict\n)RtR"].concat()
    };
    let pickle = |body: Vec<u8>| [b"\x80\x02", &body[..], b"."].concat();
    let config: serde_json::Value = serde_json::from_str(TINY).expect("JSON");
    let fields: Vec<(&str, Vec<u8>)> = config
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            let value = match (value.as_u64(), value.as_f64()) {
                (Some(n), _) => int(n as usize),
                (None, Some(x)) => [b"G", &x.to_be_bytes()[..]].concat(),
                _ => text(value.as_str().unwrap_or_default()),
            };
            (name.as_str(), value)
        })
        .collect();
    let specs = tiny();
    let state: Vec<(&str, Vec<u8>)> = specs.iter().map(|spec| (spec.name.as_str(), tensor("FloatStorage", "0", &spec.shape))).collect();
    let small = dict(&[("w", tensor("FloatStorage", "0", &[2, 3])), ("h", tensor("HalfStorage", "1", &[4]))]);
    let alone = pickle(small.clone());
    let mut list = vec![
        checkpoint::archive(&alone),
        alone,
        pickle(dict(&[("model_state_dict", small), ("cfg", dict(&fields)), ("step", int(3))])),
        pickle(dict(&[("model", dict(&state)), ("cfg", dict(&fields))])),
    ];
    for name in ["gqa_bare", "gqa_bare_f64", "mla_bare"] {
        let file = fs::File::open(root.join(format!("tests/golden/checkpoints/{name}.pt"))).expect("a golden checkpoint");
        let mut zip = zip::ZipArchive::new(file).expect("an archive");
        let name = zip.file_names().find(|name| name.ends_with("/data.pkl")).expect("a pickle").to_string();
        let mut pickle = Vec::new();
        zip.by_name(&name).expect("a pickle").read_to_end(&mut pickle).expect("a pickle");
        list.push(pickle);
    }
    list
}
