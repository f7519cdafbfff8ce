"""The claims about a shipped model, on fresh problems, by the engine: `python check.py follow`.

Problems are drawn that neither training nor problems.jsonl has seen, the published package answers them, then `refrain sweep`
does at 1, 2, 4, … 128 loops on the first device (and, where a task can be so long, with prompts that fill the context) and at
the model's own number of loops on the others. One line a claim; the exit status is 1 if one does not hold.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch

import export
from engine import PROGRAM, questions, sweep_lines
from train import HERE, Recipe

LOOPS = [1, 2, 4, 8, 16, 32, 64, 128]


def ranks(values):
    """Ranks; equal values share the mean of theirs."""
    places = defaultdict(list)
    for place, value in enumerate(sorted(values)):
        places[value].append(place)
    return [sum(places[v]) / len(places[v]) for v in values]


def spearman(a, b):
    """The rank correlation."""
    a, b = ranks(a), ranks(b)
    centre = (len(a) - 1) / 2
    a, b = [x - centre for x in a], [x - centre for x in b]
    return sum(x * y for x, y in zip(a, b)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def share(rows):
    """The share of right answers, and of how many."""
    rows = list(rows)
    return (sum(rows) / len(rows) if rows else float("nan")), len(rows)


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("recipe", help="name of a file in recipes/")
    args.add_argument("--refrain", type=Path, default=PROGRAM, help="the program [default: the release build]")
    args.add_argument("--model", type=Path, help="its folder [default: ../NAME]")
    args.add_argument("--devices", default="cpu", help="names for --device, with commas between [default: cpu]")
    args.add_argument("--count", type=int, default=200, help="problems [default: 200]")
    args.add_argument("--seed", type=int, default=1, help="which fresh problems; 0 are those of problems.jsonl [default: 1]")
    args = args.parse_args()
    torch.set_num_threads(1)  # small matrices: threads would mostly wait for each other
    recipe = Recipe(args.recipe)
    folder, devices = args.model or HERE.parent / recipe.name, args.devices.split(",")
    model = export.load(recipe, folder)
    judge = export.Judge(export.package(), recipe.config, model.state_dict())
    rng = recipe.rng("problems", args.seed)

    def fresh(loops, *size):
        batches = recipe.task.examples(rng, *size)
        return [problem for batch in batches for problem in judge.solve(model, recipe, batch, loops)]

    def ask(problems, loops, device):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps(problem) + "\n" for problem in problems)
            file.flush()
            return sweep_lines(args.refrain, file.name, folder, loops, device)

    problems = fresh(recipe.n_loops, args.count)
    lines = ask(problems, LOOPS, devices[0])
    asked = list(questions(problems, lines))
    bound, own, task = recipe.task.bound, recipe.n_loops, recipe.task
    failed = []

    def claim(text, holds, n=1):
        if n == 0:
            print(f"--   {text}: no such question among so few problems", flush=True)
            return
        print(f"{'ok  ' if holds else 'FAIL'} {text}", flush=True)
        failed.extend([] if holds else [text])

    print(f"{recipe.name}: {len(problems)} problems with {sum(p['queries'] for p in problems)} questions, seed {args.seed}, "
          f"trained to difficulty {bound}")
    right, n = share(right for loops, hops, right, _ in asked if loops == own and hops <= bound)
    claim(f"trained difficulties (0 to {bound}), {own} loops: {right:.2%} of {n} right, at least 99%", right >= 0.99, n)
    right, n = share(right for loops, hops, right, _ in asked if loops == own and abs(hops - 2 * bound) <= 1)
    claim(f"twice the trained difficulty ({2 * bound - 1} to {2 * bound + 1}), {own} loops: {right:.2%} of {n} right, at least 95%", right >= 0.95, n)
    for few in [loops for loops in LOOPS if loops <= 2 * bound]:
        right, n = share(right for loops, hops, right, _ in asked if loops == few and hops > few)
        claim(f"{few} loop{'s' * (few > 1)} at difficulties above {few}: {right:.2%} of {n} right, at most {task.chance + 0.1:.0%}", right <= task.chance + 0.1, n)
    for many in [loops for loops in LOOPS if loops > own]:
        reach = own - 1
        (right, n), (before, _) = (share(r for loops, hops, r, _ in asked if loops == l and hops <= reach) for l in (many, own))
        claim(f"{many} loops at difficulties to {reach}: {right:.2%} of {n} right, with {own} loops {before:.2%}", right >= before, n)
    pairs = [(hops, used) for loops, hops, _, used in asked if loops == own]
    correlation = spearman(*zip(*pairs))
    extra = sorted({used - hops for hops, used in pairs})
    claim(f"Spearman correlation of loops used with difficulty: {correlation:.4f}, at least 0.9 (loops - difficulty: {extra})", correlation >= 0.9)
    for device in devices:
        found = lines if device == devices[0] else ask(problems, [own], device)
        agree = total = 0
        for line in (line for line in found if line["loops"] == own):
            package, q = problems[line["problem"]]["package"], len(line["predicted"])
            for ours, theirs in zip(zip(line["predicted"], line["loops_used"]), zip(package["predicted"], package["loops_used"][-q:])):
                agree, total = agree + (ours == theirs), total + 1
        claim(f"{device}: {agree} of {total} answers and loop counts as the package has them", agree == total)
    full = recipe.config.max_seq_len
    if task.longest:
        problems = fresh(full, 20, full)
        right, n = share(right for _, hops, right, _ in questions(problems, ask(problems, [full], devices[0])) if hops > 32)
        claim(f"prompts of up to {full} tokens, {full} loops, difficulties above 32: {right:.2%} of {n} right, at least 95%", right >= 0.95, n)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
