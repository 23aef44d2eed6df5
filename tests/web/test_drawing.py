"""What is drawn, without a browser: markup is text, formulas are formulas, and both languages say it all."""

from __future__ import annotations

import dataclasses
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm3.tools import Image

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'chatglm3[web]'")

from chatglm3.web.conversation import Step
from chatglm3.web.drawing import chat_messages, markdown
from chatglm3.web.texts import EN, LANGUAGES, ZH


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("a < b and <b>bold</b>", "a &lt; b and &lt;b>bold&lt;/b>"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("`<b>` and ``a ` <b>``", "`<b>` and ``a ` <b>``"),
        ("```html\n<b>\n```\n<i>", "```html\n<b>\n```\n&lt;i>"),
        ("~~~\n<b>\n~~~", "~~~\n<b>\n~~~"),
        ("```python\nx < y", "```python\nx < y"),
        ("$x < y$ and $5 or $6", r"\(x \lt  y\) and $5 or $6"),
        ("$$a > b$$", r"$$a \gt  b$$"),
        (r"\(a<b\) \[c>d\]", r"\(a\lt b\) \[c\gt d\]"),
        ("costs $5, that is $6", "costs $5, that is $6"),
        ("> quoted", "> quoted"),
    ],
)
def test_markup_is_text_and_formulas_are_formulas(text: str, drawn: str) -> None:
    assert markdown(text) == drawn


@given(st.text("<>`~$\\&b/ \n", max_size=40))
def test_no_tag_is_left_outside_of_code(text: str) -> None:
    drawn = markdown(text)
    if "`" not in text and "~~~" not in text:
        assert "<" not in drawn


def test_steps_are_messages_with_the_number_of_their_step(tmp_path: Path) -> None:
    png = Image(b"\x89PNG")
    steps = [
        Step("user", "Plot <it>", files=["a.csv"]),
        Step(
            "call", "print(1)", name="interpreter", status="done", result="1", images=[png, png], seconds=0.5
        ),
        Step("call", "{}", name="f", status="running"),
        Step("call", "{}", name="g", status="error", result="```"),
        Step("text", "Done."),
    ]
    messages, numbers = chat_messages(steps, EN, tmp_path)
    assert numbers == [0, 1, 1, 1, 2, 3, 4]
    assert messages[0]["content"] == "`a.csv`\n\nPlot &lt;it>"
    assert messages[1]["metadata"] == {"title": "Ran Python", "duration": 0.5, "status": "done"}
    assert Path(messages[2]["content"]["path"]).read_bytes() == png.data
    assert messages[4]["metadata"] == {"title": "Called f", "log": "running …", "status": "pending"}
    assert messages[5]["metadata"]["log"] == "error"
    assert "````text\n```\n````" in messages[5]["content"]


def test_pictures_that_a_browser_would_run_are_left_out(tmp_path: Path) -> None:
    step = Step("call", "{}", name="f", images=[Image(b"<svg onload=alert(1)>", "image/svg+xml")])
    assert len(chat_messages([step], EN, tmp_path)[0]) == 1
    assert list(tmp_path.iterdir()) == []


def test_both_languages_say_the_same() -> None:
    assert LANGUAGES == {"en": EN, "zh": ZH}
    for field in dataclasses.fields(EN):
        for here, there in zip(
            _leaves(getattr(EN, field.name)), _leaves(getattr(ZH, field.name)), strict=True
        ):
            assert here.strip(), field.name
            names = [
                {part[1] for part in string.Formatter().parse(text) if part[1]} for text in (here, there)
            ]
            assert names[0] == names[1], field.name
    said = "".join(_leaves(dataclasses.asdict(ZH)))
    assert len(re.findall("[\u4e00-\u9fff]", said)) > 300


def test_bold_text_ends() -> None:
    """CommonMark ends it after punctuation only before a space or more punctuation."""
    for texts in LANGUAGES.values():
        for text in _leaves(dataclasses.asdict(texts)):
            for inner, after in re.findall(r"\*\*(.+?)\*\*(.?)", text):
                assert inner[-1] not in "：:。.!！?？" or after in ("", " "), text


def _leaves(value: object) -> list[str]:
    return (
        [text for item in value.values() for text in _leaves(item)]
        if isinstance(value, dict)
        else [str(value)]
    )
