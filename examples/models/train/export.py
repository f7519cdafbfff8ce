"""What a trained model is shipped as, and the published package as judge of it.

A model's folder holds config.json, generation_config.json, model.safetensors, tokenizer.json and problems.jsonl: all of it data.
"""

import importlib.util
import json
import sys
import types
from dataclasses import asdict

import torch
from safetensors.torch import load_file, save_file

from model import Looped, act_weights

PROBLEMS = 100  # in problems.jsonl
TOLERANCE = 1e-3  # of the package's logits and ours, relative to the largest: an expert chosen the other way at a tie makes some 1e-4


def package():
    """The published PyTorch package's module, without the tokenizer and data set libraries that it can do without here."""
    if importlib.util.find_spec("open_mythos") is None:
        sys.exit("the weights are checked against the published package, which is missing: pip install --no-deps open-mythos==0.5.0")
    if importlib.util.find_spec("transformers") is None:
        sys.modules["transformers"] = types.ModuleType("transformers")
        sys.modules["transformers"].AutoTokenizer = None
    import open_mythos.main

    return open_mythos.main


def write(package, recipe, model, folder):
    """Checks a model and writes its folder, the weights last."""
    weights = {name: w.contiguous() for name, w in model.state_dict().items()}
    judge = Judge(package, recipe.config, weights)
    batches = recipe.task.examples(recipe.rng("problems", 0), PROBLEMS)
    problems = [problem for batch in batches for problem in judge.solve(model, recipe, batch)]

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"model_type": "openmythos"} | asdict(recipe.config))
    write_json(folder / "generation_config.json", {"n_loops": recipe.n_loops, "in_place": True})
    write_json(folder / "tokenizer.json", tokenizer(recipe.task))
    lines = "".join(json.dumps(problem) + "\n" for problem in problems)
    replace(folder / "problems.jsonl", lambda path: path.write_text(lines))
    replace(folder / "model.safetensors", lambda path: save_file(weights, path, metadata={"format": "pt"}))
    print(f"the package computes the same logits: {len(problems)} problems, worst difference {judge.worst:.1e} of the largest logit")
    right = sum(a == b for p in problems for a, b in zip(p["package"]["predicted"], p["answers"]))
    print(f"right on fresh problems: {right} of {sum(p['queries'] for p in problems)} questions")


def load(recipe, folder):
    """The model in a folder, which must be of this recipe."""
    for file in ("config.json", "model.safetensors"):
        if not (folder / file).exists():
            sys.exit(f"{folder / file} is missing: python train.py {recipe.name} makes it")
    fields = json.loads((folder / "config.json").read_text())
    if {"model_type": "openmythos"} | asdict(recipe.config) != fields:
        sys.exit(f"{folder / 'config.json'}: expected the sizes of recipe {recipe.name}, found others")
    model = Looped(recipe.config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


class Judge:
    """The package with our weights; `worst` is the largest difference of logits it has seen."""

    def __init__(self, package, config, weights):
        self.model = package.OpenMythos(package.MythosConfig(**asdict(config))).eval()
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        derived = {"head.weight", "freqs_cis", "freqs_cis_mla"}
        if set(missing) - derived or unexpected:
            sys.exit(f"the package expects other tensors: without {set(missing) - derived}, not {unexpected}")
        self.threshold, self.worst = config.act_threshold, 0.0

    @torch.no_grad()
    def answer(self, tokens, loops):
        """Logits (B, T, V) and loops used (B, T) of the package."""
        seen = []
        hook = self.model.recurrent.act.register_forward_hook(lambda _module, _args, p: seen.append(p))
        logits = self.model(tokens, n_loops=loops)
        hook.remove()
        return logits, act_weights(torch.stack(seen), self.threshold)[1]

    @torch.no_grad()
    def solve(self, model, recipe, batch, loops=None):
        """A batch as lines of problems.jsonl, with what the package says with so many loops or the model's own number; ends the
        program if our model says otherwise."""
        loops = loops or recipe.n_loops
        tokens, q, words = torch.from_numpy(batch.tokens), batch.queries, recipe.task.vocabulary
        logits, used = self.answer(tokens, loops)
        ours, ours_used = model.answer(tokens, loops, q)
        logits = logits[:, -q:]
        difference = ((logits - ours).abs().max() / logits.abs().max()).item()
        self.worst = max(self.worst, difference)
        if not difference < TOLERANCE or (used != ours_used).any():
            sys.exit(f"the package computes other logits or loops: {difference:.1e} of the largest logit, expected less than {TOLERANCE}")
        text = lambda ids: [words[i] for i in ids]
        for b, row in enumerate(batch.tokens):
            note = {"note": batch.notes[b]} if batch.notes else {}
            said = {"loops": loops, "predicted": text(logits[b].argmax(-1).tolist()), "loops_used": used[b].tolist()}
            prompt = text(row)[1 if recipe.task.start else 0 :]
            yield {"prompt": " ".join(prompt), "queries": q, "answers": text(batch.answers[b]),
                   "hops": batch.difficulty[b].tolist()} | note | {"package": said}


def tokenizer(task):
    """A WordLevel tokenizer in the Hugging Face format, which reads the task's words however people space them."""
    post = None
    if task.start:
        special = {"SpecialToken": {"id": task.start, "type_id": 0}}
        texts = [{"Sequence": {"id": id, "type_id": 0}} for id in "AB"]
        named = {"id": task.start, "ids": [task.vocabulary.index(task.start)], "tokens": [task.start]}
        post = {"type": "TemplateProcessing", "single": [special, texts[0]], "pair": [special, *texts], "special_tokens": {task.start: named}}
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(task.vocabulary)}, "unk_token": "<unk>"}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": task.normalizer,
            "pre_tokenizer": task.pre_tokenizer, "post_processor": post, "decoder": None, "model": model}


def write_json(path, value):
    replace(path, lambda half: half.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n"))


def replace(path, write):
    """A file whole or not at all."""
    half = path.with_name(path.name + ".half")
    write(half)
    half.replace(path)
