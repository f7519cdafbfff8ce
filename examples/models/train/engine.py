"""`refrain sweep` as these scripts call it."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[3] / "target/release/refrain"


def sweep(program, problems, model, loops, device, form):
    """What `refrain sweep` prints for a file of problems."""
    command = [program, "sweep", problems, "--model", model, "--device", device, "--allow-software", "--format", form, "--quiet",
               "--loops", ",".join(map(str, loops))]
    command = list(map(str, command))
    if not os.access(program, os.X_OK) or Path(program).is_dir():
        sys.exit(f"{program} is no program: cargo build --release, or say where it is with --refrain")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}")
    return done.stdout


def sweep_lines(*args):
    """The same as objects, one a problem and number of loops."""
    return [json.loads(line) for line in sweep(*args, "jsonl").splitlines()]


def questions(problems, lines):
    """(loops allowed, hops, right, loops used) of every question of a sweep."""
    for line in lines:
        for hops, right, used in zip(problems[line["problem"]]["hops"], line["correct"], line["loops_used"]):
            yield line["loops"], hops, right, used
