"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on up to the first stop string, and holds back what could become one.

    The string whose end comes first wins, so the outcome does not depend on how the text is cut. Of two that
    end together the longer one does.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched: str | None = None
        """The stop string that ended the text."""
        self._stops = tuple(stops)
        self._held = ""

    def feed(self, text: str) -> str:
        """Text that is certainly before any stop string. Nothing more comes once one has matched."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        start = self._find(text)
        if start is None:
            keep = self._possible_start(text)
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
            return text
        self._held = ""
        return text[:start]

    def matches(self, more: str) -> bool:
        """Whether `more`, text that is not certain yet, would complete a stop string."""
        return bool(self._stops and more) and _first(self._stops, self._held + more) is not None

    def finish(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> int | None:
        """Where the first stop string begins."""
        found = _first(self._stops, text)
        if found is None:
            return None
        start, self.matched = found
        return start

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        most = min(max(map(len, self._stops)) - 1, len(text))
        for length in range(most, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


def _first(stops: Sequence[str], text: str) -> tuple[int, str] | None:
    """Start and string of the match that ends first."""
    found = [(start + len(stop), start, stop) for stop in stops if (start := text.find(stop)) >= 0]
    return min(found)[1:] if found else None
