"""Low-rank updates of the linear layers (LoRA, arXiv:2106.09685), those of several adapters in one batch.

An adapter holds B A for some linears, and its rows of a batch get B A x added to W x. The products are
computed adapter by adapter over the rows that are theirs; rows without an adapter are not touched.

Shapes: N packed tokens, n of them with one adapter, r the rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """The update of one linear: gain * (W x + bias + B A x) + shift.

    gain: of each row, where only directions are low-rank (DoRA, arXiv:2402.09353). shift: what then makes the
    bias that was trained.
    """

    a: Tensor
    """[r, in]"""
    b: Tensor
    """[out, r], with the adapter's scaling in it."""
    gain: Tensor | None = None
    """[out]"""
    shift: Tensor | None = None
    """[out]"""

    def apply(self, x: Tensor, y: Tensor) -> Tensor:
        """x [n, in], and y [n, out] that the linear made of it, to [n, out]."""
        y = torch.addmm(y, x @ self.a.t(), self.b.t())
        if self.gain is not None:
            y = y * self.gain
        return y if self.shift is None else y + self.shift

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(t.nbytes for t in (self.a, self.b, self.gain, self.shift) if t is not None)


@dataclass(frozen=True, eq=False)
class Lora:
    """One adapter's updates, on the model's device and in its dtype."""

    layers: Sequence[Mapping[str, LowRank]]
    """Of each layer: "qkv", "attention_out", "gate_up", "down", as far as they have one."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(update.nbytes for layer in self.layers for update in layer.values())


class LoraBatch:
    """Which rows of a step's packed tokens belong to which adapter."""

    def __init__(self, groups: Sequence[tuple[Lora, Tensor | slice]]) -> None:
        """groups: an adapter and its rows, [n] int64 or consecutive."""
        self._groups = groups

    @classmethod
    def build(
        cls, loras: Sequence[Lora | None], lengths: Sequence[int], device: torch.device | str
    ) -> LoraBatch | None:
        """Of sequences with lengths[s] packed tokens each; None where none has an adapter."""
        spans: dict[Lora, list[range]] = {}
        for lora, length, end in zip(loras, lengths, accumulate(lengths), strict=True):
            if lora is not None:
                spans.setdefault(lora, []).append(range(end - length, end))
        if not spans:
            return None
        return cls([(lora, _rows(own, device)) for lora, own in spans.items()])

    def add(self, layer: int, linear: str, x: Tensor, y: Tensor) -> Tensor:
        """A layer's linear with all updates: its input x [N, in] and output y [N, out], which may change."""
        for lora, rows in self._groups:
            update = lora.layers[layer].get(linear)
            if update is not None:
                y[rows] = update.apply(x[rows], y[rows])
        return y


def _rows(spans: Sequence[range], device: torch.device | str) -> Tensor | slice:
    rows = [row for span in spans for row in span]
    if rows[-1] - rows[0] < len(rows):  # consecutive: nothing has to be gathered
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)
