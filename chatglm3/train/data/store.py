"""Examples on disk, read through a memory map: a data set may be larger than memory."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from chatglm3.train.data.encoding import Pair
from chatglm3.train.encode import Example

_CHOSEN, _REJECTED = 1, 2


class StoreWriter:
    """Writes a store: five bytes a token. Use as a context manager; an unfinished store is not one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._ids = (folder / "ids.bin").open("wb")
        self._marks = (folder / "marks.bin").open("wb")
        self._ends = array("q")
        self._where: list[str] = []

    def add(self, example: Example | Pair, where: str) -> None:
        """Append an example that comes from `where`."""
        if isinstance(example, Pair):
            ids = example.prompt + example.chosen + example.rejected
            marks = bytes(len(example.prompt))
            marks += bytes([_CHOSEN]) * len(example.chosen) + bytes([_REJECTED]) * len(example.rejected)
        else:
            ids, marks = example.ids, bytes(example.learnt)
        array("i", ids).tofile(self._ids)
        self._marks.write(marks)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(ids))
        self._where.append(where)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ids.close()
        self._marks.close()
        if kind is None:
            with (self.folder / "ends.bin").open("wb") as file:
                self._ends.tofile(file)
            (self.folder / "where.json").write_text(json.dumps(self._where), encoding="utf-8")


class Store(Sequence[Example]):
    """The examples of one split. Index with `[i]`; pairs are read with `pair(i)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ends = np.fromfile(folder / "ends.bin", dtype=np.int64)
        self._starts = np.concatenate(([0], self._ends[:-1])) if len(self._ends) else self._ends
        self._ids = self._map("ids.bin", np.int32)
        self._marks = self._map("marks.bin", np.uint8)
        self._where: list[str] = json.loads((folder / "where.json").read_text(encoding="utf-8"))

    def _map(self, name: str, dtype: type[np.generic]) -> np.ndarray:
        path = self.folder / name
        return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        span = slice(self._starts[index], self._ends[index])
        return Example(self._ids[span].tolist(), (self._marks[span] == 1).tolist())

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def pair(self, index: int) -> Pair:
        """A preference pair."""
        span = slice(self._starts[index], self._ends[index])
        ids, marks = self._ids[span], self._marks[span]
        prompt, chosen, rejected = (ids[marks == mark].tolist() for mark in (0, _CHOSEN, _REJECTED))
        return Pair(prompt, chosen, rejected)

    def where(self, index: int) -> str:
        """The file and the line that an example comes from."""
        return self._where[index]

    @property
    def lengths(self) -> np.ndarray:
        """[examples] int64: tokens of each."""
        return self._ends - self._starts
