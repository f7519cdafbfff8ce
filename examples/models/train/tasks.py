"""The tasks: what a prompt looks like, its answers, how hard each question is, and what to say after each loop until it is solved.

A task makes batches of one length, so nothing is ever padded; `batch(rng, level)` grows from easy at level 0 to all at level 1. Difficulty d means: solved after d + 1 loops, not before. At loop
t = 1, 2, … the target of a question is `answer` if t > d and `steps(t)` before: either the place reached so far (follow) or the
symbol `~`, "not yet known". All randomness comes from the generator that is handed in.
"""

import string
from dataclasses import dataclass, field

import numpy as np


NONE = -100  # no target: what PyTorch's cross-entropy leaves out


@dataclass
class Batch:
    """tokens (B, T); answers and difficulty (B, Q) of the last Q tokens; path (B, Q, P): the target after 1 … P loops where it is
    not yet the answer, or None for `~`; keys (B, T): what a token shall know when the loops begin, NONE where nothing; notes (B),
    for people, or empty."""

    tokens: np.ndarray
    answers: np.ndarray
    difficulty: np.ndarray
    path: np.ndarray | None = None
    keys: np.ndarray | None = None
    notes: list = field(default_factory=list)

    @property
    def queries(self):
        return self.answers.shape[1]


def replace(regex, content):
    """A normalizer: text of one kind becomes another."""
    return {"type": "Replace", "pattern": {"Regex": regex}, "content": content}


def sequence(kind, *steps):
    return {"type": "Sequence", kind: list(steps)}


def words(regex):
    """A pre-tokenizer: separators go, and what matches stands alone however it was spaced."""
    cut = lambda regex, behavior: {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}
    return sequence("pretokenizers", cut(r"[\s,;.]+", "Removed"), cut(regex, "Isolated"))


class Follow:
    """Letters point to letters: pairs `x >y` in any order, a root points to itself; `?x` asks for the root that x ends in.

    Difficulty is the number of arrows from x to its root. There are at least two roots, so the end cannot be guessed."""

    vocabulary = [f"{role}{letter}" for role in ("", ">", "?") for letter in string.ascii_lowercase]
    roles = [[letter, 26 + letter, 52 + letter] for letter in range(26)]
    pending = None
    bound = 6
    chance = 0.38  # a root at random
    unit = "arrows to the root"
    normalizer = sequence("normalizers", {"type": "Lowercase"}, replace(r"->|=>|→", ">"), replace(r"(?<=[>?])\s+", ""))
    pre_tokenizer = words(r"[>?]?[a-z]+")
    start = None  # what the tokenizer puts before every prompt

    def __init__(self, tokens):
        self.tokens = tokens

    def reach(self, level):
        """The hardest question at a level."""
        return round(2 + (self.bound - 2) * level)

    def batch(self, rng, level):
        letters = round(4 + 22 * level)
        queries = min(letters, 16)
        size = self.tokens // (2 * letters + queries)
        depths = rng.integers(1, self.reach(level) + 1, size=size)
        return self.problems(rng, size, letters, queries, depths.tolist())

    def problems(self, rng, size, letters, queries, depths):
        """So many prompts, each with a deepest question of its own."""
        tokens = np.empty((size, 2 * letters + queries), np.int64)
        answers, difficulty = (np.empty((size, queries), np.int64) for _ in range(2))
        path = np.empty((size, queries, max(depths) + 1), np.int64)
        for b, deepest in enumerate(depths):
            names = rng.permutation(26)[:letters]
            parent, depth = self.forest(rng, letters, deepest)
            order = rng.permutation(letters)
            tokens[b, 0 : 2 * letters : 2] = names[order]
            tokens[b, 1 : 2 * letters : 2] = 26 + names[parent[order]]
            asked = self.ask(rng, depth, queries)
            tokens[b, 2 * letters :] = 52 + names[asked]
            difficulty[b] = depth[asked]
            place = asked
            for t in range(path.shape[2]):
                place = parent[place]
                path[b, :, t] = names[place]
            while (parent[place] != place).any():
                place = parent[place]
            answers[b] = names[place]
        keys = np.full_like(tokens, NONE)
        keys[:, 1 : 2 * letters : 2] = tokens[:, 0 : 2 * letters : 2]  # `>y` stands for an arrow: it must know whose
        return Batch(tokens, answers, difficulty, path, keys)

    longest = None  # 26 letters, however long a prompt may be

    def examples(self, rng, count, _longest=longest):
        """Problems of every size, one a batch: up to 26 letters, up to 20 arrows."""
        for _ in range(count):
            letters = int(rng.integers(6, 27))
            deepest = int(rng.integers(1, min(letters - 2, 20) + 1))
            yield self.problems(rng, 1, letters, int(rng.integers(1, 9)), [deepest])

    @staticmethod
    def forest(rng, letters, deepest):
        """Parents and depths of so many letters in two trees or more (while the letters suffice), the deepest as asked."""
        if deepest == 0:
            return np.arange(letters), np.zeros(letters, np.int64)
        roots = min(int(rng.integers(2, 5)), letters - deepest)
        parent, depth = list(range(roots)), [0] * roots

        def grow(place):
            parent.append(place)
            depth.append(depth[place] + 1)
            return len(parent) - 1

        for root in range(min(roots, 2)):  # a chain of full length, and beside it one as long as there is room for
            place = root
            for _ in range(min(deepest, letters - len(parent))):
                place = grow(place)
        while len(parent) < letters:
            below = np.flatnonzero(np.array(depth) < deepest)
            grow(int(below[rng.integers(len(below))]))
        return np.array(parent), np.array(depth)

    @staticmethod
    def ask(rng, depth, queries):
        """Questions drawn evenly over the depths, no letter twice while there are enough; the deepest is always among them."""
        free = {d: list(rng.permutation(np.flatnonzero(depth == d))) for d in np.unique(depth)}
        asked = [free[max(free)].pop()]
        while len(asked) < queries:
            left = [d for d in free if free[d]]
            if not left:
                asked.append(int(rng.integers(len(depth))))
                continue
            asked.append(free[left[int(rng.integers(len(left)))]].pop())
        return rng.permutation(np.array(asked))


class Everywhere:
    """A task whose every token is a question: prompts of some lengths, so many that a batch has about as many tokens."""

    def __init__(self, tokens, lengths):
        self.tokens, self.lengths = tokens, lengths

    def reach(self, level):
        """The hardest question at a level."""
        return round(1 + (self.bound - 1) * level)

    def batch(self, rng, level):
        length = int(rng.choice(self.lengths))
        return self.problems(rng, self.tokens // length, length, self.reach(level))


class Cups(Everywhere):
    """Follow the ball: `@3` puts it under cup 3 of 5, `25` swaps cups 2 and 5; every token asks where the ball is now.

    Difficulty is the number of swaps since the last `@`. Until it is known the state after a loop says `~`."""

    swaps = [(a, b) for a in range(1, 6) for b in range(a + 1, 6)]
    vocabulary = [f"@{c}" for c in range(1, 6)] + [f"{a}{b}" for a, b in swaps] + [str(c) for c in range(1, 6)] + ["~"]
    roles = [[c, 15 + c] for c in range(5)]
    pending = 20
    bound = 8
    chance = 1 / 5
    unit = "swaps since the ball was put down"
    normalizer = sequence(
        "normalizers",
        replace(r"(?<=@)\s+", ""),
        replace(r"(?<=\d)\s*(?:<->|<>|↔|-)\s*(?=\d)", ""),
        *(replace(rf"(?<!\d){b}{a}(?!\d)", f"{a}{b}") for a, b in swaps),
    )
    pre_tokenizer = words(r"@?\d+")
    start = None

    def problems(self, rng, size, length, bound, again=True):
        """Prompts of so many tokens with at most `bound` swaps in a row; without `again` the ball is put down once only."""
        tokens, answers, difficulty = (np.empty((size, length), np.int64) for _ in range(3))
        ball, run, often = np.zeros(size, np.int64), np.zeros(size, np.int64), 0.5 * rng.random(size) ** 2
        pairs = np.array(self.swaps) - 1
        for t in range(length):
            put = (run == bound) | ((rng.random(size) < often) & again) if t else np.ones(size, bool)
            swap = rng.integers(len(pairs), size=size)
            # Of the swaps 2 in 5 move the ball; a few more make the chain matter.
            with_ball = np.array([np.flatnonzero((pairs == b).any(1)) for b in range(5)])
            touching = with_ball[ball, rng.integers(4, size=size)]
            swap = np.where(rng.random(size) < 0.3, touching, swap)
            a, b = pairs[swap].T
            moved = np.where(ball == a, b, np.where(ball == b, a, ball))
            ball = np.where(put, rng.integers(5, size=size), moved)
            run = np.where(put, 0, run + 1)
            tokens[:, t] = np.where(put, ball, 5 + swap)
            answers[:, t], difficulty[:, t] = 15 + ball, run
        return Batch(tokens, answers, difficulty)

    longest = 32

    def examples(self, rng, count, longest=longest):
        """Problems of up to so many tokens, one a batch; in every second the ball is put down once only."""
        for number in range(count):
            length = int(rng.integers(4, longest + 1))
            yield self.problems(rng, 1, length, length, again=number % 2 == 1)


class Add(Everywhere):
    """Addition as on paper, column by column from the right: `6+7 8+4 5+8 =` asks for each digit of 586 + 847, and `=` for the
    one in front of them. The tokenizer puts another `=` before the prompt: where nothing stands before it, a first column cannot be
    told from a second that is the same, for attention sees no difference between one thing and the same thing twice.

    Difficulty is the number of columns the carry has come from: 0 in the first column, 1 behind a column that carries or does
    not whatever comes in (its digits do not add up to 9), one more behind each 9. Until it is known the state after a
    loop says `~`."""

    vocabulary = [str(d) for d in range(10)] + ["~", "="] + [f"{a}+{b}" for a in range(10) for b in range(10)]
    roles = [[12 + 10 * a + b, 12 + 10 * b + a] for a in range(10) for b in range(a)]
    pending = 10
    bound = 8
    chance = 1 / 2  # the carry is 0 or 1
    unit = "columns that the carry has come"
    normalizer = sequence("normalizers", replace(r"\s*\+\s*", "+"))
    pre_tokenizer = words("=")
    start = "="

    def problems(self, rng, size, length, columns):
        """Prompts of so many tokens: sums of at most so many columns one after another, each with its own share of nines."""
        tokens, answers, difficulty = (np.empty((size, length), np.int64) for _ in range(3))
        tokens[:, 0], answers[:, 0], difficulty[:, 0] = 11, 0, 0
        for b in range(size):
            t = 1
            while t < length:
                n, nines = int(rng.integers(1, columns + 1)), rng.random()
                first = rng.integers(10, size=n)
                second = np.where(rng.random(n) < nines, 9 - first, rng.integers(10, size=n))
                for array, row in zip((tokens, answers, difficulty), self.sum(first, second)):
                    array[b, t : t + n + 1] = row[: length - t]
                t += n + 1
        return Batch(tokens, answers, difficulty)

    longest = 33  # 31 columns between two `=`

    def examples(self, rng, count, longest=longest):
        """One sum a batch, of up to so many tokens and every kind: few nines, many, and nothing else."""
        for number in range(count):
            columns = int(rng.integers(2, longest - 1))
            nines = (0.1, 0.6, 0.9, 1.0)[number % 4]
            first = rng.integers(10, size=columns)
            second = np.where(rng.random(columns) < nines, 9 - first, rng.integers(10, size=columns))
            if nines == 1.0:  # 999…9 + 1, and as often 999…9 + 0: the first column decides for all the others
                first[0] = rng.integers(1, 10)
                second[0] = rng.integers(10 - first[0], 10) if number % 8 == 7 else rng.integers(0, 10 - first[0])
            tokens, digits, hops = (np.array([row]) for row in self.sum(first, second))
            a, b = (int("".join(map(str, digits[::-1]))) for digits in (first, second))
            yield Batch(np.insert(tokens, 0, 11, 1), digits, hops, notes=[f"{a} + {b} = {a + b}"])

    @staticmethod
    def sum(first, second):
        """Tokens, digits and difficulties of one sum and its `=`; digits from the right."""
        tokens, digits, hops = [], [], []
        carry, since = 0, 0
        for a, b in zip(first.tolist(), second.tolist()):
            tokens.append(12 + 10 * a + b)
            digits.append((a + b + carry) % 10)
            hops.append(since)
            carry = (a + b + carry) // 10
            since = since + 1 if a + b == 9 and since else 1
        return tokens + [11], digits + [carry], hops + [since]


TASKS = {"follow": Follow, "cups": Cups, "add": Add}
