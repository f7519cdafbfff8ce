"""Golden logits of a conversation that changes its depth on the way, for the cases that are there already.

Every piece of the conversation has its own cap of loops, least loops and exit. The reference is one pass of the published PyTorch
package over everything with a cache, which runs every loop for every token; what each token puts out, and so what the coda and
its keys see of it, is worked out from the loops that its own piece allows (the package knows one cap for all).

    depths.py DIR...        # writes DIR/depths.safetensors; needs what make.py needs

It holds `pieces (P, 5)`: first token, tokens, loops, min_loops, 1 for a fixed number of loops; `logits (B, T+N, V)` and
`loops_used (B, T+N)`.
"""

import json
import random
import sys
from pathlib import Path

import torch
from make import DECISION, Recorder, build, halting
from safetensors.torch import load_file, save_file


def pieces(length, loops, rng):
    """The conversation cut up, each piece with its depth."""
    cuts = sorted(rng.sample(range(1, length), 5))
    for first, end in zip([0, *cuts], [*cuts, length]):
        most = rng.randint(1, loops)
        yield first, end - first, most, rng.randint(0, most), int(rng.random() < 0.25)


def output(h, p, threshold, rows, out, used):
    """Σ weight · h of some tokens under their own depth; returns the nearest call."""
    first, count, loops, least, fixed = rows
    at = slice(first, first + count)
    if fixed:
        out[:, at], used[:, at] = h[loops - 1][:, at], loops
        return 1.0
    mine = p[:loops, :, at].clone()
    mine[: max(least - 1, 0)] = 0
    weight, used[:, at], margin = halting(mine, threshold)
    out[:, at] = (weight.unsqueeze(-1) * h[:loops, :, at]).sum(0)
    return margin


@torch.no_grad()
def make(folder):
    run = json.loads((folder / "run.json").read_text())
    model = build(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    ids = load_file(folder / "golden.safetensors")["input_ids"].long()
    for seed in range(1000):
        cut = list(pieces(ids.shape[1], run["n_loops"], random.Random(seed)))
        used, margins = torch.zeros(ids.shape, dtype=torch.int32), []
        with Recorder(model) as seen:

            def cap(_module, _args, full):
                out = torch.zeros_like(full)
                h, p = torch.stack(seen["h"]), torch.stack(seen["p"])
                margins.extend(output(h, p, model.cfg.act_threshold, rows, out, used) for rows in cut)
                return out

            handle = model.recurrent.register_forward_hook(cap)
            logits = model(ids, n_loops=run["n_loops"], kv_cache={})
            handle.remove()
        # Deeper pieces after shallow ones are what this is about; and no call so near that rounding could decide it.
        depths = [loops for _, _, loops, _, _ in cut]
        if min(margins) >= DECISION and max(depths[3:]) > max(depths[:2]):
            tensors = {"pieces": torch.tensor(cut, dtype=torch.int32), "logits": logits.contiguous(), "loops_used": used}
            save_file(tensors, folder / "depths.safetensors")
            print(folder.name, cut, f"nearest call {min(margins):.1e}")
            return
    sys.exit(f"{folder.name}: no draw keeps its margins")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        make(Path(name))
