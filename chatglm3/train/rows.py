"""Examples as the rows of a batch: one a row, or several packed into one."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from chatglm3.train.data import Store
from chatglm3.train.encode import Example


@dataclass(frozen=True)
class Row:
    """What one row holds."""

    examples: list[Example]
    where: list[str]
    """The files and lines that they come from."""


class Rows(Dataset[Row]):
    """A store as rows. Which examples share a row depends on their lengths only, so a run can be repeated."""

    def __init__(self, store: Store, *, pack_to: int | None = None) -> None:
        self.store = store
        self.groups = (
            [[i] for i in range(len(store))] if pack_to is None else pack(store.lengths.tolist(), pack_to)
        )

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Row:
        group = self.groups[index]
        return Row([self.store[i] for i in group], [self.store.where(i) for i in group])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        lengths = self.store.lengths
        return [int(lengths[group].sum()) for group in self.groups]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices in groups of at most `capacity` tokens: longest first, each where it leaves least room.

    Raises ValueError for a length above the capacity.
    """
    groups: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens that still fit, group), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"sample {index} has {length} tokens, and a row takes {capacity}")
        at = bisect.bisect_left(room, (length, -1))
        if at == len(room):
            groups.append([index])
            bisect.insort(room, (capacity - length, len(groups) - 1))
        else:
            left, group = room.pop(at)
            groups[group].append(index)
            bisect.insort(room, (left - length, group))
    return groups


@dataclass(frozen=True)
class Collator:
    """Rows to a batch, padded on the right, where causal attention never looks."""

    pad_id: int
    packed: bool = False

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """`input_ids`, `labels` [rows, longest], and where they come from.

        When packed also `position_ids`, which begin at 0 with each example: by that, attention knows them
        apart.
        """
        longest = max(sum(len(example.ids) for example in row.examples) for row in rows)
        ids = torch.full((len(rows), longest), self.pad_id)
        labels = torch.full((len(rows), longest), -100)
        positions = torch.zeros(len(rows), longest, dtype=torch.long)
        for number, row in enumerate(rows):
            start = 0
            for example in row.examples:
                end = start + len(example.ids)
                ids[number, start:end] = torch.tensor(example.ids)
                learnt = torch.tensor(example.learnt)
                labels[number, start:end] = ids[number, start:end].masked_fill(~learnt, -100)
                positions[number, start:end] = torch.arange(end - start)
                start = end
            positions[number, start:] = torch.arange(longest - start)
        batch: dict[str, Any] = {"input_ids": ids, "labels": labels}
        if self.packed:
            batch["position_ids"] = positions
        return batch | {"where": [place for row in rows for place in row.where]}


class LengthGrouped(Sampler[int]):
    """A random order in which each batch holds rows of about the same length.

    The rows are shuffled, cut into runs of 50 batches, and sorted within each; then batches are shuffled. The
    order depends on seed and epoch only, so that all processes of a run have the same.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = np.array(lengths)
        self.batch_size = batch_size
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose another order; Trainer does, before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Any:
        random = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self), generator=random).numpy()
        run = 50 * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, len(order), run):
            part = order[start : start + run]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        # A short batch stays last: cutting the order into batches must not mix two of them.
        short = [batch for batch in batches if len(batch) < self.batch_size]
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        for number in torch.randperm(len(whole), generator=random).tolist():
            yield from whole[number].tolist()
        for batch in short:
            yield from batch.tolist()
