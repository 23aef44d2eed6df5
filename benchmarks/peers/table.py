"""What was measured, as lines of a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Found = Mapping[str, Sequence[float]]
"""Values by engine, one for each round."""

OURS = "ours"


@dataclass(frozen=True)
class Cell:
    """A load whose tokens a second are measured: a prompt, or steps of several sequences."""

    context: int
    """Tokens of the prompt, or those in each sequence before the steps."""
    streams: int = 0
    """Sequences that decode at once; 0: a prompt is computed."""

    @property
    def name(self) -> str:
        if not self.streams:
            return f"prompt of {self.context}, tok/s"
        if self.streams == 1:
            return f"decode at {self.context}, tok/s"
        return f"{self.streams} streams at {self.context}, tok/s in total"

    def rate(self, seconds: Sequence[float]) -> float:
        """Tokens a second from the seconds of each step, or of the one prompt."""
        return (self.streams or self.context) / statistics.median(seconds)


def cells(prompt: int, contexts: Sequence[int], streams: Sequence[int]) -> list[Cell]:
    """The cheap ones first, so that they are there if time runs out. Streams are at the shortest context."""
    wanted = [Cell(prompt)] + [Cell(context, 1) for context in contexts]
    wanted += [Cell(min(contexts), count) for count in streams]
    return sorted(wanted, key=lambda cell: (cell.streams > 0 and cell.context, cell.streams))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Ours over theirs: the median over the rounds, for a round's two turns met the same machine."""
    return statistics.median(a / b for a, b in zip(ours, theirs))


def header(engines: Sequence[str]) -> str:
    titles = ["", OURS]
    for engine in engines:
        if engine != OURS:
            titles += [engine, "ours / it"]
    return f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}"


def row(name: str, found: Found, engines: Sequence[str]) -> str:
    """Medians of the rounds, and behind each peer's the ratio; `-` where there is nothing."""
    ours = found.get(OURS, ())
    texts = [name, _number(statistics.median(ours)) if ours else "-"]
    for engine in engines:
        if engine == OURS:
            continue
        theirs = found.get(engine, ())
        texts.append(_number(statistics.median(theirs)) if theirs else "-")
        texts.append(f"{ratio(ours, theirs):.2f}" if ours and theirs else "-")
    return f"| {' | '.join(texts)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
