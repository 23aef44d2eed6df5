"""Reads the tables of wordings in `tables/*.txt`.

A line `= name` opens a table, the lines after it hold its entries, separated by ` | `. `[a/b]` in an entry
stands for one entry with `a` and one with `b`.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent / "tables"


def expand(entry: str) -> list[str]:
    """The entries that `[a/b]` stands for."""
    parts = re.split(r"\[([^\]]*/[^\]]*)\]", entry)
    choices = [part.split("/") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def distinct(entries: list[str]) -> tuple[str, ...]:
    """The entries without those that differ from an earlier one in case or closing punctuation only."""
    found: dict[str, str] = {}
    for entry in entries:
        found.setdefault(entry.casefold().strip(" ?!.？！。"), entry)
    return tuple(found.values())


@lru_cache
def read(file: str) -> dict[str, tuple[str, ...]]:
    """The tables of a file by name."""
    tables: dict[str, list[str]] = {}
    for line in (FOLDER / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            entries = tables.setdefault(line[2:].strip(), [])
        elif line.strip():
            for entry in line.split(" | "):
                entries.extend(expand(entry.strip().replace("\\n", "\n")))
    return {name: distinct(entries) for name, entries in tables.items()}
