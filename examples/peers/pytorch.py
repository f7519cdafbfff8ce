"""Time the published PyTorch package on a model folder: the rows of `refrain bench`, in its JSON.

    pip install -r requirements.txt && pip install --no-deps open-mythos==0.5.0
    python pytorch.py -m DIR -p 128 -n 24 -d 0,512 --loops 8 -r 3 --threads 2

As its users run it: f32 on the CPU, a prompt in one forward pass into an empty cache, generation one token at a time with the cache, each
the best after the one before it. With a cache the package always runs all loops, as `refrain bench` does. Its mask has no room for cached
tokens before a prompt, so prompts have no rows at `-d` other than 0.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
import time
import types
from dataclasses import fields
from pathlib import Path

try:
    import torch
    from safetensors.torch import load_file
except ImportError as error:
    sys.exit(f"{error.name} is missing: pip install -r requirements.txt")


def number(least):
    """Reads a whole number from `least` on."""

    def read(text):
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, found {text!r}")
        return int(text)

    return read


def numbers(least):
    """Reads several, with commas between them."""
    return lambda text: [number(least)(part) for part in text.split(",")]


def arguments(parser):
    """The options that this script shares with `refrain bench`."""
    parser.add_argument("-m", "--model", type=Path, required=True, metavar="DIR", help="config.json and *.safetensors")
    parser.add_argument("-p", "--prompt-tokens", type=number(0), default=128, metavar="N", help="0 leaves prompts out")
    parser.add_argument("-n", "--new-tokens", type=number(0), default=32, metavar="N", help="0 leaves generation out")
    parser.add_argument("-d", "--cached", type=numbers(0), default=[0], metavar="N,N,…", help="tokens that are in the cache before")
    parser.add_argument("--loops", type=numbers(1), metavar="N,N,…", help="loops of every token [default: the model's own]")
    parser.add_argument("-r", "--repeat", type=number(1), default=5, metavar="N", help="timed runs of each row")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--threads", type=number(1), default=threads, metavar="N", help="[default: %(default)s]")


def check(args):
    """Ends with one line where there is no model, or where it has no room for the rows; else its loops where none are asked for."""
    if not (args.model / "config.json").is_file():
        wanted = "a model folder, such as examples/models/follow: names of shipped models are refrain's alone"
        sys.exit(f"-m: expected {wanted}; found {str(args.model)!r}, which has no config.json")
    config = json.loads((args.model / "config.json").read_text())
    most = max(args.prompt_tokens, args.new_tokens)
    if not most:
        sys.exit("-p and -n: expected at least 1 token in one of them, found 0")
    asked, positions = max(args.cached) + most, config.get("max_seq_len")
    if positions and asked > positions:
        sys.exit(f"-p, -n, -d: {asked} positions asked for, but the model has {positions}")
    # As refrain chooses them.
    defaults = args.model / "generation_config.json"
    own = json.loads(defaults.read_text()).get("n_loops") if defaults.is_file() else None
    return own or config.get("max_loop_iters")


def load(folder):
    """The package's model with the folder's weights."""
    if importlib.util.find_spec("open_mythos") is None:
        sys.exit("the package is missing: pip install --no-deps open-mythos==0.5.0")
    if importlib.util.find_spec("transformers") is None:  # only its tokenizer needs that
        sys.modules["transformers"] = types.ModuleType("transformers")
        sys.modules["transformers"].AutoTokenizer = None
    import open_mythos.main as mythos

    config = json.loads((folder / "config.json").read_text())
    known = {field.name for field in fields(mythos.MythosConfig)}
    model = mythos.OpenMythos(mythos.MythosConfig(**{key: value for key, value in config.items() if key in known}))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        sys.exit(f"{folder}: no *.safetensors")
    weights = {name: tensor.float() for file in files for name, tensor in load_file(file).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # What is derived from the config, and the head, which is the embedding.
    missing = set(missing) - {"head.weight", "freqs_cis", "freqs_cis_mla"}
    if missing or unexpected:
        sys.exit(f"{folder}: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    return model.eval()


def prompt(vocabulary, count):
    """The token ids of `refrain bench`."""
    return torch.tensor([[(i * 0x9E3779B1 % 2**32) * vocabulary >> 32 for i in range(1, count + 1)]])


def once(model, cache, kind, count, cached, loops):
    """Seconds of one run after the tokens in the cache, which stays as it is: the package replaces entries and changes none."""
    cache = {key: dict(entry) for key, entry in cache.items()}
    tokens = prompt(model.cfg.vocab_size, count)
    start = time.perf_counter()
    if kind == "prompt":
        model(tokens, n_loops=loops, kv_cache=cache)[0, -1].argmax().item()
    else:
        token = tokens[:, :1]
        for position in range(cached, cached + count):
            token = model(token, n_loops=loops, kv_cache=cache, start_pos=position)[:, -1].argmax(-1, keepdim=True)
        token.item()
    return time.perf_counter() - start


def rate(seconds, steps):
    rates = [steps / s for s in seconds]
    sd = statistics.stdev(rates) if len(rates) > 1 else None
    return {"mean": statistics.mean(rates), "sd": sd, "median": statistics.median(rates)}


def row(model, kind, count, cached, loops, repeat):
    """A row of the bench: run once to warm up, then `repeat` times."""
    cache = {}
    if cached:
        model(prompt(model.cfg.vocab_size, cached), n_loops=loops, kv_cache=cache)
    seconds = [once(model, cache, kind, count, cached, loops) for _ in range(repeat + 1)][1:]
    return {
        "test": f"{'pp' if kind == 'prompt' else 'tg'}{count}" + (f" @ d{cached}" if cached else ""),
        "kind": kind,
        "tokens": count,
        "cached": cached,
        "loops": loops,
        "seconds": seconds,
        "tokens_per_second": rate(seconds, count),
        "loop_steps_per_second": rate(seconds, count * loops),
    }


def main():
    parser = argparse.ArgumentParser(usage="%(prog)s -m DIR [options]", description=__doc__.partition("\n")[0])
    arguments(parser)
    args = parser.parse_args()
    own = check(args)
    torch.set_num_threads(args.threads)
    model = load(args.model)
    rows = []
    with torch.inference_mode():
        for loops in args.loops or [own or model.cfg.max_loop_iters]:
            for cached in args.cached:
                if args.prompt_tokens and not cached:
                    rows.append(row(model, "prompt", args.prompt_tokens, cached, loops, args.repeat))
                if args.new_tokens:
                    rows.append(row(model, "generation", args.new_tokens, cached, loops, args.repeat))
    total = sum(parameter.numel() for parameter in model.parameters())
    routed = model.recurrent.block.ffn.routed_experts
    idle = sum(parameter.numel() for parameter in routed.parameters()) * (1 - model.cfg.n_experts_per_tok / len(routed))
    result = {
        "version": f"open-mythos {importlib.metadata.version('open-mythos')}, torch {torch.__version__}",
        "model": str(args.model),
        "config": None,
        "parameters": {"total": total, "active": total - round(idle)},
        "device": {"name": "CPU", "adapter": None, "threads": torch.get_num_threads()},
        "dtypes": {"f32": 4 * total},
        "memory": {"weights_bytes": 4 * total},
        "repeat": args.repeat,
        "rows": rows,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
