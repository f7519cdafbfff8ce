"""Time refrain and the PyTorch package in turns, on one model folder, and print one table.

    cargo build --release
    python compare.py ../../target/release/refrain -m DIR --dtypes f32,q8,q4 -p 128 -n 24 -d 0,128 --loops 8 --rounds 3 --threads 2

In every round the package and refrain with each dtype run all rows once after a warm-up (`-r` runs of each); a cell is the median over
all rounds. Times are of a whole prompt, or of a generated token. In brackets: as a share of the package's time in f32, below 1 faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from pytorch import arguments


def bench(command, environment):
    """The seconds of each row, by test and loops."""
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}")
    return {(row["test"], row["loops"]): row for row in json.loads(done.stdout)["rows"]}


def milliseconds(seconds):
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("refrain", help="the binary")
    arguments(parser)
    parser.add_argument("--dtypes", default="f32", metavar="D,D,…", help="precisions of refrain's weights")
    parser.add_argument("--device", default="cpu", help="refrain's")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    args = parser.parse_args()

    common = ["-m", str(args.model), "-p", str(args.prompt_tokens), "-n", str(args.new_tokens), "-r", str(args.repeat)]
    common += ["-d", ",".join(map(str, args.cached))] + (["--loops", ",".join(map(str, args.loops))] if args.loops else [])
    package = [sys.executable, "-B", str(Path(__file__).with_name("pytorch.py")), *common, "--threads", str(args.threads)]
    refrain = [args.refrain, "bench", *common, "--device", args.device, "--format", "json"]
    sides = {"PyTorch f32": package} | {f"refrain {dtype}": [*refrain, "--dtype", dtype] for dtype in args.dtypes.split(",")}
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}

    times = {}
    for _ in range(args.rounds):
        for side, command in sides.items():
            for key, row in bench(command, threads).items():
                steps = 1 if row["kind"] == "prompt" else row["tokens"]
                times.setdefault(key, {}).setdefault(side, []).extend(seconds / steps for seconds in row["seconds"])

    print(f"| test | loops | {' | '.join(sides)} |\n| ---: | ---: |{' ---: |' * len(sides)}")
    for (test, loops), row in times.items():
        medians = {side: statistics.median(row[side]) for side in sides if side in row}
        base = medians.get("PyTorch f32")
        share = lambda side: f" ({medians[side] / base:.2f})" if base and side != "PyTorch f32" else ""  # noqa: E731
        cells = [milliseconds(medians[side]) + share(side) if side in medians else "–" for side in sides]
        print(f"| {test} | {loops} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
