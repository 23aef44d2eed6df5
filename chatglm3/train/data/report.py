"""What `chatglm3 finetune --check` says of a data set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from chatglm3.tokenizer import Tokenizer
from chatglm3.train.data.encoding import Pair
from chatglm3.train.data.records import Problem
from chatglm3.train.encode import Example

_LISTED = 5
"""Places that a note names before it counts the rest."""


@dataclass
class SplitReport:
    """One split: its samples by format, their lengths, and what is wrong with others."""

    name: str
    """`train` or `validation`."""
    problems: list[Problem] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    learnt: int = 0
    """Tokens that carry loss."""
    skipped: list[str] = field(default_factory=list)
    """Samples left out because they are too long, as the caller wished."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """(sample, the earlier one that is the same)."""
    unread: Counter[str] = field(default_factory=Counter)
    """Fields that no format reads, by how many samples have them."""

    def lines(self) -> list[str]:
        """A paragraph for a person."""
        kinds = ", ".join(f"{count} {name}" for name, count in self.formats.items()) or "none"
        lines = [f"{self.name}: {len(self.lengths)} samples to learn from ({kinds})"]
        if self.lengths:
            lengths = np.array(self.lengths)
            middle, high = np.percentile(lengths, [50, 95])
            lines.append(
                f"  tokens: {lengths.sum()} in all, {self.learnt} learnt; a sample has {lengths.min()} to "
                f"{lengths.max()}, half of them at most {middle:.0f}, 95 % at most {high:.0f}"
            )
        if self.skipped:
            lines.append(f"  left out as too long: {_places(self.skipped)}")
        if self.duplicates:
            shown = [f"{later} (as {earlier})" for later, earlier in self.duplicates]
            lines.append(f"  the same sample again: {_places(shown)}")
        for name, count in self.unread.items():
            lines.append(f"  the field {name!r} is not read ({count} samples have it)")
        return lines


@dataclass
class Report:
    """Both splits, and what they share."""

    splits: list[SplitReport]
    leaks: list[tuple[str, str]]
    """(validation sample, the training sample with the same prompt)."""
    same_answers: int = 0
    """How many of the leaks have the same answer too."""

    @property
    def problems(self) -> list[Problem]:
        """All that keeps a run from starting."""
        return [problem for split in self.splits for problem in split.problems]

    def lines(self) -> list[str]:
        """Everything but the problems, for a person."""
        lines = [line for split in self.splits for line in split.lines()]
        if self.leaks:
            shown = [f"{later} (as {earlier})" for later, earlier in self.leaks]
            lines.append(
                f"leak: {len(self.leaks)} validation samples ask what a training sample asks, "
                f"{self.same_answers} with the same answer: {_places(shown)}"
            )
        return lines


def _places(places: list[str]) -> str:
    more = len(places) - _LISTED
    return ", ".join(places[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def show_example(example: Example | Pair, tokenizer: Tokenizer) -> list[str]:
    """An example token by token: position, id, whether it is learnt, its piece."""
    if isinstance(example, Pair):
        shown = [(i, "") for i in example.prompt] + [(i, "chosen") for i in example.chosen]
        shown += [(i, "rejected") for i in example.rejected]
    else:
        shown = [(i, "learnt" if on else "") for i, on in zip(example.ids, example.learnt, strict=True)]
    return [
        f"{number:5}  {id:6}  {mark:8}  {tokenizer.id_to_piece(id) or '</s>'}".rstrip()
        for number, (id, mark) in enumerate(shown)
    ]
