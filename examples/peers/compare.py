"""Time refrain and the PyTorch package in turns, on one model folder, and print one table.

    cargo build --release
    python compare.py ../../target/release/refrain -m DIR --dtypes f32,q8,q4 -p 128 -n 24 -d 0,128 --loops 8 --rounds 3 --threads 2

In every round the package and refrain with each dtype run all rows once after a warm-up (`-r` runs of each). A cell is the median over
all rounds: of pp rows the time of the whole prompt, of tg rows the time per token. In brackets: that as a share of the package's time in
f32, so less is faster, and 0.50 is twice as fast.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from pytorch import arguments, check, number


def bench(side, command, environment):
    """What a side measured. What is wrong it says itself."""
    try:
        done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{side}: exit status {done.returncode}")
        return json.loads(done.stdout)
    except (OSError, ValueError) as error:
        sys.exit(f"{command[0]}: expected the JSON of refrain bench: {error}")


def milliseconds(seconds):
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def two_digits(ratio):
    """With two significant digits."""
    after = max(0, 1 - math.floor(math.log10(float(f"{ratio:.1e}"))))
    return f"{float(f'{ratio:.1e}'):.{after}f}"


def main():
    about, _, cells = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(usage="%(prog)s REFRAIN -m DIR [options]", description=about, epilog=cells)
    parser.add_argument("refrain", help="the binary")
    arguments(parser)
    parser.add_argument("--dtypes", default="f32", metavar="D,D,…", help="precisions of refrain's weights")
    parser.add_argument("--device", default="cpu", help="refrain's")
    parser.add_argument("--rounds", type=number(1), default=3, metavar="N")
    args = parser.parse_args()
    check(args)
    if not shutil.which(args.refrain):
        sys.exit(f"expected the path of refrain's binary, such as ../../target/release/refrain; found {args.refrain!r}")

    common = ["-m", str(args.model), "-p", str(args.prompt_tokens), "-n", str(args.new_tokens), "-r", str(args.repeat)]
    common += ["-d", ",".join(map(str, args.cached))] + (["--loops", ",".join(map(str, args.loops))] if args.loops else [])
    package = [sys.executable, "-B", str(Path(__file__).with_name("pytorch.py")), *common, "--threads", str(args.threads)]
    refrain = [args.refrain, "bench", *common, "--device", args.device, "--format", "json"]
    sides = {"PyTorch f32": package} | {f"refrain {dtype}": [*refrain, "--dtype", dtype] for dtype in args.dtypes.split(",")}
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}

    times, who = {}, {}
    for round_ in range(1, args.rounds + 1):
        for side, command in sides.items():
            if sys.stderr.isatty():
                print(f"round {round_} of {args.rounds}: {side}", file=sys.stderr)
            found = bench(side, command, threads)
            commit = f" ({found['commit']})" if found.get("commit") else ""
            name = "PyTorch" if command is package else "refrain"
            who[name] = f"{name}: {found['version']}{commit} on {found['device']['name']}"
            for row in found["rows"]:
                steps = 1 if row["kind"] == "prompt" else row["tokens"]
                seconds = times.setdefault((row["test"], row["loops"]), {}).setdefault(side, [])
                seconds.extend(second / steps for second in row["seconds"])

    print("  \n".join([str(args.model), *who.values(), f"{args.threads} threads, median of {args.rounds} × {args.repeat} runs"]) + "\n")
    print(f"| test | loops | {' | '.join(sides)} |\n| ---: | ---: |{' ---: |' * len(sides)}")
    for (test, loops), row in times.items():
        medians = {side: statistics.median(row[side]) for side in sides if side in row}
        base = medians.get("PyTorch f32")
        share = lambda side: f" ({two_digits(medians[side] / base)})" if base and side != "PyTorch f32" else ""  # noqa: E731
        cells = [milliseconds(medians[side]) + share(side) if side in medians else "–" for side in sides]
        print(f"| {test} | {loops} | {' | '.join(cells)} |")
    print("\npp: of the whole prompt, tg: per token; in brackets as a share of PyTorch's time: less is faster")


if __name__ == "__main__":
    main()
