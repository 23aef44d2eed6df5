"""Code inside Markdown fences, read as it streams in."""

from __future__ import annotations

FENCE = "```"


class FencedCode:
    """Collects the code of fenced blocks from text that comes in pieces, one line at a time.

    Several blocks become one program, a block that is never closed ends with the text, and a text without any
    fence is taken as code itself. Linear in the length of the text.
    """

    def __init__(self) -> None:
        self._line: list[str] = []  # the unfinished last line
        self._unfenced: list[str] = []  # everything, until a fence is seen
        self._fenced = False
        self._inside = False
        self._lines_out = 0

    def feed(self, text: str) -> str:
        """Code that is certain now; put together, the returned pieces are the whole code."""
        if not self._fenced:
            self._unfenced.append(text)
        *lines, rest = text.split("\n")
        code = ""
        if lines:
            lines[0] = "".join(self._line) + lines[0]
            self._line = []
            code = "".join(map(self._take_line, lines))
        self._line.append(rest)
        return code

    def finish(self) -> str:
        """What the last line adds, or the whole text if it had no fence."""
        code = self._take_line("".join(self._line))
        return code if self._fenced else "".join(self._unfenced).strip()

    def _take_line(self, line: str) -> str:
        if not self._inside:
            self._inside = line.lstrip().startswith(FENCE)
            self._fenced = self._fenced or self._inside
            return ""
        if line.rstrip().endswith(FENCE):
            self._inside = False
            line = line.rstrip().removesuffix(FENCE)
            if not line.strip():
                return ""
        self._lines_out += 1
        return line if self._lines_out == 1 else "\n" + line


def fenced_code(text: str) -> str:
    """The code inside the fences of `text`."""
    reader = FencedCode()
    return reader.feed(text) + reader.finish()
