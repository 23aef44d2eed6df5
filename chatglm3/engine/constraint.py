"""What an answer has to be, as far as the engine knows: a set of ids that may come next, again and again.

The engine computes these sets in threads beside the model's step. What they stand for, a grammar or a schema,
is text's business and not the engine's; `chatglm3.grammar` makes them.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """What one answer has to be. Calls never overlap, but come from different threads."""

    def allowed(self) -> NDArray[np.bool_]:
        """Whether each id may come next, [vocab_size].

        Asked twice before the next `accept`, it answers the same. Raises GenerationError where it is stuck.
        """

    def accept(self, token: int) -> bool:
        """Take note of the token that came next. Returns whether the answer ends with it."""


class Grammar(Protocol):
    """What the answers to a request have to be."""

    @property
    def vocab_size(self) -> int:
        """The ids it knows: those below this one."""

    def begin(self) -> Constraint:
        """A constraint for one answer."""


class TokenMask:
    """What an answer's constraint adds to its logits: nothing, or minus infinity where an id is forbidden."""

    def __init__(self, grammar: Grammar, vocab_size: int) -> None:
        """vocab_size: ids that may be sampled; those that the grammar does not know are forbidden."""
        self._constraint = grammar.begin()
        self._bias = np.full(vocab_size, -np.inf, dtype=np.float32)
        self._known = self._bias[: grammar.vocab_size]
        self._pending: Future[NDArray[np.float32]] | None = None

    def prepare(self, pool: Executor) -> None:
        """Begin to compute the mask in another thread, if it has not begun."""
        if self._pending is None:
            self._pending = pool.submit(self._compute)

    def take(self) -> NDArray[np.float32]:
        """The mask that was prepared, [vocab_size]; valid until the next one. Raises GenerationError."""
        assert self._pending is not None
        pending, self._pending = self._pending, None
        return pending.result()

    def accept(self, token: int) -> bool:
        """Take note of the token that came next. Returns whether the answer ends with it."""
        return self._constraint.accept(token)

    def _compute(self) -> NDArray[np.float32]:
        # Added, as a bias is: on a CPU that takes a tenth of the time of filling by a mask of booleans.
        self._known[:] = np.where(self._constraint.allowed(), np.float32(0), np.float32(-np.inf))
        return self._bias
