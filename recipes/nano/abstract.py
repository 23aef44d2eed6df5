"""Documents of random pieces: repeat, look up, choose, fill in. They teach copying before there is meaning.

A network that starts with conversations alone takes many times longer to find out that answers are copied
from the prompt. Each document has the outer form of a conversation: context after `<|user|>`, answer after
`<|assistant|>`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from chatglm3.tokenizer import Tokenizer
from chatglm3.train.encode import Example


class AbstractDocuments:
    """Draws documents over the pieces of one vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        first = 3 + 256  # after unknown, begin, end and the bytes
        last = min(tokenizer.special_ids.values())
        self.pieces = [i for i in range(first, last) if len(tokenizer.id_to_piece(i)) <= 8]
        self.marks = {
            mark: tokenizer.encode(mark)[1:] for mark in (": ", ", ", "\n", "(", ")", "='", "'", "?")
        }
        self.kinds: tuple[Callable[[random.Random], tuple[list[int], list[int]]], ...] = (
            self._repeat, self._continue, self._look_up, self._name_of, self._call,
        )  # fmt: skip

    def draw(self, rng: random.Random) -> Example:
        """One document; its answer is what is to be learnt."""
        t = self.tokenizer
        context, answer = rng.choice(self.kinds)(rng)
        ids = [*t.prefix_ids, t.user_id, *context, t.assistant_id]
        return Example([*ids, *answer, t.eos_id], [False] * len(ids) + [True] * (len(answer) + 1))

    def _some(self, rng: random.Random, low: int, high: int) -> list[int]:
        return [rng.choice(self.pieces) for _ in range(rng.randint(low, high))]

    def _repeat(self, rng: random.Random) -> tuple[list[int], list[int]]:
        text = self._some(rng, 3, 30)
        return text, text

    def _continue(self, rng: random.Random) -> tuple[list[int], list[int]]:
        text = self._some(rng, 20, 60)
        at = rng.randint(0, len(text) - 12)
        return [*text, *self.marks["?"], *text[at : at + 2]], text[at + 2 : at + rng.randint(4, 12)]

    def _pairs(self, rng: random.Random) -> list[tuple[list[int], list[int]]]:
        return [(self._some(rng, 1, 3), self._some(rng, 1, 5)) for _ in range(rng.randint(2, 8))]

    def _look_up(self, rng: random.Random) -> tuple[list[int], list[int]]:
        pairs = self._pairs(rng)
        context = [t for k, v in pairs for t in (*k, *self.marks[": "], *v, *self.marks["\n"])]
        key, value = rng.choice(pairs)
        return [*context, *key, *self.marks["?"]], value

    def _name_of(self, rng: random.Random) -> tuple[list[int], list[int]]:
        """The name stands before what describes it, and a part of the description asks for it."""
        rows = [(self._some(rng, 1, 4), self._some(rng, 3, 6)) for _ in range(rng.randint(2, 5))]
        context = [t for name, about in rows for t in (*name, *self.marks[": "], *about, *self.marks["\n"])]
        name, about = rng.choice(rows)
        asked = rng.sample(about, min(len(about), rng.randint(1, 3)))
        noise = self._some(rng, 0, 3)
        return [*context, *noise, *asked, *self._some(rng, 0, 3)], name

    def _call(self, rng: random.Random) -> tuple[list[int], list[int]]:
        """Choose a row by its description and fill its keys with the values that follow their labels."""
        marks = self.marks
        rows = [
            (
                self._some(rng, 1, 3),
                self._some(rng, 2, 4),
                [self._some(rng, 1, 2) for _ in range(rng.randint(1, 2))],
            )
            for _ in range(rng.randint(1, 3))
        ]
        context: list[int] = []
        for name, about, keys in rows:
            context += [*name, *marks[": "], *about]
            for key in keys:
                context += [*marks[", "], *key]
            context += marks["\n"]
        name, about, keys = rng.choice(rows)
        settings = [(key, self._some(rng, 1, 5)) for key in keys]
        answer = [*name, *marks["("]]
        for i, (key, value) in enumerate(settings):
            answer += [*(marks[", "] if i else []), *key, *marks["='"], *value, *marks["'"]]
        asked = [*about]
        for key, value in rng.sample(settings, len(settings)):
            asked += [*key, *value, *marks[", "]]
        return context + asked, [*answer, *marks[")"]]
