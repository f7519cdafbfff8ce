"""Make the checkpoints in checkpoints/ that the tests of `refrain convert` read, of golden models: what training scripts save.

    checkpoints.py           # with the packages that make.py needs; run beside the golden cases

`gqa_bare.pt` is what the package's own training script saves: a dict with the state dict, the optimizer after a step, the step,
the MythosConfig as an object, random states and versions. `mla_bare.pt` is a bare state dict as a compiled, data-parallel
model gives it, half in bf16 and half in f16. `gqa_bare_f64.pt` has the numbers in f64, under `state_dict`, and the configuration as a dict.
"""

import argparse
import importlib.util
import json
import random
import sys
import types
from collections import defaultdict
from dataclasses import asdict, fields
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file

if importlib.util.find_spec("transformers") is None:
    stub = types.ModuleType("transformers")
    stub.AutoTokenizer = None
    sys.modules["transformers"] = stub

import open_mythos.main as mythos  # noqa: E402  (the stub has to be in place first)

HERE = Path(__file__).parent


def load(name):
    """A golden model, in the package."""
    config = json.loads((HERE / name / "config.json").read_text())
    known = {field.name for field in fields(mythos.MythosConfig)}
    model = mythos.OpenMythos(mythos.MythosConfig(**{key: value for key, value in config.items() if key in known}))
    missing, unexpected = model.load_state_dict(load_file(HERE / name / "model.safetensors"), strict=False)
    assert not unexpected and set(missing) <= {"head.weight", "freqs_cis", "freqs_cis_mla"}, (missing, unexpected)
    return model


def training(model, optimizer):
    """All that the training script saves, and what others add."""
    return {
        "step": 1,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10).state_dict(),
        "cfg": model.cfg,
        "vocab_size": model.cfg.vocab_size,
        "seed": (1 << 64) - 59,
        "rng": {"python": random.getstate(), "numpy": numpy.random.get_state(), "torch": torch.get_rng_state(), "cuda": None},
        "scaler": None,
        "torch_version": torch.__version__,
        "cuda_version": torch.version.cuda,
        "args": argparse.Namespace(lr=1e-3, out=Path("runs"), dtype=torch.bfloat16, device=torch.device("cpu")),
        "losses": [numpy.float64(2.5), 2.25, numpy.float32(2.0)],
        "seen": {1, 2},
        "shape": torch.Size([2, 3]),
        "counts": defaultdict(int, {"tokens": 3}),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "wide": torch.ones(2, dtype=torch.uint16),
    }


def main():
    torch.manual_seed(7), random.seed(7), numpy.random.seed(7)
    out = HERE / "checkpoints"
    out.mkdir(exist_ok=True)
    model = load("gqa_bare")
    # A learning rate of 0: the step makes Adam's state and leaves the golden numbers. A few parameters keep the file small.
    optimizer = torch.optim.AdamW([p for name, p in model.named_parameters() if "norm" in name], lr=0.0, weight_decay=0.0)
    model(torch.arange(8)[None] % model.cfg.vocab_size, n_loops=2).logsumexp(-1).sum().backward()
    optimizer.step()
    torch.save(training(model, optimizer), out / "gqa_bare.pt")

    double = {name: tensor.double() for name, tensor in model.state_dict().items() if not tensor.is_complex()}
    torch.save({"state_dict": double, "config": asdict(model.cfg)}, out / "gqa_bare_f64.pt")

    state = load("mla_bare").state_dict()
    state = {name: tensor for name, tensor in state.items() if name != "head.weight"}
    half = {name: tensor.to((torch.bfloat16, torch.float16)[i % 2]) if not tensor.is_complex() else tensor
            for i, (name, tensor) in enumerate(state.items())}
    half["head.weight"] = half["embed.weight"]
    torch.save({f"module._orig_mod.{name}": tensor for name, tensor in half.items()}, out / "mla_bare.pt")
    for file in sorted(out.glob("*.pt")):
        print(f"{file.name}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
