"""Speculative decoding by prompt lookup: what an answer is likely to repeat is verified in one step.

Answers quote: a call repeats names from its tool's definition, an edit repeats the code, a summary the text.
Where the latest tokens occurred before, those that followed them are proposed as a draft (prompt lookup,
github.com/apoorvumang/prompt-lookup-decoding), the model computes all of them in one step, and the sampler
chooses as ever, position by position, for as long as its choice is the draft's. So a draft changes how many
tokens a step yields, and never which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TRUST = {3: 0.6, 2: 0.5, 1: 0.3}
"""Length of a match, longest first -> how often its tokens hold, as long as nothing else is known.

Roughly as measured on nano's answers (benchmarks/speculation.py)."""

_LEARNING = 0.25
"""How much one verified token counts against all before it."""

_FORGIVENESS = 1 / 512
"""How far trust returns each time that nothing is drafted for want of it; else it would never return."""

_MOST_TRUST = 0.98


@dataclass(frozen=True)
class Speculation:
    """How far an engine speculates."""

    longest: int
    """Most tokens of one draft; 0 turns it off."""
    row_cost: float
    """What one token more adds to a decoding step, as a share of what the step costs with one token."""

    def least_chance(self, rows: int) -> float:
        """How likely a draft's last token must be to hold, for drafting it to pay among `rows` answers.

        A step costs 1 + row_cost * (rows - 1). One more token has to bring as much for its cost as the rest
        of the step does: alone, on a device that waits for memory, nearly nothing; in a large batch nearly 1.
        """
        return self.row_cost * rows / (1 + self.row_cost * (rows - 1))


class PromptLookup:
    """Drafts for one sequence, and how far they are to be trusted.

    A lookup takes a few dictionary accesses, however long the sequence is. It depends on the sequence's own
    tokens only, so the same request has the same drafts each time.
    """

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        """Runs of one to three tokens -> index of the token that followed the latest one."""
        self._indexed = 0
        self._trust = dict(_TRUST)
        self._match = 0

    def draft(self, tokens: Sequence[int], most: int, least_chance: float) -> list[int]:
        """At most `most` tokens that may follow `tokens`: those that hold with at least this chance.

        tokens: all of the sequence so far; they may only have grown since the last call.
        """
        self._index(tokens)
        for length, trust in self._trust.items():
            start = self._after.get(tuple(tokens[-length:]))
            if start is None:
                continue
            if trust < least_chance:
                self._trust[length] += (_TRUST[length] - trust) * _FORGIVENESS
                continue
            self._match = length
            count = min(most, int(math.log(least_chance) / math.log(trust)))
            repeated = list(tokens[start : start + count])
            while len(repeated) < count:  # what repeats at the very end will go round
                repeated += repeated[: count - len(repeated)]
            return repeated
        return []

    def learn(self, drafted: int, accepted: int) -> None:
        """Take note of how the last draft went: `accepted` of its tokens held; the next, if any, did not."""
        trust = self._trust[self._match]
        for _ in range(accepted):
            trust += _LEARNING * (1 - trust)
        if accepted < drafted:
            trust -= _LEARNING * trust
        self._trust[self._match] = min(trust, _MOST_TRUST)

    def _index(self, tokens: Sequence[int]) -> None:
        for end in range(self._indexed, len(tokens)):
            for length in _TRUST:
                if end >= length:
                    self._after[tuple(tokens[end - length : end])] = end
        self._indexed = len(tokens)
