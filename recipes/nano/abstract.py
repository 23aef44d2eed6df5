"""Documents of random pieces: repeat, look up, choose a tool, fill in its parameters.

They teach reading before meaning.

A network that starts with conversations alone takes many times longer to find out that answers stand in the
prompt, and where. Each document has the outer form of a conversation: rows in a system message, then several
questions about them, each with its answer, so that one document asks for the same ability many times.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

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
        self.digits = [tokenizer.encode(digit)[-1] for digit in "0123456789.,"]
        self.opening = tokenizer.encode("\n")  # of a message's text
        self.space = self.opening[:1]  # of a tool's name where it is called
        self.form = _ToolForm(tokenizer)
        self.kinds: tuple[tuple[Callable[[random.Random], Exercise], int], ...] = (
            (self._choose, 3), (self._fill, 3), (self._look_up, 2), (self._repeat, 1), (self._repeat_few, 1),
        )  # fmt: skip

    def draw(self, rng: random.Random) -> Example:
        """One document; its answers are what is to be learnt."""
        t = self.tokenizer
        kinds, weights = zip(*self.kinds, strict=True)
        rows, questions = rng.choices(kinds, weights)[0](rng)
        ids, learnt = list(t.prefix_ids), [False] * len(t.prefix_ids)

        def write(pieces: Ids, answer: bool) -> None:
            ids.extend(pieces)
            learnt.extend([answer] * len(pieces))

        if rows:
            write([t.system_id, *self.opening, *rows], False)
        for question, answer in questions:
            write([t.user_id, *self.opening, *question, t.assistant_id], False)
            write(answer, True)
        write([t.user_id], True)
        return Example(ids, learnt)

    def _some(self, rng: random.Random, low: int, high: int) -> Ids:
        return rng.choices(self.pieces, k=rng.randint(low, high))

    def _repeat(self, rng: random.Random) -> Exercise:
        texts = [self._some(rng, 2, 20) for _ in range(rng.randint(1, 4))]
        return [], [(text, [*self.opening, *text]) for text in texts]

    def _repeat_few(self, rng: random.Random) -> Exercise:
        """Where the same few pieces come again and again, as the digits of numbers do."""
        few = self.digits if rng.random() < 0.5 else self._some(rng, 2, 8)
        texts = [rng.choices(few, k=rng.randint(3, 30)) for _ in range(rng.randint(1, 4))]
        return [], [(text, [*self.opening, *text]) for text in texts]

    def _look_up(self, rng: random.Random) -> Exercise:
        form = self.form
        longest, between, after = rng.randint(1, 3), rng.choice(([], form.colon)), rng.choice(([], form.ask))
        pairs = [(self._some(rng, 1, longest), self._some(rng, 1, 4)) for _ in range(rng.randint(2, 8))]
        rows = [t for key, value in pairs for t in (*key, *between, *value, *form.line)]
        asked = rng.choices(pairs, k=rng.randint(2, 8))
        return rows, [([*key, *after], [*self.opening, *value]) for key, value in asked]

    def _choose(self, rng: random.Random) -> Exercise:
        """Tools are listed, and a part of a description asks for the name that stands before it."""
        longest, most = rng.choice(((1, 2), (3, 6)))
        tools = [
            _Tool(self._some(rng, 1, longest), self._some(rng, 1, most)) for _ in range(rng.randint(2, 5))
        ]
        questions = []
        for tool in rng.choices(tools, k=rng.randint(3, 8)):
            asked = rng.sample(tool.about, rng.randint(1, min(4, len(tool.about))))
            noise = rng.choice((0, 0, 1, 3))
            question = [*self._some(rng, 0, noise), *asked, *self._some(rng, 0, noise)]
            questions.append((question, [*self.space, *tool.name]))
        return self.form.listed(tools, rng), questions

    def _fill(self, rng: random.Random) -> Exercise:
        """Choose a tool by its description, and give its parameters the values that follow their labels."""
        longest, most = rng.choice(((1, 2), (3, 5)))
        tools = [
            _Tool(
                self._some(rng, 1, longest),
                self._some(rng, 1, most),
                [
                    (self._some(rng, 1, min(longest, 2)), self._some(rng, 1, 2))
                    for _ in range(rng.randint(1, 2))
                ],
            )
            for _ in range(rng.randint(1, 3))
        ]
        questions = []
        for tool in rng.choices(tools, k=rng.randint(2, 6)):
            values = [self._some(rng, 1, 3) for _ in tool.parameters]
            asked = rng.sample(tool.about, rng.randint(1, len(tool.about)))
            labelled = list(zip(tool.parameters, values, strict=True))
            for (_, label), value in rng.sample(labelled, len(labelled)):
                asked += [*label, *value, *self.form.comma]
            questions.append((asked, [*self.space, *self.form.call(tool, values)]))
        return self.form.listed(tools, rng), questions


@dataclass(frozen=True)
class _Tool:
    name: Ids
    about: Ids
    parameters: list[tuple[Ids, Ids]] = field(default_factory=list)
    """Names and descriptions."""


class _ToolForm:
    """The pieces between which names and descriptions stand in a list of tools, and values in a call."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = {tokenizer.id_to_piece(i).replace("▁", " "): i for i in range(tokenizer.vocab_size)}

        def one(start: str, end: str) -> int:
            (found,) = (i for piece, i in pieces.items() if piece.startswith(start) and piece.endswith(end))
            return found

        name = '    {\n        "name": "'
        self.first = one("\n[", name)
        self.next = [i for piece, i in pieces.items() if piece.endswith(name) and i != self.first]
        self.about = one('",\n        "desc', '": "')
        self.key = one('",\n        "parameters"', '\n                "')
        self.label = one('": {\n                    "type": "string"', '"description": "')
        self.next_key = one('"\n                },', '                "')
        self.required = one('"\n                }\n            },\n            "required"', '"')
        self.next_required = one('",\n                "', '",\n                "')
        self.next_after_required = one('"\n            ]', name)
        self.end = one('"\n            ]', "]")

        def encoded(text: str) -> Ids:
            return tokenizer.encode("\n" + text)[2:]  # as in a line: SentencePiece puts a space before a text

        self.colon, self.comma, self.line, self.ask = map(encoded, (": ", ", ", "\n", "?"))
        call = tokenizer.encode("a\n ```python\ntool_call(a='a', a='a')\n```")
        letter = tokenizer.encode("a")[-1]
        parts: list[Ids] = [[]]
        for piece in call:
            if piece == letter:
                parts.append([])
            else:
                parts[-1].append(piece)
        _, self.code, self.equals, self.between, _, self.last = parts

    def listed(self, tools: list[_Tool], rng: random.Random) -> Ids:
        """The list of `tools`."""
        rows: Ids = []
        for position, tool in enumerate(tools):
            follows = self.next_after_required if tool.parameters else rng.choice(self.next)
            rows += [follows if position else self.first, *tool.name, self.about, *tool.about]
            for i, (key, label) in enumerate(tool.parameters):
                rows += [self.next_key if i else self.key, *key, self.label, *label]
            for i, (key, _) in enumerate(tool.parameters):
                rows += [self.next_required if i else self.required, *key]
        return [*rows, self.end]

    def call(self, tool: _Tool, values: list[Ids]) -> Ids:
        """A call of `tool`, name and code."""
        answer = [*tool.name, *self.code]
        for i, ((key, _), value) in enumerate(zip(tool.parameters, values, strict=True)):
            answer += [*(self.between if i else []), *key, *self.equals, *value]
        return [*answer, *self.last]
