"""What a quantization scheme is: a plain layout of tensors, and the two functions between it and a weight."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

PlainTensors = dict[str, Tensor]
"""The tensors that stand for one weight, by name. The first axis of each is the weight's rows."""

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Name -> (shape, dtype) of the tensors that stand for one weight."""


class Scheme(Protocol):
    """How a weight [rows, columns] is held in few bits.

    Rows are independent: row i of the weight depends on row i of each plain tensor only. So a weight can be
    converted in blocks of rows, and an embedding can look up rows without touching the others.
    """

    @property
    def name(self) -> str:
        """Key in `SCHEMES`."""

    @property
    def bits(self) -> int:
        """Bits of one code, scales not counted."""

    def layout(self, rows: int, columns: int, dtype: torch.dtype) -> Layout:
        """The plain tensors of a weight [rows, columns] that was stored in `dtype`."""

    def quantize(self, weight: Tensor) -> PlainTensors:
        """Nearest representation of weight [rows, columns]. Raises CheckpointError on inf and nan."""

    def dequantize(self, tensors: PlainTensors, columns: int) -> Tensor:
        """The weight [rows, columns] that the plain tensors stand for, in a dtype of the scheme's choice."""


def row_blocks(rows: int, columns: int, elements: int) -> list[slice]:
    """Cut `rows` into slices of about `elements` weights each, so that temporaries stay small."""
    step = max(1, elements // max(1, columns))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
