//! Checkpoints made by hand, byte by byte: in every shape that is right, damaged, lying, or out to run something. What is wrong with
//! them is named, and nothing panics, runs, or takes much.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use refrain::Error;
use refrain::model::files::Checkpoint;
use serde_json::Value;
use zip::write::SimpleFileOptions;

use crate::convert::{NONE, check_error, fails, golden, names, refrain};

/// A zip archive of stored entries.
pub fn pack(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A checkpoint with this pickle and 6 numbers in storage 0.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    pack(&[("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", &[0; 24])])
}

fn open(bytes: &[u8]) -> Result<Checkpoint, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.pt");
    fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

/// Opening fails as a checkpoint that names the file, with these words.
fn refused(bytes: &[u8], words: &[&str]) {
    let error = open(bytes).map(|_| ()).expect_err(&format!("{words:?}"));
    let message = error.to_string();
    assert_eq!(error.code(), "checkpoint", "{message}");
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()));
    for word in words.iter().chain([&"c.pt: expected "]) {
        assert!(message.contains(word), "no {word:?} in {message}");
    }
}

// Parts of a pickle.
pub fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}
pub fn int(n: i64) -> Vec<u8> {
    [b"\x8a\x08".as_slice(), &n.to_le_bytes()].concat()
}
pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".as_slice(), &items.concat(), b"t"].concat()
}
fn ints(numbers: &[i64]) -> Vec<u8> {
    tuple(&numbers.iter().map(|n| int(*n)).collect::<Vec<_>>())
}
pub fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(".as_slice(), &entries, b"u"].concat()
}
pub fn name(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}
fn call(function: Vec<u8>, arguments: &[Vec<u8>]) -> Vec<u8> {
    [function, tuple(arguments), b"R".to_vec()].concat()
}
pub fn storage(class: &str, key: &str, count: i64) -> Vec<u8> {
    let parts = [text("storage"), name("torch", class), text(key), text("cpu"), int(count)];
    [tuple(&parts), b"Q".to_vec()].concat()
}
pub fn tensor_of(storage: Vec<u8>, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let hooks = call(name("collections", "OrderedDict"), &[]);
    call(name("torch._utils", "_rebuild_tensor_v2"), &[storage, int(offset), ints(shape), ints(strides), b"\x89".to_vec(), hooks])
}
fn tensor(offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    tensor_of(storage("FloatStorage", "0", 6), offset, shape, strides)
}
pub fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}
fn state(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    checkpoint(&pickle(&dict(entries)))
}

#[test]
fn files_that_are_no_checkpoint_say_what_they_are() {
    refused(b"", &["an empty file"]);
    refused(b"<!DOCTYPE html><html>", &["an HTML page"]);
    refused(b"version https://git-lfs.github.com/spec/v1", &["a Git LFS pointer"]);
    refused(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", &["PyTorch before 1.6"]);
    refused(&fs::read(golden("gqa_bare/model.safetensors")).unwrap(), &["a safetensors file"]);
    refused(&pickle(&dict(&[])), &["a bare pickle"]);
    refused(b"{\"dim\": 3}", &["a JSON file"]);
    refused(b"GGUF\x03\0\0\0", &["a GGUF file"]);
    refused(b"\x7fELF", &["no zip archive"]);
    refused(&pack(&[("word/document.xml", b"<w/>")]), &["a zip archive without data.pkl"]);
    refused(&pack(&[("a/data.pkl", b""), ("a/constants.pkl", b"")]), &["a TorchScript program"]);
    refused(&pack(&[("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"big")]), &["\"little\"", "\"big\""]);
    refused(&checkpoint(&pickle(&int(5))), &["a state dict", "model, state_dict or model_state_dict", "an integer"]);
    refused(&state(&[("net", dict(&[])), ("step", int(1))]), &["a state dict", "\"net\", \"step\""]);
    refused(&checkpoint(b"\x80\x00."), &["protocol 2 to 5", "protocol 0"]);
    // As the command line has it.
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m");
    fails(&[&golden("gqa_bare/model.safetensors"), &out], "checkpoint", &["model.safetensors", "a safetensors file"]);
    fails(&[&golden("gqa_bare"), &out], "file", &["not a regular file"]);
    fails(&[Path::new("nowhere.pt"), &out], "file", &["cannot read nowhere.pt"]);
    assert_eq!(names(folder.path()), NONE);
}

#[test]
fn the_state_dict_is_found_and_its_names_are_plain() {
    let good = || tensor(0, &[2, 3], &[3, 1]);
    let wrapped = dict(&[("module.a", good()), ("_orig_mod.module.b._orig_mod.c", good()), ("x._fsdp_wrapped_module.y", good())]);
    for file in [
        checkpoint(&pickle(&wrapped)),
        state(&[("step", int(1)), ("model", wrapped.clone())]),
        state(&[("state_dict", wrapped.clone()), ("optimizer", dict(&[("t", good())]))]),
        state(&[("model_state_dict", wrapped.clone())]),
    ] {
        let checkpoint = open(&file).unwrap();
        assert_eq!(checkpoint.weights().tensors().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b.c", "x.y"]);
        assert!(checkpoint.config().is_none());
    }
    // A configuration is the first that has a field `dim`; a value that is not plain is left out and said to be.
    let config = dict(&[("dim", int(4)), ("dtype", name("torch", "bfloat16")), ("set", b"\x8f".to_vec()), ("list", ints(&[1, 2]))]);
    let object = [name("anywhere.at.all", "MythosConfig"), b")\x81".to_vec(), config.clone(), b"b".to_vec()].concat();
    for config in [config, object] {
        let file = state(&[("model", wrapped.clone()), ("cfg", dict(&[("lr", int(1))])), ("args", config)]);
        let checkpoint = open(&file).unwrap();
        let expected = serde_json::json!({"dim": 4, "dtype": "bfloat16", "list": [1, 2]});
        assert_eq!(Value::Object(checkpoint.config().unwrap().clone()), expected);
        assert_eq!(checkpoint.notes(), ["left out args.set: a set is no plain value"]);
    }
    let checkpoint = open(&state(&[("a", good()), ("b", int(3))])).unwrap();
    assert_eq!(checkpoint.notes(), ["passed over \"b\" of the state dict: an integer, not a tensor"]);
}

#[test]
fn tensors_that_cannot_be_read_are_named() {
    let one = |tensor: Vec<u8>| state(&[("w", tensor)]);
    let wrong = |tensor: Vec<u8>, words: &[&str]| refused(&one(tensor), words);
    // Views, sizes of 1 with any stride, and no numbers at all are fine.
    for (offset, shape, strides) in
        [(3, &[3][..], &[1][..]), (0, &[1, 6], &[77, 1]), (5, &[], &[]), (6, &[0, 9], &[1, 1]), (0, &[2, 1, 3], &[3, -9, 1])]
    {
        let checkpoint = open(&one(tensor(offset, shape, strides))).unwrap();
        let shape: Vec<usize> = shape.iter().map(|size| *size as usize).collect();
        assert_eq!(checkpoint.weights().tensors().next().unwrap().shape, shape);
    }
    wrong(tensor(0, &[3, 2], &[1, 3]), &["tensor w to be contiguous", "[1, 3]"]);
    wrong(tensor(0, &[2, 3], &[0, 1]), &["tensor w to be contiguous"]);
    wrong(tensor(0, &[2, 3], &[-3, 1]), &["tensor w to be contiguous"]);
    // A lazy view: what is stored is to be negated.
    let view = |metadata: Vec<u8>| {
        let (hooks, no) = (call(name("collections", "OrderedDict"), &[]), b"\x89".to_vec());
        let arguments = [storage("FloatStorage", "0", 6), int(0), ints(&[6]), ints(&[1]), no, hooks, metadata];
        call(name("torch._utils", "_rebuild_tensor_v2"), &arguments)
    };
    wrong(view(dict(&[("neg", b"\x88".to_vec())])), &["tensor w to be stored as it is", "negates or conjugates"]);
    assert!(open(&one(view(b"}".to_vec()))).is_ok() && open(&one(view(b"N".to_vec()))).is_ok());
    wrong(tensor(1, &[2, 3], &[3, 1]), &["tensor w inside its storage \"0\"", "24 bytes from byte 4 on, of 24"]);
    wrong(tensor(0, &[7], &[1]), &["tensor w inside its storage"]);
    wrong(tensor(7, &[0], &[1]), &["tensor w inside its storage"]);
    wrong(tensor(-1, &[2], &[1]), &["tensor w of a size", "from number -1"]);
    wrong(tensor(i64::MAX, &[2], &[1]), &["tensor w of a size"]);
    wrong(tensor(0, &[-2, -3], &[-3, 1]), &["tensor w of a size", "[-2, -3]"]);
    wrong(tensor(0, &[1 << 40, 1 << 40], &[1 << 40, 1]), &["tensor w of a size"]);
    wrong(tensor(0, &[i64::MAX], &[1]), &["tensor w of a size"]);
    wrong(tensor(0, &[2, 3], &[1]), &["2 strides"]);
    wrong(tensor(0, &[1; 9], &[1; 9]), &["at most 8 dimensions"]);
    wrong(tensor_of(int(3), 0, &[2], &[1]), &["the storage of a tensor"]);
    wrong(tensor_of(storage("FloatStorage", "1", 6), 0, &[2], &[1]), &["storage \"1\"", "no such entry"]);
    wrong(tensor_of(storage("FloatStorage", "../byteorder", 6), 0, &[2], &[1]), &["no such entry"]);
    wrong(tensor_of(storage("FloatStorage", "0", 7), 0, &[2], &[1]), &["storage \"0\" of 7 F32 numbers", "24 bytes"]);
    wrong(tensor_of(storage("FloatStorage", "0", -6), 0, &[2], &[1]), &["storage \"0\" of -6"]);
    wrong(tensor_of(storage("Size", "0", 6), 0, &[2], &[1]), &["('storage', class, key, device, count)"]);
    let good = tensor(0, &[2], &[1]);
    refused(&state(&[("a", good.clone()), ("module.a", good.clone())]), &["each tensor once", "a twice"]);
    refused(&state(&[("a", good.clone()), ("a", good.clone())]), &["each tensor once"]);
    // Entries that are not stored as they are: the method, in the local header and in the directory, becomes 8.
    for (entry, shown) in [("a/data/0", "a/data/0"), ("a/data.pkl", "a/data.pkl")] {
        let mut file = one(good.clone());
        let places: Vec<usize> = (0..file.len()).filter(|&at| file[at..].starts_with(entry.as_bytes())).collect();
        assert_eq!(places.len(), 2);
        (file[places[0] - 22], file[places[1] - 36]) = (8, 8);
        refused(&file, &[shown, "compressed"]);
    }
    // The directory says that the last entry is longer than the file.
    let mut file = one(good);
    let at = (0..file.len()).rfind(|&at| file[at..].starts_with(b"a/data/0")).unwrap();
    for size in [at - 26, at - 22] {
        file[size..size + 4].copy_from_slice(&1_000_000u32.to_le_bytes());
    }
    refused(&file, &["the entry a/data/0", "1000000 bytes"]);
}

// ---- pickles that would run something -------------------------------------------------------------------------------

#[test]
fn code_is_refused_by_name_and_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("marker");
    let touch = format!("touch {}", marker.display());
    let run = |module: &str, function: &str| call(name(module, function), &[text(&touch)]);
    let stack_global =
        |module: &str, name: &str| [text(module), text(name), b"\x93".to_vec(), tuple(&[text(&touch)]), b"R".to_vec()].concat();
    let inst = [b"(".to_vec(), text(&touch), b"ios\nsystem\n".to_vec()].concat();
    let obj = [b"(".to_vec(), name("os", "system"), text(&touch), b"o".to_vec()].concat();
    let getattr = call(name("builtins", "getattr"), &[name("torch._utils", "_rebuild_tensor_v2"), text("__globals__")]);
    let newobj = [name("subprocess", "Popen"), tuple(&[text(&touch)]), b"\x81".to_vec()].concat();
    let newobj_ex = [name("subprocess", "Popen"), tuple(&[text(&touch)]), b"}\x92".to_vec()].concat();
    let inner = call(name("torch._tensor", "_rebuild_from_type_v2"), &[name("os", "popen"), b"N".to_vec(), ints(&[]), b"N".to_vec()]);
    for (body, found) in [
        (run("os", "system"), "a use of os.system"),
        (run("posix", "system"), "a use of posix.system"),
        (run("builtins", "eval"), "a use of builtins.eval"),
        (run("__builtin__", "exec"), "a use of __builtin__.exec"),
        (run("torch", "load"), "a use of torch.load"),
        (run("torch.serialization", "load"), "a use of torch.serialization.load"),
        (run("collections", "OrderedDict.__reduce__"), "a use of collections.OrderedDict.__reduce__"),
        (run("x\u{1b}[2J", "MythosConfig2"), "x\\u{1b}[2J.MythosConfig2"),
        (stack_global("nt", "system"), "a use of nt.system"),
        (inst, "a use of os.system"),
        (obj, "a use of os.system"),
        (getattr, "a use of builtins.getattr"),
        (newobj, "a use of subprocess.Popen"),
        (newobj_ex, "a use of subprocess.Popen"),
        (inner, "a use of os.popen"),
    ] {
        // Beside good tensors, and where nobody would look.
        let good = tensor(0, &[2], &[1]);
        refused(&state(&[("model", dict(&[("a", good)])), ("optimizer", dict(&[("x", body)]))]), &[found]);
    }
    // Known names with arguments that they do not take are damage, not calls.
    for body in [
        call(name("torch._utils", "_rebuild_tensor_v2"), &[text(&touch)]),
        call(name("collections", "OrderedDict"), &[int(3)]),
        call(name("a", "MythosConfig"), &[text(&touch)]),
        call(text("os.system"), &[text(&touch)]),
        call(name("torch", "bfloat16"), &[]),
        [int(1), b"Q".to_vec()].concat(),
        b"\x82\x01".to_vec(),
        b"Pposix.system\n".to_vec(),
        b"I1\n".to_vec(),
        b"\x97".to_vec(),
        b"\xff".to_vec(),
        b"0".to_vec(),
        b"h\x05".to_vec(),
        b"t".to_vec(),
        b"}(Nu".to_vec(),
        b"Na".to_vec(),
        b"NNb".to_vec(),
        b"(.".to_vec(),
        b"X\x01\0\0\0\xff".to_vec(),
    ] {
        refused(&checkpoint(&pickle(&body)), &["data.pkl"]);
    }
    assert!(!marker.exists());
    // On the command line: the hint says what to do.
    let bad = folder.path().join("bad.pt");
    fs::write(&bad, checkpoint(&pickle(&run("posix", "system")))).unwrap();
    let output = refrain(&[&bad, &folder.path().join("m")]);
    check_error(&output, "checkpoint", &["bad.pt", "posix.system"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("hint: nothing was run"));
    assert_eq!(names(folder.path()), ["bad.pt"]);
}

/// Small files that would take much: each is refused, or read, in little memory and time.
#[cfg(target_os = "linux")]
#[test]
fn bombs_take_little() {
    const MANY: usize = 6_000_000;
    let good = dict(&[("w", tensor(0, &[2], &[1]))]);
    let repeat = |bytes: &[u8], count: usize| bytes.repeat(count);
    let doubling: Vec<u8> = (0..64).flat_map(|_| *b"(2ee2(2e").collect();
    let big_dict = [b"}q\x01(".to_vec(), repeat(b"NN", 100_000), b"u".to_vec()].concat();
    let copies = call(name("collections", "OrderedDict"), &[b"h\x01".to_vec()]);
    let record = [name("a", "MythosConfig"), b")\x81".to_vec(), repeat(b"h\x01b", 100_000)].concat();
    for (what, body, words) in [
        ("values", repeat(b"]0", MANY), "at most 4194304 values"),
        ("values on the stack", repeat(b"]", MANY), "at most 4194304 values"),
        ("values put aside", [b"N".to_vec(), repeat(b"\x94", MANY)].concat(), "copies"),
        ("marks", repeat(b"(", MANY), "at most 65536 containers"),
        ("deep lists", [repeat(b"]", 3_000_000), repeat(b"a", 2_999_999)].concat(), "a state dict"),
        ("copied dicts", [big_dict.clone(), b"0".to_vec(), copies.repeat(100_000)].concat(), "copies"),
        ("copied fields", [big_dict, b"0".to_vec(), record].concat(), "copies"),
        ("a long text", b"X\xff\xff\xff\xff".to_vec(), "4294967295 more bytes"),
        ("a longer text", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "more bytes"),
        ("a long integer", b"\x8b\xff\xff\xff\xff".to_vec(), "more bytes"),
        ("lists of lists of themselves", [b"]".to_vec(), doubling].concat(), "data.pkl"),
        // A list that holds itself, as the configuration.
        ("a circle", dict(&[("model", good), ("cfg", dict(&[("dim", b"]q\x02h\x02a".to_vec())]))]), "vocab_size"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.pt");
        fs::write(&path, checkpoint(&pickle(&body))).unwrap();
        let started = Instant::now();
        let script = "ulimit -v 1000000; exec \"$0\" convert c.pt m";
        let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_refrain")]).current_dir(folder.path()).output().unwrap();
        let code = if what == "a circle" { "config" } else { "checkpoint" };
        check_error(&output, code, &["c.pt", words]);
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: {:?}", started.elapsed());
    }
}

#[test]
fn a_file_cut_or_changed_anywhere_is_no_panic() {
    let body = dict(&[("model", dict(&[("w", tensor(0, &[2, 3], &[3, 1]))])), ("cfg", dict(&[("dim", int(3)), ("x", ints(&[1]))]))]);
    let whole = pickle(&body);
    assert!(open(&checkpoint(&whole)).is_ok());
    for end in 0..whole.len() {
        refused(&checkpoint(&whole[..end]), &["data.pkl", "cut short"]);
    }
    let file = checkpoint(&whole);
    for end in 0..file.len() {
        let error = open(&file[..end]).map(|_| ()).expect_err("a cut file");
        assert_eq!(error.code(), "checkpoint", "{end}: {error}");
    }
    // Any answer will do, but a panic.
    for at in 0..file.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut file = file.clone();
            file[at] ^= change;
            let _ = open(&file);
        }
    }
}
