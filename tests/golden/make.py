"""Make golden cases: a small model, its inputs, and every number the published PyTorch package computes from them.

The package is the reference, so this script only imports it and listens in: forward hooks collect what the modules
return, and the few numbers that no module returns (ACT weights, depths, chosen experts) are worked out from those and
checked against what the package did with them. `--check` recomputes folders that exist already; that it reproduces the
cases that came with the specification is the proof that the maker is right.

    python -m venv venv
    venv/bin/pip install torch safetensors numpy           # the CPU build is enough
    venv/bin/pip install --no-deps open-mythos==0.5.0      # transformers: only for its tokenizer

    make.py --config config.json --seed 7 --prompt-len 12 --loops 4 --decode 4 --batch 1 --redraw --out DIR
    make.py --random --seed 7 --redraw --out DIR           # the config and the run are drawn from the seed too
    make.py --random --seed 7 --count 60 --redraw --out D  # D/rand_007 … D/rand_066
    make.py --named all --redraw --out D                   # the hand-picked corners, D/mla_bare …
    make.py --check DIR...                                 # recompute; exit 1 if a tensor is off by more than 1e-5

Shapes: B sequences of T prompt tokens and N decoded ones, L loops, K experts a token, D dim, V vocabulary. A case holds
`input_ids (B, T+N)`; `logits (B, T+N, V)` and `loops_used_full (B, T+N)` of one pass over everything; `logits_prompt
(B, T, V)`; `logits_decode (B, N+1, V)`, the last prompt position and each single step after it; and of the prompt pass
`embed`, `prelude.i`, `recurrent`, `coda.i (B, T, D)`, `loop.h (L, B, T, D)`, `loop.halt_p`, `loop.weight (L, B, T)`,
`loop.experts`, `loop.gates (L, B, T, K)`, `loops_used (B, T)`.
"""

import argparse
import importlib.util
import json
import math
import random
import sys
import types
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

if importlib.util.find_spec("transformers") is None:
    stub = types.ModuleType("transformers")
    stub.AutoTokenizer = None
    sys.modules["transformers"] = stub

import open_mythos.main as mythos  # noqa: E402  (the stub has to be in place first)

# Buffers that the package derives from the config; and the head, which is the embedding.
DERIVED = {"head.weight", "freqs_cis", "freqs_cis_mla"}
# A decision nearer to its threshold than this could fall either way by rounding alone, so such a draw is no test.
DECISION = 1e-3
# The order inside the chosen K changes no decision, only the order in which `loop.experts` lists them.
ORDER = 2e-5
# How much a relative error of 1e-6 in the embeddings may grow; more, and the tolerances would measure the draw.
AMPLIFICATION = 100.0


# ---- running the package -------------------------------------------------------------------------------------------


class Recorder:
    """Collects module outputs of one forward pass, in the order of the calls: inside the loop, one a loop."""

    def __init__(self, model):
        block = model.recurrent
        self.modules = {"embed": model.embed, "recurrent": block, "h": block.injection, "p": block.act,
                        "router": block.block.ffn.router}
        self.modules |= {f"prelude.{i}": m for i, m in enumerate(model.prelude)}
        self.modules |= {f"coda.{i}": m for i, m in enumerate(model.coda)}

    def __enter__(self):
        self.seen = {name: [] for name in self.modules}
        self.handles = [m.register_forward_hook(lambda _m, _args, out, name=name: self.seen[name].append(out.detach()))
                        for name, m in self.modules.items()]
        return self.seen

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def halting(p, threshold):
    """ACT from the halting probabilities p (L, B, T): weights, depths, and the closest call a running token had.

    A depth is the number of loops up to and with the one in which the token halted, or L if it never did.
    """
    total = torch.zeros_like(p[0])
    running = torch.ones_like(p[0], dtype=torch.bool)
    used = torch.full_like(p[0], p.shape[0], dtype=torch.int32)
    weights, margin = [], math.inf
    for t, step in enumerate(p):
        reached = total + step >= threshold
        weight = torch.where(reached, (1 - total).clamp(min=0), step)
        weights.append(torch.where(running, weight, torch.zeros_like(weight)))
        if running.any():
            margin = min(margin, (total + step - threshold).abs()[running].min().item())
        used[running & reached] = t + 1
        total = torch.where(running, total + step, total)
        running = running & ~reached
    return torch.stack(weights), used, margin


def routing(model, logits, shape):
    """Chosen experts and gates (L, B, T, K) from the router's outputs, with the smallest gaps of the biased logits."""
    k, bias = model.cfg.n_experts_per_tok, model.recurrent.block.ffn.router_bias
    logits = torch.stack(logits)
    experts = (logits + bias).topk(k, dim=-1).indices
    gates = logits.softmax(-1).gather(-1, experts)
    gates = gates / gates.sum(-1, keepdim=True)
    ranked = (logits + bias).sort(-1, descending=True).values
    gaps = ranked[..., :-1] - ranked[..., 1:]
    decision = gaps[..., k - 1].min().item() if k < logits.shape[-1] else math.inf
    order = gaps[..., : k - 1].min().item() if k > 1 else math.inf
    shape = (len(logits), *shape, k)
    return experts.reshape(shape).int(), gates.reshape(shape), decision, order


@torch.no_grad()
def golden(model, ids, run):
    """All tensors of a case, and the margins of its draw. ids: (B, T+N) int32."""
    prompt, loops = run["prompt_len"], run["n_loops"]
    threshold, recorder = model.cfg.act_threshold, Recorder(model)
    ids = ids.long()
    out = {"input_ids": ids.int()}

    # Everything at once, as the package does it without a cache: it stops once every token has halted.
    with recorder as seen:
        out["logits"] = model(ids, n_loops=loops)
    out["loops_used_full"] = halting(torch.stack(seen["p"]), threshold)[1]  # having stopped, it ran the deepest depth
    # The same with a cache runs every loop; it sees all decisions, and says that stopping early changed nothing.
    with recorder as seen:
        same = model(ids, n_loops=loops, kv_cache={})
    assert close(same, out["logits"]) < 1e-5, "the package's early exit changed the logits"
    _, used, halt_gap = halting(torch.stack(seen["p"]), threshold)
    assert (used == out["loops_used_full"]).all()
    _, _, expert_gap, order_gap = routing(model, seen["router"], ids.shape)

    # The prompt with a cache (so that every loop runs and h is known at all of them), then one token a step.
    cache = {}
    with recorder as seen:
        logits = model(ids[:, :prompt], n_loops=loops, kv_cache=cache)
    out["logits_prompt"] = logits
    steps = [logits[:, -1]]
    for i in range(prompt, ids.shape[1]):
        steps.append(model(ids[:, i : i + 1], n_loops=loops, kv_cache=cache, start_pos=i)[:, 0])
    out["logits_decode"] = torch.stack(steps, 1)

    for name, value in seen.items():
        if name not in ("h", "p", "router"):
            (out[name],) = value
    out["loop.h"], out["loop.halt_p"] = torch.stack(seen["h"]), torch.stack(seen["p"])
    out["loop.weight"], out["loops_used"], _ = halting(out["loop.halt_p"], threshold)
    out["loop.experts"], out["loop.gates"], _, _ = routing(model, seen["router"], (ids.shape[0], prompt))
    mixed = (out["loop.weight"].unsqueeze(-1) * out["loop.h"]).sum(0)
    assert close(mixed, out["recurrent"]) < 1e-5, "our ACT weights do not give the package's recurrent output"
    out = {name: value.contiguous() for name, value in out.items()}
    return out, {"halt": halt_gap, "expert": expert_gap, "order": order_gap}


@torch.no_grad()
def amplification(model, ids, run, reference):
    """By how much a relative error of 1e-6 in the embeddings has grown in the worst stage of the prompt pass."""
    kept = model.embed.weight.clone()
    noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
    model.embed.weight.mul_(1 + 1e-6 * noise)
    with Recorder(model) as seen:
        logits = model(ids[:, : run["prompt_len"]].long(), n_loops=run["n_loops"], kv_cache={})
    model.embed.weight.copy_(kept)
    stages = {"loop.h": torch.stack(seen["h"]), "recurrent": seen["recurrent"][0], "logits_prompt": logits}
    return max(close(value, reference[name]) for name, value in stages.items()) / 1e-6


def close(a, b):
    """The largest difference, relative to the largest value."""
    a, b = a.double(), b.double()
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() if b.numel() else 0.0


def build(config):
    if getattr(mythos, "_HAS_FLASH_ATTN", False):
        sys.exit("flash_attn is installed: the package would compute GQA in bfloat16, which is not the reference")
    return mythos.OpenMythos(mythos.MythosConfig(**config)).eval()  # eval: the package drops out by default


# ---- drawing a case ------------------------------------------------------------------------------------------------


@torch.no_grad()
def draw_weights(model, seed):
    """Weights of a size at which every part matters: at the package's own 0.02 each block is nearly the identity."""
    rng, g = random.Random(seed), torch.Generator().manual_seed(seed)
    gain, router_gain, embed = rng.uniform(0.5, 1.0), rng.uniform(2, 4), rng.choice([0.1, 0.3, 1.0])
    for name, w in model.named_parameters():
        noise = torch.randn(w.shape, generator=g)
        if name.endswith("norm.weight"):
            w.copy_(1 + 0.2 * noise)
        elif name == "embed.weight":
            w.copy_(embed * noise)
        elif name.endswith("lora.scale.weight"):
            w.copy_(noise)
        elif name.endswith("lora.B"):
            w.copy_(0.4 * noise / math.sqrt(w.shape[0]))
        elif name.endswith("injection.log_A"):
            w.copy_(noise)
            if rng.random() < 0.3:  # far beyond the clamp on both sides, where A is exactly 0 and exactly 1
                w[0], w[-1] = 40.0, -40.0
        elif name.endswith("injection.log_dt"):
            w.fill_(rng.uniform(-3, 1))
        elif name.endswith("injection.B"):
            w.copy_(0.1 + 0.3 * noise)
        elif name.endswith("router.weight"):
            w.copy_(router_gain * noise / math.sqrt(w.shape[1]))
        elif w.dim() == 2:
            w.copy_(gain * noise / math.sqrt(w.shape[1]))
    bias = model.recurrent.block.ffn.router_bias
    if rng.random() < 0.5:
        bias.copy_(torch.randn(bias.shape, generator=g))


@torch.no_grad()
def aim_halting(model, ids, run, seed):
    """Scale the halting probe to the h it will see, so that the tokens halt at different loops, and some never.

    Halting does not feed back into h, so one pass with any probe gives the h that the final one will see.
    """
    rng, act = random.Random(seed), model.recurrent.act.halt
    with Recorder(model) as seen:
        model(ids.long(), n_loops=run["n_loops"], kv_cache={})
    score = torch.stack(seen["h"]) @ act.weight[0]
    depth = rng.uniform(1.2, 1.3 * run["n_loops"] + 0.5)
    p = min(model.cfg.act_threshold / depth, 0.8)
    act.weight.mul_(rng.uniform(0.7, 2.0) / score.std().clamp(min=1e-6))
    score = torch.stack(seen["h"]) @ act.weight[0]
    act.bias.fill_(math.log(p / (1 - p)) - score.mean().item())


def random_case(seed):
    """A small config and a run for it, with the corners (0, 1, all, odd, tight) drawn often."""
    rng = random.Random(seed)

    def often(corner, chance, low, high):
        return corner if rng.random() < chance else rng.randint(low, high)

    mla = rng.random() < 0.5
    heads = rng.randint(1, 6)
    # GQA rotates pairs of a head, so its head size is even; MLA has its own sizes and `dim` may be odd.
    dim = heads * (rng.randint(1, 12) if mla else 2 * rng.randint(1, 6))
    experts = often(1, 0.05, 2, 9)
    run = {"prompt_len": often(1, 0.1, 2, 20), "n_loops": often(1, 0.1, 2, 12), "decode_steps": rng.randint(1, 6),
           "batch": rng.choice([1, 1, 2, 3])}
    length = run["prompt_len"] + run["decode_steps"]
    config = {
        "vocab_size": round(5 * 60 ** rng.random()), "dim": dim, "n_heads": heads,
        # MLA ignores this field; the published sizes leave a number there that means nothing
        "n_kv_heads": rng.choice([n for n in range(1, heads + 1) if mla or heads % n == 0]),
        "max_seq_len": length + rng.choice([0, 0, rng.randint(1, 40)]), "max_loop_iters": rng.randint(1, 12),
        "prelude_layers": rng.randint(0, 3), "coda_layers": rng.randint(0, 3), "attn_type": "mla" if mla else "gqa",
        # one head and an odd latent: the package's RoPE then fails on a single token (its view starts at an odd offset)
        "kv_lora_rank": rng.randint(1, 24) if heads > 1 else 2 * rng.randint(1, 12), "q_lora_rank": rng.randint(1, 24),
        "qk_rope_head_dim": 2 * rng.randint(1, 5), "qk_nope_head_dim": rng.randint(1, 12),
        "v_head_dim": rng.randint(1, 12),
        "n_experts": experts, "n_shared_experts": rng.randint(0, 2),
        "n_experts_per_tok": often(experts, 0.1, 1, experts),
        "expert_dim": rng.randint(1, 24),
        "act_threshold": rng.choice([0.5, 0.9, 0.99, 1.0, round(rng.uniform(0.5, 1.0), 4)]),
        "rope_theta": rng.choice([100.0, 10000.0, 500000.0, 2000000.0, round(rng.uniform(10, 1e5), 2)]),
        "lora_rank": rng.randint(1, 8), "max_output_tokens": 4096, "dropout": rng.choice([0.0, 0.1]),
    }
    return config, run


class NoDraw(Exception):
    """A config with so many decisions that some draw of them always lies too near its threshold."""


def draw(config, run, seed, redraw, limit=300):
    """Weights and inputs for a config: the first draw, or with `redraw` the first that no rounding can decide."""
    rejected = {"margin": 0, "amplified": 0}
    for attempt in range(limit):
        sub = seed * 1000 + attempt
        torch.manual_seed(sub)
        model = build(config)
        draw_weights(model, sub)
        g = torch.Generator().manual_seed(sub)
        ids = torch.randint(config["vocab_size"], (run["batch"], run["prompt_len"] + run["decode_steps"]), generator=g)
        aim_halting(model, ids, run, sub)
        tensors, gaps = golden(model, ids.int(), run)
        assert all(value.isfinite().all() for value in tensors.values())
        if not redraw:
            return model, tensors, gaps, rejected
        if min(gaps["halt"], gaps["expert"]) < DECISION or gaps["order"] < ORDER:
            rejected["margin"] += 1
        elif amplification(model, ids, run, tensors) > AMPLIFICATION:
            rejected["amplified"] += 1
        else:
            return model, tensors, gaps, rejected
    raise NoDraw(f"no draw of {limit} for seed {seed} keeps its margins, {rejected}: another seed, or a shorter prompt")


def write(out, config, run, model, tensors):
    out.mkdir(parents=True, exist_ok=True)
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if k not in DERIVED}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    save_file(tensors, out / "golden.safetensors")
    (out / "config.json").write_text(json.dumps(asdict(model.cfg), indent=1))
    (out / "run.json").write_text(json.dumps(run))
    return sum(f.stat().st_size for f in out.iterdir())


def make(out, config, run, seed, redraw):
    """One case folder. Prints the depths of the tokens, the nearest calls, and how many draws were rejected."""
    model, tensors, gaps, rejected = draw(config, run, seed, redraw)
    size = write(out, config, run, model, tensors)
    depths = sorted(tensors["loops_used_full"].flatten().tolist())
    counts = " ".join(f"{d}:{depths.count(d)}" for d in sorted(set(depths)))
    print(f"{out.name}: {size / 1000:.0f} kB, depths {counts} of {run['n_loops']}, margins "
          + " ".join(f"{k} {v:.1e}" for k, v in gaps.items()) + f", rejected {rejected}", flush=True)
    return size


def make_random(out, seed, redraw, given=()):
    """A random case; `given` are run settings that the seed shall not choose. False if the seed has no clean draw."""
    config, run = random_case(seed)
    run |= dict(given)
    config["max_seq_len"] = max(config["max_seq_len"], run["prompt_len"] + run["decode_steps"])
    try:
        make(out, config, run, seed, redraw)
    except NoDraw as why:
        print(why)
        return False
    return True


# ---- the hand-picked corners, and checking -------------------------------------------------------------------------

TINY = {"vocab_size": 41, "dim": 28, "n_heads": 2, "n_kv_heads": 1, "max_seq_len": 24, "max_loop_iters": 4,
        "prelude_layers": 1, "coda_layers": 1, "attn_type": "gqa", "kv_lora_rank": 9, "q_lora_rank": 11,
        "qk_rope_head_dim": 6, "qk_nope_head_dim": 5, "v_head_dim": 7, "n_experts": 4, "n_shared_experts": 1,
        "n_experts_per_tok": 2, "expert_dim": 13, "act_threshold": 0.99, "rope_theta": 10000.0, "lora_rank": 3}
BARE = {"prelude_layers": 0, "coda_layers": 0, "n_shared_experts": 0}
# name: (what differs from TINY, prompt, loops, decode steps, batch, seed)
NAMED = {
    # nothing around the loop, and every MLA size odd that may be; `dim` 33 is odd too
    "mla_bare": (BARE | {"attn_type": "mla", "dim": 33, "n_heads": 3, "n_kv_heads": 2}, 9, 6, 3, 1, 1),
    "gqa_bare": (BARE | {"dim": 30, "n_heads": 3, "n_kv_heads": 3, "act_threshold": 1.0}, 9, 6, 3, 1, 2),
    "one_expert": ({"n_experts": 1, "n_experts_per_tok": 1}, 9, 5, 3, 1, 3),
    "mla_all_experts": ({"attn_type": "mla", "dim": 22, "n_experts": 5, "n_experts_per_tok": 5, "coda_layers": 0,
                         "n_shared_experts": 2, "expert_dim": 7, "max_loop_iters": 1}, 8, 5, 3, 2, 4),
    "one_loop": ({"attn_type": "mla"}, 9, 1, 3, 1, 5),
    "gqa_full_context": ({"max_seq_len": 16, "prelude_layers": 3, "coda_layers": 2, "dim": 24, "n_heads": 6,
                          "n_kv_heads": 2}, 11, 7, 5, 3, 6),
}


def check(folder):
    """Recompute a case and compare names, shapes, dtypes and values; the worst value error, relative to the largest."""
    config = json.loads((folder / "config.json").read_text())
    run = json.loads((folder / "run.json").read_text())
    model = build(config)
    weights = load_file(folder / "model.safetensors")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    want = load_file(folder / "golden.safetensors")
    got, gaps = golden(model, want["input_ids"], run)
    wrong = [f"weights: missing {set(missing) - DERIVED}, unexpected {unexpected}"] if (
        set(missing) - DERIVED or unexpected) else []
    wrong += [f"tensor {name} is only on one side" for name in want.keys() ^ got.keys()]
    worst, where = 0.0, "-"
    for name in want.keys() & got.keys():
        a, b = got[name], want[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            wrong.append(f"{name}: {tuple(a.shape)} {a.dtype}, expected {tuple(b.shape)} {b.dtype}")
        elif not b.is_floating_point():
            wrong += [f"{name}: {(a != b).sum()} of {b.numel()} differ"] if (a != b).any() else []
        else:
            error = close(a, b)
            worst, where = max((worst, where), (error, name))
            wrong += [f"{name}: off by {error:.1e}"] if not error <= 1e-5 else []
    print(f"{'FAIL' if wrong else 'ok  '} {folder.name}: {len(want)} tensors, worst {worst:.1e} ({where}), margins "
          + " ".join(f"{k} {v:.1e}" for k, v in gaps.items()))
    for line in wrong:
        print("     " + line)
    return not wrong


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--check", nargs="+", type=Path, metavar="DIR")
    args.add_argument("--config", type=Path, metavar="FILE")
    args.add_argument("--random", action="store_true", help="draw config and run from the seed")
    args.add_argument("--named", metavar="NAME", help=f"all, or one of {', '.join(NAMED)}")
    args.add_argument("--count", type=int, help="with --random: so many cases from --seed on, in folders under --out")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--redraw", action="store_true", help="reject draws that rounding could decide")
    args.add_argument("--out", type=Path, metavar="DIR")
    for name in ("prompt-len", "loops", "decode", "batch"):
        args.add_argument(f"--{name}", type=int)
    args = args.parse_args()
    torch.set_num_threads(1)
    if args.check:
        sys.exit(0 if all([check(folder) for folder in args.check]) else 1)
    if not args.out or not (args.config or args.random or args.named):
        sys.exit("say --check DIR..., or --out DIR with one of --config FILE, --random, --named NAME")

    given = {"prompt_len": args.prompt_len, "n_loops": args.loops, "decode_steps": args.decode, "batch": args.batch}
    given = {key: value for key, value in given.items() if value is not None}
    if args.named:
        for name in NAMED if args.named == "all" else [args.named]:
            changes, prompt, loops, decode, batch, seed = NAMED[name]
            run = {"prompt_len": prompt, "n_loops": loops, "decode_steps": decode, "batch": batch}
            make(args.out / name if args.named == "all" else args.out, TINY | changes, run, seed, args.redraw)
    elif args.random:
        for seed in range(args.seed, args.seed + (args.count or 1)):
            make_random(args.out / f"rand_{seed:03}" if args.count else args.out, seed, args.redraw, given)
    else:
        run = {"prompt_len": 12, "n_loops": 4, "decode_steps": 4, "batch": 1} | given
        make(args.out, json.loads(args.config.read_text()), run, args.seed, args.redraw)


if __name__ == "__main__":
    main()
