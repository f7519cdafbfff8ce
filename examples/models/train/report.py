"""The tables and plots in the READMEs: `python report.py follow` after a model has been trained.

In ../NAME/README.md and in README.md here, what stands between `<!-- WHAT -->` and `<!-- /WHAT -->` is replaced:
    sweep      what `refrain sweep ../NAME/problems.jsonl` prints; ../NAME/loops.svg shows the same
    idle       right answers with a part of the model switched off
    baselines  other models at the same task (results/NAME.json, from baselines.py)
"""

import argparse
import json
import re
import sys
from pathlib import Path

import torch

import export
from engine import PROGRAM, questions, sweep, sweep_lines
from model import count
from train import HERE, Recipe, tensors

LOOPS = [1, 2, 4, 8, 16, 32]


def fill(path, what, text):
    """Replaces a section of a file."""
    old = path.read_text()
    section = f"<!-- {what} -->\n{text.strip()}\n<!-- /{what} -->"
    new, found = re.subn(rf"<!-- {what} -->.*?<!-- /{what} -->", lambda _: section, old, flags=re.S)
    if not found:
        sys.exit(f"{path}: expected a place for the table, <!-- {what} --> and <!-- /{what} -->, found none")
    path.write_text(new)


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plot(recipe, problems, lines, path):
    """Right answers by difficulty and loops allowed; loops used by difficulty."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": recipe.name, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    import matplotlib.pyplot as plt

    asked = list(questions(problems, lines))
    hardest = max(hops for _, hops, _, _ in asked)
    colours = plt.get_cmap("cividis")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for place, loops in enumerate(LOOPS):
        shares = []
        for d in range(hardest + 1):
            here = [r for l, hops, r, _ in asked if (l, hops) == (loops, d)]
            shares.append(100 * sum(here) / len(here) if here else float("nan"))
        left.plot(range(hardest + 1), shares, color=colours(place / len(LOOPS)), marker="o", markersize=3, label=str(loops))
    left.legend(title="loops\nallowed", fontsize=8, title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    left.set(ylabel="right answers in %", ylim=(-4, 104))
    used = [(hops, loops) for l, hops, _, loops in asked if l == LOOPS[-1]]
    counts = {pair: used.count(pair) for pair in set(used)}
    most = max(counts.values())
    right.scatter(*zip(*counts), s=[8 + 60 * n / most for n in counts.values()], color=colours(0.35), linewidths=0)
    right.set(ylabel=f"loops used, of {LOOPS[-1]}", ylim=(0, LOOPS[-1] + 1), yticks=[1, 8, 16, 24, 32])
    for axes in (left, right):
        axes.axvspan(-0.5, recipe.task.bound + 0.5, color="0.92", zorder=0)
        axes.text(recipe.task.bound / 2, 1.01, "trained", ha="center", va="bottom", fontsize=8, transform=axes.get_xaxis_transform())
        axes.set(xlabel=recipe.task.unit, xlim=(-0.5, hardest + 0.5))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


@torch.no_grad()
def knock_outs(recipe, folder):
    """Right answers on fresh problems with one part of the model switched off: by output, never by training anew."""
    batches = [list(tensors(b, "cpu")) + [b.queries] for b in recipe.task.examples(recipe.rng("problems", 2), 100)]

    def right(change, number=count):
        model = export.load(recipe, folder)
        change(model)
        said = [(model.answer(tokens, recipe.n_loops, q, number)[0].argmax(-1) == answers).flatten() for tokens, answers, _, q in batches]
        return f"{100 * torch.cat(said).float().mean().item() // 1:.0f}"

    def silent(expert):
        return lambda model: expert(model.recurrent).down.weight.zero_()

    moe = lambda r: r.block.ffn
    rows = [["all of it", right(lambda model: None)]]
    for i in range(recipe.config.n_experts):
        rows.append([f"without expert {i}", right(silent(lambda r: moe(r).routed_experts[i]))])
    rows.append(["without the shared expert", right(silent(lambda r: moe(r).shared_experts[0]))])
    rows.append(["without the LoRA", right(lambda model: model.recurrent.lora.B.zero_())])
    rows.append(["told at every loop that it is the first", right(lambda model: None, lambda _loop: 0)])
    rows.append(["without B · e (the input injected beside the block)", right(lambda model: model.recurrent.injection.B.zero_())])
    rows.append(["without A · h (the state carried beside the block)", right(lambda model: model.recurrent.injection.log_A.fill_(20))])
    rows.append(["the router's bias at 0", right(lambda model: moe(model.recurrent).router_bias.zero_())])
    return table(["switched off", "right in %"], rows)


def baselines(recipe):
    """results/NAME.json as a table: right answers at some difficulties, parameters, loops or layers that a token takes."""
    rows = json.loads((HERE / "results" / f"{recipe.name}.json").read_text())
    own, b = rows["looped"], recipe.task.bound
    columns = sorted({1, 2, b // 2, b, b * 3 // 2, 2 * b})
    head = ["model", "parameters", "ratio"] + [f"at {d}" for d in columns] + ["layers or loops", "steps", "minutes"]
    lines = []
    for name, row in sorted(rows.items(), key=lambda item: (item[0] != "looped", item[1]["parameters"], item[0])):
        loops = [row["loops"][str(d)] for d in range(b + 1)]
        spent = [f"{row['steps']:,}", f"{row['seconds'] / 60:.1f}" if "seconds" in row else ""]
        lines.append([name, f"{row['parameters']:,}", f"{row['parameters'] / own['parameters']:.2f}"]
                     + [f"{int(100 * row['right'][str(d)])}" for d in columns] + [f"{sum(loops) / len(loops):.1f}", *spent])
    return table(head, lines)


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("recipe", help="name of a file in recipes/")
    args.add_argument("--refrain", type=Path, default=PROGRAM, help="the program [default: the release build]")
    args = args.parse_args()
    torch.set_num_threads(1)  # small matrices: threads would mostly wait for each other
    recipe = Recipe(args.recipe)
    folder = HERE.parent / recipe.name
    readme = folder / "README.md"
    file = folder / "problems.jsonl"
    command = (args.refrain, file, folder, LOOPS, "cpu")
    fill(readme, "sweep", sweep(*command, "md"))
    problems = [json.loads(line) for line in file.read_text().splitlines()]
    plot(recipe, problems, sweep_lines(*command), folder / "loops.svg")
    fill(readme, "idle", knock_outs(recipe, folder))
    if (HERE / "results" / f"{recipe.name}.json").exists():
        fill(HERE / "README.md", f"baselines {recipe.name}", baselines(recipe))


if __name__ == "__main__":
    main()
