"""Documents of random pieces: repeat, go on, look up, choose, fill in. They teach reading before meaning.

A network that starts with conversations alone takes many times longer to find out that answers stand in the
prompt, and where. Each document has the outer form of a conversation: rows in a system message, then several
questions about them, each with its answer, so that one document asks for the same ability many times.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from chatglm3.tokenizer import Tokenizer
from chatglm3.train.encode import Example

Ids = list[int]
Exercise = tuple[Ids, list[tuple[Ids, Ids]]]
"""What stands in the system message (may be nothing), and questions with their answers."""


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
        self.digits = [tokenizer.encode(digit)[-1] for digit in "0123456789.,"]
        self.opening = tokenizer.encode("\n")  # of every message's text
        self.kinds: tuple[Callable[[random.Random, int], Exercise], ...] = (
            self._repeat, self._go_on, self._look_up, self._name_of, self._call, self._repeat_few,
        )  # fmt: skip

    def draw(self, rng: random.Random, level: int) -> Example:
        """One document; its answers are what is to be learnt.

        level: 0 for copying and hard look-ups; 1 for look-ups of all degrees; 2 for copying as well where the
            same few pieces come again and again, as the digits of numbers do.
        """
        t = self.tokenizer
        kinds = self.kinds if level > 1 else self.kinds[:-1]
        rows, questions = rng.choice(kinds)(rng, level)
        ids, learnt = list(t.prefix_ids), [False] * len(t.prefix_ids)

        def write(pieces: Ids, answer: bool) -> None:
            ids.extend(pieces)
            learnt.extend([answer] * len(pieces))

        if rows:
            write([t.system_id, *self.opening, *rows], False)
        for question, answer in questions:
            write([t.user_id, *self.opening, *question, t.assistant_id], False)
            write([*self.opening, *answer], True)
        write([t.user_id], True)
        return Example(ids, learnt)

    def _some(self, rng: random.Random, low: int, high: int) -> Ids:
        return rng.choices(self.pieces, k=rng.randint(low, high))

    def _repeat(self, rng: random.Random, level: int) -> Exercise:
        texts = [self._some(rng, 2, 20) for _ in range(rng.randint(1, 4))]
        return [], [(text, text) for text in texts]

    def _repeat_few(self, rng: random.Random, level: int) -> Exercise:
        few = self.digits if rng.random() < 0.5 else self._some(rng, 2, 8)
        texts = [rng.choices(few, k=rng.randint(3, 30)) for _ in range(rng.randint(1, 4))]
        return [], [(text, text) for text in texts]

    def _go_on(self, rng: random.Random, level: int) -> Exercise:
        """Two neighbours ask for those that follow them."""
        text = self._some(rng, 20, 60)
        places = [rng.randint(0, len(text) - 12) for _ in range(rng.randint(2, 6))]
        return text, [(text[at : at + 2], text[at + 2 : at + rng.randint(4, 10)]) for at in places]

    def _look_up(self, rng: random.Random, level: int) -> Exercise:
        marks = self.marks
        longest, between, after = 3, marks[": "], marks["?"]
        if level > 0:
            longest, between, after = rng.randint(1, 3), rng.choice(([], between)), rng.choice(([], after))
        pairs = [(self._some(rng, 1, longest), self._some(rng, 1, 4)) for _ in range(rng.randint(2, 8))]
        rows = [t for key, value in pairs for t in (*key, *between, *value, *marks["\n"])]
        asked = rng.choices(pairs, k=rng.randint(2, 8))
        return rows, [([*key, *after], value) for key, value in asked]

    def _name_of(self, rng: random.Random, level: int) -> Exercise:
        """A name stands before what describes it, and a part of the description asks for it."""
        marks = self.marks
        longest, least, most, noise, between = 3, 3, 6, 3, marks[": "]
        if level > 0:
            longest, least, most, noise = rng.randint(1, 3), 1, rng.randint(1, 6), rng.choice((0, 0, 1, 3))
            between = rng.choice(([], between))
        known = [
            (self._some(rng, 1, longest), self._some(rng, least, most)) for _ in range(rng.randint(2, 5))
        ]
        rows = [t for name, about in known for t in (*name, *between, *about, *marks["\n"])]
        questions = []
        for name, about in rng.choices(known, k=rng.randint(2, 8)):
            asked = rng.sample(about, rng.randint(1, min(3, len(about))))
            questions.append(([*self._some(rng, 0, noise), *asked, *self._some(rng, 0, noise)], name))
        return rows, questions

    def _call(self, rng: random.Random, level: int) -> Exercise:
        """Choose a row by its description and fill its keys with the values that follow their labels."""
        marks = self.marks
        longest, least, most, fewest = 3, 2, 4, 1
        if level > 0:
            longest, least, most, fewest = rng.randint(1, 3), 1, rng.randint(1, 4), 0
        known = [
            (
                self._some(rng, 1, longest),
                self._some(rng, least, most),
                [self._some(rng, 1, 2) for _ in range(rng.randint(fewest, 2))],
            )
            for _ in range(rng.randint(1, 4))
        ]
        rows: Ids = []
        for name, about, keys in known:
            rows += [*name, *marks[": "], *about]
            for key in keys:
                rows += [*marks[", "], *key]
            rows += marks["\n"]
        questions = []
        for name, about, keys in rng.choices(known, k=rng.randint(1, 5)):
            settings = [(key, self._some(rng, 1, 4)) for key in keys]
            answer = [*name, *marks["("]]
            for i, (key, value) in enumerate(settings):
                answer += [*(marks[", "] if i else []), *key, *marks["='"], *value, *marks["'"]]
            asked = [*about]
            for key, value in rng.sample(settings, len(settings)):
                asked += [*key, *value, *marks[", "]]
            questions.append((asked, [*answer, *marks[")"]]))
        return rows, questions
