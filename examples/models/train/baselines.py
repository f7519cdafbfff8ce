"""What other models make of the same task: `python baselines.py follow`, then the same for cups and add.

    flat-N    N dense blocks one after another, each with weights of its own, trained on the final answers; the first layer has
              the same help as the prelude (the keys loss)
    layers-N  the same, and layer i is trained to say after it what the looped model says after loop i
    no-act    the looped model without halting: trained on what to say after every loop; every token runs all loops
    last      as no-act, but trained only on the answer after the last loop

Same blocks, batches, curriculum, optimizer and number of steps as the looped model, but no more than --minutes of the
processor's time each; one thread, two at once. What comes out is added to results/NAME.json, which report.py prints.
"""

import argparse
import json
import re
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch
import torch.nn.functional as F

import export
from model import Flat, Looped, initialise
from train import HERE, Checkpoint, Recipe, clock, keys, noise, targets, tensors, train, watch

KINDS = ["flat-1", "flat-2", "flat-4", "flat-8", "no-act"]
PROBLEMS = 600  # fresh ones, to judge


def build(kind, recipe):
    """The model, its loss and its way to answer with so many loops, as train() wants them."""
    name, _, layers = kind.partition("-")
    if layers.isdigit():
        model = Flat(recipe.config, int(layers))
    else:
        model = Looped(recipe.config)
    pending = recipe.task.pending

    def flat(batch, _loops):
        tokens, answers, difficulty = tensors(batch, model.embed.weight.device)
        first, logits = model(tokens, batch.queries)
        if name == "flat":
            loss = F.cross_entropy(logits[-1].flatten(0, 1), answers.flatten())
        else:
            target, _ = targets(batch, answers, difficulty, len(logits), pending)
            loss = F.cross_entropy(logits.flatten(0, 2), target.flatten())
        loss = loss + 0.5 * keys(model, batch, first)
        return loss, {"loss": loss.item(), "right": share(logits[-1], answers)}

    def looped(batch, drawn):
        tokens, answers, difficulty = tensors(batch, model.embed.weight.device)
        loops, number = drawn
        e, states, _ = model(tokens, loops, number, noise)
        target, _ = targets(batch, answers, difficulty, loops, pending)
        states, target = (states, target) if kind == "no-act" else (states[-1:], target[-1:])
        logits = torch.stack([model.read(h, batch.queries) for h in states])
        loss = F.cross_entropy(logits.flatten(0, 2), target.flatten()) + 0.5 * keys(model, batch, e)
        return loss, {"loss": loss.item(), "right": share(logits[-1][difficulty < loops], answers[difficulty < loops])}

    def answer(tokens, queries, loops=recipe.task.bound + 4):
        if isinstance(model, Flat):
            return model(tokens, queries)[1][-1], torch.full(tokens.shape, int(layers))
        return model.answer(tokens, loops, queries, fixed=True)

    return model, flat if isinstance(model, Flat) else looped, answer


def share(logits, answers):
    """Right answers among all."""
    return (logits.argmax(-1) == answers).float().mean().item()


def judge(model, recipe, answer):
    """A row of results: parameters, and right answers and loops by difficulty."""
    batches = recipe.task.examples(recipe.rng("problems", 3), PROBLEMS)
    with torch.no_grad():
        right, used = watch(answer, batches, "cpu")
    return {"parameters": sum(p.numel() for p in model.parameters()), "right": right, "loops": used}


def run(name, kind, minutes, restart):
    """Trains one, on one thread; a row of results."""
    torch.set_num_threads(1)
    recipe = Recipe(name)
    torch.manual_seed(recipe.seed)
    model, loss, answer = build(kind, recipe)
    initialise(model, recipe.task.roles)
    print(f"{recipe.name} {kind}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    checkpoint = Checkpoint(f"{recipe.name}-{kind}", f"{recipe.text}{minutes}", restart)
    steps, seconds = train(model, recipe, checkpoint, loss, answer, "cpu", 60 * minutes)
    deep = answer if isinstance(model, Flat) else lambda tokens, queries: answer(tokens, queries, recipe.n_loops)
    print(f"{recipe.name} {kind}: {steps} steps in {clock(seconds)}", flush=True)
    return judge(model, recipe, deep) | {"steps": steps, "seconds": round(seconds)}


def keep(name, kind, row):
    """Puts a row into results/NAME.json."""
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    rows = json.loads(path.read_text()) if path.exists() else {}
    rows[kind] = row
    export.write_json(path, rows)


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("recipe", help="name of a file in recipes/")
    args.add_argument("kinds", nargs="*", default=KINDS, help=f"[default: {' '.join(KINDS)}]")
    args.add_argument("--minutes", type=float, default=8, help="of the processor for each, at most [default: 8]")
    args.add_argument("--jobs", type=int, default=2, help="so many at once [default: 2]")
    args.add_argument("--restart", action="store_true", help="throw the checkpoints away and begin anew")
    args = args.parse_args()
    for kind in args.kinds:
        if not re.fullmatch(r"(flat|layers)-[1-9]\d*|no-act|last", kind):
            sys.exit(f"no kind {kind}: expected flat-N, layers-N, no-act or last")
    recipe = Recipe(args.recipe)
    shipped = export.load(recipe, HERE.parent / recipe.name)
    own = judge(shipped, recipe, lambda tokens, q: shipped.answer(tokens, recipe.n_loops, q))
    keep(recipe.name, "looped", own | {"steps": recipe.steps})
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        runs = {pool.submit(run, args.recipe, kind, args.minutes, args.restart): kind for kind in args.kinds}
        for done in as_completed(runs):
            # One that fails costs the others nothing.
            if fault := done.exception():
                print(f"{recipe.name} {runs[done]}: {fault}", file=sys.stderr)
            else:
                keep(recipe.name, runs[done], done.result())


if __name__ == "__main__":
    main()
