"""Compare `refrain forward` with golden cases, tensor by tensor.

    python -m venv venv
    venv/bin/pip install torch safetensors numpy           # torch only for --random
    venv/bin/pip install --no-deps open-mythos==0.5.0      # only for --random

    compare.py --refrain target/release/refrain tests/golden/*/          # existing folders
    compare.py --refrain target/release/refrain --random 200 --seed 1    # fresh ones from make.py
    compare.py --refrain target/release/refrain --device NAME --keep DIR --random 20
    compare.py --refrain target/release/refrain --lazy --random 200      # depth on demand: logits and loops, no stages

One line a case with the worst relative error of each kind of tensor; exit status 1 if anything failed. A random case is
named by its seed, which makes it again: `make.py --random --seed SEED --redraw --out DIR`.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

# Largest difference allowed, as a share of the tensor's largest value.
LOGITS, STAGE = 5e-4, 1e-3
TIMEOUT_S = 300


def tolerance(name, integer):
    """Integers are decisions, and decisions are equal or wrong."""
    return 0.0 if integer else LOGITS if name.startswith("logits") else STAGE


def kind(name):
    """prelude.0 and prelude.1 are of one kind: the line of a case shows the worst of them."""
    return name.split(".")[0] if name.startswith(("prelude.", "coda.")) else name


def forward(refrain, case, out, device, extra):
    """Run the engine on a case; None if it went well, else what it said."""
    run = json.loads((case / "run.json").read_text())
    command = [refrain, "forward", case, "--inputs", case / "golden.safetensors", "--loops", run["n_loops"],
               "--prompt-len", run["prompt_len"], "--decode", run["decode_steps"], "--out", out,
               "--device", device, *extra]
    if device not in ("cpu", "gpu"):
        command.append("--allow-software")  # who names an adapter means it, even a software one
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"still running after {TIMEOUT_S} s"
    if done.returncode:
        return f"exit status {done.returncode}: " + " / ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
    return None if out.exists() else f"exit status 0, but no {out.name}"


def difference(got, want):
    """Largest difference over largest value; of integers the share that differs; inf for NaN or another shape."""
    if got.shape != want.shape:
        return np.inf
    if want.size == 0:
        return 0.0
    if want.dtype.kind in "iu":
        return float((got != want).mean())
    if not np.isfinite(got).all():
        return np.inf
    got, want = got.astype(np.float64), want.astype(np.float64)
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))


def compare(refrain, case, device, lazy):
    """Print the line of one case, and below it what failed. True if nothing did."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.safetensors"
        # A trace runs every loop for every token; lazily there are no stages to compare. A small chunk makes tokens catch up.
        trouble = forward(refrain, case, out, device, ["--chunk", "5", "--catch-up", "3"] if lazy else ["--trace"])
        got = {} if trouble else load_file(out)
    if trouble:
        print(f"FAIL {case.name}: {trouble}", flush=True)
        return False
    worst, wrong = {}, []
    for name, want in sorted(load_file(case / "golden.safetensors").items()):
        if name == "input_ids" or (lazy and name not in ("logits", "logits_decode", "loops_used_full")):
            continue
        if name not in got:
            if want.size:
                worst[kind(name)] = np.inf
                wrong.append(f"{name}: not written, expected {want.shape}")
            continue
        error, limit = difference(got[name], want), tolerance(name, want.dtype.kind in "iu")
        worst[kind(name)] = max(worst.get(kind(name), 0.0), error)
        if not error <= limit:
            shapes = "" if got[name].shape == want.shape else f", shape {got[name].shape} for {want.shape}"
            wrong.append(f"{name}: {error:.1e} over {limit:.0e}{shapes}" + where(got[name], want))
    figures = " ".join(f"{name} {error:.0e}" if error else f"{name} 0" for name, error in worst.items())
    print(f"{'FAIL' if wrong else 'ok  '} {case.name}: {figures}", flush=True)
    for line in wrong:
        print("     " + line)
    return not wrong


def where(got, want):
    """The first place where two tensors are far apart: with stages, loops and rows in order it leads to the cause."""
    if got.shape != want.shape or not want.size:
        return ""
    apart = np.abs(got.astype(np.float64) - want)
    limit = 0 if want.dtype.kind in "iu" else STAGE * np.abs(want).max()
    first = np.argwhere(~(apart <= limit))
    if not len(first):
        return ""
    at = tuple(int(i) for i in first[0])
    return f", first at {list(at)}: {got[at]:.6g} for {want[at]:.6g} ({len(first)} of {want.size} places)"


def random_cases(folder, count, seed):
    """Fresh cases, made as they are needed; their making is quiet."""
    sys.dont_write_bytecode = True  # no __pycache__ beside the cases
    sys.path.insert(0, str(Path(__file__).parent))
    import make  # here, because it loads torch

    make.torch.set_num_threads(1)
    for number in range(seed, seed + count):
        case = folder / f"rand_{number:03}"
        with contextlib.redirect_stdout(io.StringIO()):
            made = make.make_random(case, number, redraw=True)
        if made:
            yield case


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("cases", nargs="*", type=Path, metavar="CASE_DIR")
    args.add_argument("--refrain", required=True, metavar="PATH", help="the binary")
    args.add_argument("--device", default="cpu")
    args.add_argument("--lazy", action="store_true", help="with the lazy schedule, in small chunks")
    args.add_argument("--random", type=int, default=0, metavar="N", help="compare N random cases too")
    args.add_argument("--seed", type=int, default=0, help="of the first random case")
    args.add_argument("--keep", type=Path, metavar="DIR", help="make the random cases there, and leave them")
    args = args.parse_args()
    if not args.cases and not args.random:
        sys.exit("name case folders, or --random N")
    total, failed = 0, []
    with tempfile.TemporaryDirectory() as folder:
        fresh = random_cases(args.keep or Path(folder), args.random, args.seed) if args.random else ()
        for cases in (args.cases, fresh):
            for case in cases:
                total += 1
                if not compare(args.refrain, case, args.device, args.lazy):
                    failed.append(case.name)
    print(f"{total - len(failed)} of {total} cases agree" + (f"; failed: {' '.join(failed)}" if failed else ""))
    sys.exit(1 if failed or not total else 0)


if __name__ == "__main__":
    main()
