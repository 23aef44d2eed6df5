"""Markdown that arrives in pieces ends as if it had come at once, and nothing is shown twice."""

from __future__ import annotations

import io
import random
import re
from itertools import pairwise

import pytest
from rich.console import Console

from chatglm3.cli.markdown import MarkdownStream, blocks, line_breaks, render
from tests.cli.screen import Screen

ANSWER = """\
# 标题 and title

你好，这是**粗体**和`code`，还有一个很长的句子，长到一行写不下，所以要换行，and on it goes in *English*.
第二行 with a <div> tag.

- one
- two
  - nested

1. first
2. second

```python
def add(a: int, b: int) -> int:
    return a + b  # 加法
```

| 名 | value |
|---|---|
| 甲 | 1 |

> a quotation

The end: 2 * 3 = 6.
"""


def console(height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=60, height=height, legacy_windows=False)


def streamed(pieces: list[str], height: int = 24) -> str:
    """What the screen and what is above it hold after `pieces` were shown one after another."""
    terminal = console(height)
    stream = MarkdownStream(terminal)
    for piece in pieces:
        stream.feed(piece)
        stream._next_draw = 0.0  # draw every time: the hardest case
    stream.finish()
    screen = Screen(60, height)
    screen.write(terminal.file.getvalue())  # type: ignore[attr-defined]
    return screen.text.rstrip("\n")


def cut(source: str, seed: int) -> list[str]:
    rng = random.Random(seed)
    pieces = []
    while source:
        length = rng.randint(1, 9)
        pieces.append(source[:length])
        source = source[length:]
    return pieces


def plain(lines: list[str]) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(lines))


def test_an_answer_reads_well() -> None:
    shown = plain(render(console(), ANSWER))
    for text in (
        "# 标题 and title",
        "粗体",
        "第二行 with a <div> tag.",
        " • two",
        "    return a + b  # 加法",
        "甲",
    ):
        assert text in shown
    assert "**" not in shown
    assert "```" not in shown
    assert all(line == line.rstrip() for line in shown.split("\n"))
    assert "English.\n第二行" in shown, "the model's own line breaks are kept"


@pytest.mark.parametrize("seed", range(5))
def test_pieces_end_as_the_whole_does(seed: int) -> None:
    assert streamed(cut(ANSWER, seed)) == streamed([ANSWER])


@pytest.mark.parametrize(
    "source", ["```\n" + "".join(f"line {i}\n" for i in range(200)) + "```\n", "word " * 2000]
)
def test_a_block_longer_than_the_screen_is_shown_once(source: str) -> None:
    pieces = [source[i : i + 25] for i in range(0, len(source), 25)]
    shown = streamed(pieces, height=12)
    assert shown == plain(render(console(), source))
    assert shown.count("line 7\n") == source.count("line 7\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("one\n\ntwo", ["one\n\n", "two"]),
        ("one\ntwo", ["one\ntwo"]),
        ("- a\n\n- b\n", ["- a\n\n- b\n"]),
        ("```\na\n\nb", ["```\na\n\nb"]),
        ("\npara\n\n```\na\n```\nlast", ["\npara\n\n", "```\na\n```\n", "last"]),
        ("", [""]),
    ],
)
def test_only_the_last_block_can_change(source: str, expected: list[str]) -> None:
    assert blocks(source) == expected


@pytest.mark.parametrize(
    ("line", "width", "parts"),
    [
        ("我是 nano，一个演示模型。", 10, ["我是 ", "nano，一个", "演示模型。"]),
        ("天气很好，我们走吧", 10, ["天气很好，", "我们走吧"]),
        ("天气很好啊，走吧", 10, ["天气很好", "啊，走吧"]),
        ("他说（你好）", 6, ["他说", "（你", "好）"]),
        ("the quick brown fox", 10, ["the quick ", "brown fox"]),
        ("abcdefghijkl", 5, ["abcde", "fghij", "kl"]),
        ("short", 10, ["short"]),
        ("", 10, [""]),
    ],
)
def test_lines_break_where_chinese_and_english_may(line: str, width: int, parts: list[str]) -> None:
    cuts = [0, *line_breaks(line, width), len(line)]
    assert [line[a:b] for a, b in pairwise(cuts)] == parts


def test_a_model_cannot_steer_the_terminal() -> None:
    assert streamed(["a\x1b[2Jb\x07\x9b2Jc\r\n", "d\x1b", "]0;title\x07"]) == "a[2Jb2Jc\nd]0;title"


def test_an_unchanged_region_writes_nothing() -> None:
    terminal = console()
    stream = MarkdownStream(terminal)
    stream.feed("hello")
    written = terminal.file.getvalue()  # type: ignore[attr-defined]
    stream._next_draw = 0.0
    stream.feed("")
    assert terminal.file.getvalue() == written  # type: ignore[attr-defined]


def test_a_second_answer_begins_at_the_margin() -> None:
    terminal = console()
    stream = MarkdownStream(terminal)
    for answer in ("one\n\ntwo", "three"):
        stream.feed(answer)
        stream.finish()
    screen = Screen(60, 24)
    screen.write(terminal.file.getvalue())  # type: ignore[attr-defined]
    assert screen.text == "one\n\ntwo\nthree\n"
