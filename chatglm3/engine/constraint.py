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
    """The ids that one answer must not go on with."""

    def __init__(self, grammar: Grammar, vocab_size: int) -> None:
        """vocab_size: ids that may be sampled; those that the grammar does not know are forbidden."""
        self._constraint = grammar.begin()
        self._forbidden = np.ones(vocab_size, dtype=np.bool_)
        self._known = self._forbidden[: grammar.vocab_size]
        self._pending: Future[NDArray[np.bool_]] | None = None

    def prepare(self, pool: Executor) -> None:
        """Begin to compute the mask in another thread, if it has not begun."""
        if self._pending is None:
            self._pending = pool.submit(self._compute)

    def take(self) -> NDArray[np.bool_]:
        """The mask that was prepared, [vocab_size]; valid until the next one. Raises GenerationError."""
        assert self._pending is not None
        pending, self._pending = self._pending, None
        return pending.result()

    def accept(self, token: int) -> bool:
        """Take note of the token that came next. Returns whether the answer ends with it."""
        return self._constraint.accept(token)

    def _compute(self) -> NDArray[np.bool_]:
        np.logical_not(self._constraint.allowed(), out=self._known)
        return self._forbidden
