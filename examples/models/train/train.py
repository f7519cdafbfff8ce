"""Train one of the shipped models from nothing: `python train.py follow`.

Recipes are the files in recipes/. Batch k is a function of the recipe's seed and k alone, so a run that was interrupted goes on
where its last checkpoint stands (runs/NAME.pt) as if nothing had happened. At the end the model's folder is written: weights,
configs, tokenizer, problems with what the published package answers to them; before that its logits are compared with ours.

The loss, over the questions of a batch (t counts loops from 1, d is a question's difficulty):
    deep   cross-entropy of coda + head on the state after EVERY loop against the task's target after that many loops
    lens   the same without the coda (where the recipe gives it weight)
    keys   cross-entropy of head on what leaves the prelude against what a token must know for the first look-up (follow only)
    halt   binary cross-entropy of the halting logit against "t > d, and the decoded answer is right"; tokens that ask nothing
           shall halt at once
    act    cross-entropy of what the model really says, the halting-weighted sum of states, where the loops suffice
"""

import argparse
import math
import os
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import export
from model import Config, Looped, act_weights, initialise, mix
from tasks import NONE, TASKS

HERE = Path(__file__).parent
NOISE = 0.05  # standard deviation of what is added to h after each loop
SHIFTS = 24  # in half of the batches the loop's number starts at 1 … SHIFTS, so that nothing can be learnt by counting
QUIET = 0.1  # weight of the halting loss at tokens that ask nothing
BIAS = 0.02  # step of the router's bias, which evens the load of the experts
SAVE = 100  # steps between checkpoints
REPORT = 100  # steps between lines
MASTERED = 0.9  # share of right answers in a batch from which the next one is a little harder,
LATEST = 0.7  # and the share of the run after which all is trained even so; before, difficulty grows at least with the square


class Recipe:
    """A file of recipes/, with a task made for it."""

    def __init__(self, name):
        path = HERE / "recipes" / f"{name}.toml"
        if Path(name).name != name or not path.exists():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml")))
            sys.exit(f"no recipe {path}: expected one of {known}, or a file of your own beside them")
        self.name, self.text = name, path.read_text()
        try:
            read = tomllib.loads(self.text)
            self.config, self.n_loops = Config(**read["model"]), read["n_loops"]
            settings, task = dict(read["train"]), dict(read["task"])
            self.seed, self.steps, self.curriculum = (settings.pop(key) for key in ("seed", "steps", "curriculum"))
            self.learning_rate, self.lens = (settings.pop(key) for key in ("learning_rate", "lens"))
            self.task = TASKS[task.pop("name")](**task)
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as fault:
            what = f"no {fault}" if isinstance(fault, KeyError) else fault
            sys.exit(f"{path}: expected the fields of recipes/follow.toml, found a fault: {what}")
        c, lengths = self.config, getattr(self.task, "lengths", [1])
        whole = lambda value: isinstance(value, int) and value > 0
        for expected, holds in {
            f"no other fields in [train] than those of follow.toml, found {', '.join(settings)}": not settings,
            f"a vocab_size of {len(self.task.vocabulary)}, the words of the task, found {c.vocab_size}": c.vocab_size == len(self.task.vocabulary),
            f'attn_type "gqa" or "mla", found {c.attn_type}': c.attn_type in ("gqa", "mla"),
            f"heads that divide dim, and key/value heads that divide heads, found {c.n_heads} and {c.n_kv_heads}":
                c.dim % c.n_heads == 0 and c.n_heads % c.n_kv_heads == 0,
            f"no more experts chosen than there are, found {c.n_experts_per_tok} of {c.n_experts}": c.n_experts_per_tok <= c.n_experts,
            f"whole numbers of 1 or more for steps, curriculum and n_loops, found {self.steps}, {self.curriculum} and {self.n_loops}":
                all(map(whole, (self.steps, self.curriculum, self.n_loops))),
            f"tokens in a batch for the longest prompt, and that within max_seq_len, found {self.task.tokens}, {max(lengths)} and {c.max_seq_len}":
                max(lengths) <= min(self.task.tokens, c.max_seq_len),
        }.items():
            if not holds:
                sys.exit(f"{path}: expected {expected}")

    def rng(self, purpose, number):
        """Random numbers of one purpose: what is drawn to train is never drawn to test."""
        return np.random.default_rng([self.seed, ["train", "watch", "problems"].index(purpose), number])


def tensors(batch, device):
    """tokens, answers, difficulty of a batch as tensors."""
    return (torch.from_numpy(x).to(device) for x in (batch.tokens, batch.answers, batch.difficulty))


def targets(batch, answers, difficulty, loops, pending):
    """What to say after each loop, (N, B, Q)."""
    t = torch.arange(1, loops + 1, device=answers.device).view(-1, 1, 1)
    solved = t > difficulty
    if batch.path is None:
        return torch.where(solved, answers, pending), solved
    path = torch.from_numpy(batch.path).to(answers.device).movedim(-1, 0)
    return path[torch.arange(loops).clamp(max=len(path) - 1)], solved


def noise(h):
    return h + NOISE * torch.randn_like(h)


def keys(model, batch, e):
    """The loss of what tokens must know when they leave the prelude, states e (B, T, D); 0 where the task asks nothing."""
    if batch.keys is None:
        return e.new_zeros(())
    return F.cross_entropy(model.head(e).flatten(0, 1), torch.from_numpy(batch.keys).to(e.device).flatten(), ignore_index=NONE)


def losses(model, recipe, batch, loops, number):
    """The loss that this file begins with, and its parts by name."""
    tokens, answers, difficulty = tensors(batch, model.embed.weight.device)
    q = batch.queries
    e, states, halting = model(tokens, loops, number, noise)
    weights, _ = act_weights(halting.sigmoid(), model.config.act_threshold)
    logits = torch.stack([model.read(h, q) for h in states])
    said = model.read(mix(weights, states), q)
    target, solved = targets(batch, answers, difficulty, loops, recipe.task.pending)

    deep = F.cross_entropy(logits.flatten(0, 2), target.flatten())
    right = solved & (logits.argmax(-1) == answers)
    asked = F.binary_cross_entropy_with_logits(halting[:, :, -q:], right.float())
    halt = asked
    if q < tokens.shape[1]:
        others = halting[:, :, :-q]
        halt = asked + QUIET * F.binary_cross_entropy_with_logits(others, torch.ones_like(others))
    enough = difficulty < loops
    act = F.cross_entropy(said[enough], answers[enough]) if enough.any() else said.sum() * 0
    total = deep + 0.5 * halt + 0.5 * act
    if recipe.lens:
        total = total + recipe.lens * F.cross_entropy(torch.stack([model.head(h[:, -q:]) for h in states]).flatten(0, 2), target.flatten())
    parts = {"deep": deep.item(), "halt": halt.item(), "act": act.item()}
    if batch.keys is not None:
        known = keys(model, batch, e)
        total, parts["keys"] = total + 0.5 * known, known.item()
    right = (said.argmax(-1) == answers)[enough].float().mean()
    return total, parts | {"right": right.item()}


def draw_loops(rng, bound):
    """How many loops a batch gets, mostly about as many as it needs, sometimes many more; and the numbers they are told."""
    low, high = (2, bound + 3) if rng.random() >= 0.08 else (bound + 4, 2 * bound + 8)
    first = int(rng.integers(1, SHIFTS + 1)) if rng.random() < 0.5 else 0
    return int(rng.integers(low, high + 1)), lambda t: first + t


def schedule(step, done):
    """Share of the learning rate: 100 steps up, and over the whole a cosine down to 2%; `done` 0 … 1."""
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def optimizer(model, rate):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def balance(moe, share):
    """Evens the experts: the bias of one with less than its share of the load rises, of one with more falls."""
    load = torch.stack(moe.loads).mean(0)
    moe.loads.clear()
    moe.router_bias += BIAS * share * torch.sign(load.mean() - load)


@torch.no_grad()
def watch(answer, batches, device):
    """Right answers and loops used by difficulty; `answer(tokens, queries)` gives logits (B, Q, V) and loops used (B, T)."""
    right, used = {}, {}
    for batch in batches:
        tokens, answers, difficulty = tensors(batch, device)
        logits, loops = answer(tokens, batch.queries)
        correct = logits.argmax(-1) == answers
        for d in difficulty.unique().tolist():
            here = difficulty == d
            right.setdefault(d, []).append(correct[here].float())
            used.setdefault(d, []).append(loops[:, -batch.queries :][here].float())
    mean = lambda lists: {d: torch.cat(parts).mean().item() for d, parts in sorted(lists.items())}
    return mean(right), mean(used)


def by_difficulty(right, used):
    """`0:100/1.0 1:99/2.1 …`: right answers in %, rounded down, and loops used."""
    return " ".join(f"{d}:{int(100 * r)}/{used[d]:.1f}" for d, r in right.items())


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class Checkpoint:
    """A run's file: written whole or not at all, read back only for the same recipe."""

    def __init__(self, name, text, restart):
        self.path, self.text = HERE / "runs" / f"{name}.pt", text
        self.path.parent.mkdir(exist_ok=True)
        if restart:
            self.path.unlink(missing_ok=True)

    def load(self, model, optimizer, device):
        """The step to go on with, the seconds so far by the clock and of the processor, and the level reached."""
        if not self.path.exists():
            return 0, 0.0, 0.0, 0.0
        again = "--restart throws it away and begins anew"
        try:
            kept = torch.load(self.path, map_location=device, weights_only=True)
            place = [kept[key] for key in ("step", "seconds", "work", "level")]
            recipe = kept["recipe"]
        except Exception as fault:  # a damaged file fails in many ways
            sys.exit(f"{self.path} is no checkpoint of this program ({type(fault).__name__}): {again}")
        if recipe != self.text:
            sys.exit(f"{self.path} belongs to another recipe: {again}")
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        return place

    def save(self, model, optimizer, **place):
        kept = {"recipe": self.text, "model": model.state_dict(), "optimizer": optimizer.state_dict()} | place
        half = self.path.with_suffix(".half")
        torch.save(kept, half)
        os.replace(half, self.path)


def train(model, recipe, checkpoint, loss, answer, device, limit=math.inf):
    """The loop over batches, for the recipe's steps or for `limit` seconds of the processor's time, whichever is over first.
    `loss(batch, loops)` gives the loss and its parts by name for what draw_loops() said; `answer` as in `watch`. Gives the steps
    and the seconds by the clock."""
    optim = optimizer(model, recipe.learning_rate)
    step, before, work, level = checkpoint.load(model, optim, device)
    if step:
        print(f"goes on at step {step}", flush=True)
    begin = time.monotonic() - before
    moe = model.recurrent.block.ffn if hasattr(model, "recurrent") else None
    while (done := max(step / recipe.steps, work / limit)) < 1:
        start = time.process_time()
        rng = recipe.rng("train", step)
        torch.manual_seed(int(rng.integers(2**62)))
        level = max(level, min(1.0, (done / LATEST) ** 2))
        total, parts = loss(recipe.task.batch(rng, level), draw_loops(rng, recipe.task.reach(level)))
        if parts["right"] > MASTERED:
            level = min(1.0, level + 1 / recipe.curriculum)
        if not total.isfinite():
            sys.exit(f"step {step}: the loss is {total.item()}: a smaller learning_rate, or another seed, and --restart")
        optim.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = schedule(step, done)
        for group in optim.param_groups:
            group["lr"] = recipe.learning_rate * share
        optim.step()
        if moe:
            balance(moe, share)
        step, work = step + 1, work + time.process_time() - start
        if step % REPORT == 0 or step == recipe.steps:
            right, used = watch(answer, [recipe.task.batch(recipe.rng("watch", 4 * step + part), 1.0) for part in range(4)], device)
            seconds = time.monotonic() - begin
            named = " ".join(f"{name} {value:.3f}" for name, value in parts.items()) + f"  level {level:.2f}"
            whole = seconds * max(1, 1 / max(step / recipe.steps, work / limit))
            print(f"step {step:5}  {clock(seconds)} of {clock(whole)}  {named}  difficulty:right in %/loops {by_difficulty(right, used)}", flush=True)
        if step % SAVE == 0 or step == recipe.steps:
            checkpoint.save(model, optim, step=step, seconds=time.monotonic() - begin, work=work, level=level)
    return step, time.monotonic() - begin


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("recipe", help="name of a file in recipes/")
    args.add_argument("--out", type=Path, help="folder of the model [default: ../NAME]")
    args.add_argument("--restart", action="store_true", help="throw the checkpoint away and begin anew")
    args.add_argument("--threads", type=int, default=1, help="CPU threads; other numbers end in other last digits [default: 1]")
    args.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="[default: a GPU if there is one]")
    args = args.parse_args()
    try:
        torch.set_num_threads(args.threads)
        torch.zeros(1, device=args.device)
    except (RuntimeError, AssertionError) as fault:
        sys.exit(f"--device {args.device} --threads {args.threads}: {str(fault).splitlines()[0]}")
    recipe, out = Recipe(args.recipe), args.out or HERE.parent / args.recipe
    # What can go wrong at the end is tried before the work.
    package = export.package()
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as fault:
        sys.exit(f"--out {out}: expected a folder that can be written to, found {fault.strerror}")
    torch.manual_seed(recipe.seed)
    model = Looped(recipe.config)
    initialise(model, recipe.task.roles)
    model.to(args.device).train()
    print(f"{args.recipe}: {sum(p.numel() for p in model.parameters()):,} parameters on {args.device}, {torch.get_num_threads()} threads", flush=True)

    def loss(batch, loops):
        return losses(model, recipe, batch, *loops)

    def answer(tokens, queries):
        return model.answer(tokens, recipe.task.bound + 4, queries)

    checkpoint = Checkpoint(args.recipe, recipe.text, args.restart)
    _, seconds = train(model, recipe, checkpoint, loss, answer, args.device)
    model.eval().cpu()
    export.write(package, recipe, model, out)
    print(f"{args.recipe}: trained in {clock(seconds)}, written to {out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on at the last checkpoint", file=sys.stderr)
        sys.exit(130)
