"""Markdown that is still being written, on a terminal.

A finished block is printed once and left alone, so it scrolls and copies as ordinary text. Only the last,
unfinished block is redrawn, and of that only the lines that changed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, Paragraph
from rich.syntax import Syntax
from rich.text import Text

# Without HTML, a tag in an answer is text to read; with it, rich would leave the tag out.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])


class _EastAsianParagraph(Paragraph):
    """A paragraph broken as Chinese is: rich would break it at spaces only, and leave lines half empty."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.text.split("\n", allow_blank=True):
            for part in line.divide(line_breaks(line.plain, options.max_width)):
                part.rstrip()
                yield part


class _PlainHeading(Heading):
    """A heading at the left margin: rich centres it, and frames the first level."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("#" * int(self.tag[1:]) + " ", style="dim") + self.text


class _PlainCode(CodeBlock):
    """Code with colours but no frame, margin or background, so that it copies as it is."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(code, self.lexer_name, theme="ansi_dark", background_color="default", word_wrap=True)


class _AnswerMarkdown(Markdown):
    """Rich's Markdown, keeping the line breaks that the model wrote: most of them are meant."""

    elements = Markdown.elements | {
        "paragraph_open": _EastAsianParagraph,
        "heading_open": _PlainHeading,
        "fence": _PlainCode,
        "code_block": _PlainCode,
    }

    def __init__(self, source: str) -> None:
        super().__init__("")
        self.markup = source
        self.parsed = _PARSER.parse(source)
        for token in _walk(self.parsed):
            if token.type == "softbreak":
                token.type = "hardbreak"


# Rich fills lines up with spaces, which would be copied along; styles that end among them must stay.
_STYLE = re.compile(r"\x1b\[[\d;]*m")
_TRAILING = re.compile(rf"(?:\s|{_STYLE.pattern})+$")


def _styles_only(trailing: re.Match[str]) -> str:
    return "".join(_STYLE.findall(trailing[0]))


def _walk(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _walk(token.children or [])


def render(console: Console, source: str) -> list[str]:
    """The lines of a piece of Markdown as the terminal takes them, without trailing blanks or empty edges."""
    with console.capture() as captured:
        console.print(_AnswerMarkdown(source))
    lines = [_TRAILING.sub(_styles_only, line) for line in captured.get().split("\n")]
    while lines and not _STYLE.sub("", lines[-1]):
        lines.pop()
    while lines and not _STYLE.sub("", lines[0]):
        lines.pop(0)
    return lines


_CLOSING = "，。、！？：；）」』】》〉”’％…—·,.!?:;)]}"
_OPENING = "（「『【《〈“‘([{"


def line_breaks(line: str, width: int) -> list[int]:
    """Where to break a line so that each part takes at most `width` cells, spaces at its end not counted.

    Between words, and on either side of a wide character, but for punctuation that must not begin or end a
    line; in the middle of a word only where it alone is wider than that.
    """
    breaks, start, possible, cells = [], 0, 0, 0
    for i, character in enumerate(line):
        if i and _may_break(line[i - 1], character):
            possible = i
        cells += cell_len(character)
        if cells > width and not character.isspace() and i > start:
            start = possible if possible > start else i
            breaks.append(start)
            cells = cell_len(line[start : i + 1])
    return breaks


def _may_break(before: str, after: str) -> bool:
    if after.isspace() or cell_len(after) == 0 or after in _CLOSING or before in _OPENING:
        return False
    return before.isspace() or cell_len(before) == 2 or cell_len(after) == 2


def blocks(source: str) -> list[str]:
    """The top-level blocks: nothing that is still to come changes any of them but the last."""
    top = [token for token in _PARSER.parse(source) if token.level == 0 and token.nesting >= 0]
    starts = [token.map[0] for token in top if token.map]
    lines = re.findall(r"[^\n]*\n|[^\n]+", source)
    return ["".join(lines[start:end]) for start, end in zip([0, *starts[1:]], [*starts[1:], None])]


def printable(text: str) -> str:
    """Text without control characters: a model must not be able to move the cursor or to retitle a window."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


class LiveRegion:
    """The lowest lines of the screen, rewritten in place; the cursor rests on the empty line below them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[str] = []

    def show(self, lines: list[str]) -> None:
        """Make the region look like `lines`: only from the first one that differs is anything written."""
        same = 0
        for old, new in zip(self._lines, lines):
            if old != new:
                break
            same += 1
        back = len(self._lines) - same
        if back or len(lines) > same:
            up = f"\x1b[{back}A\r\x1b[J" if back else ""
            self._write(up + "".join(f"{line}\n" for line in lines[same:]))
        self._lines = list(lines)

    def commit(self, lines: list[str]) -> None:
        """Print `lines` in the region's place for good; the region is empty afterwards."""
        self.show(lines)
        self._lines = []

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


class MarkdownStream:
    """Text that arrives in pieces, shown as Markdown: `feed` each piece, then `finish`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._region = LiveRegion(console)
        self._pending = ""
        self._anything_above = False
        self._next_draw = 0.0

    def feed(self, text: str) -> None:
        """Take a piece; redraw it unless drawing would then take most of the time."""
        self._pending += printable(text)
        start = time.perf_counter()
        if start < self._next_draw:
            return
        self._draw()
        end = time.perf_counter()
        self._next_draw = end + 2 * (end - start)

    def finish(self) -> None:
        """Print what is left and be ready for another text."""
        self._commit(blocks(self._pending))
        self._pending = ""
        self._anything_above = False

    def _draw(self) -> None:
        *finished, self._pending = blocks(self._pending)
        self._commit(finished)
        # What has scrolled off the top can no longer be erased: a block taller than the screen shows its end.
        room = max(1, self._console.height - 2)
        self._region.show(self._spaced(self._pending)[-room:])

    def _commit(self, finished: list[str]) -> None:
        for block in finished:
            lines = self._spaced(block)
            self._region.commit(lines)
            self._anything_above = self._anything_above or bool(lines)

    def _spaced(self, block: str) -> list[str]:
        """The lines of a block, below an empty one unless it is the first."""
        lines = render(self._console, block)
        return ["", *lines] if lines and self._anything_above else lines
