"""Steps as elements of a Streamlit page."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import streamlit as st

from chatglm3.web.conversation import Step
from chatglm3.web.markup import FENCE, MATH, SPAN
from chatglm3.web.texts import Texts

_PARTS = re.compile(
    rf"(?P<fence>{FENCE})|(?P<span>{SPAN})|{MATH}"
    r"|(?P<address>https?://[\w./:?&=#%~+-]+)"
    r"|(?P<special><|(?<!\\)\$|!(?=\[)|:(?=[\w-]+\[))",
    re.M | re.S,
)
_PICTURES = {"image/png", "image/jpeg", "image/gif", "image/webp"}  # and nothing that a browser might run


def markdown(text: str) -> str:
    r"""Markdown as everybody means it, in Streamlit's dialect.

    Formulas in `\(...\)` and `\[...\]` get dollars. These become text: HTML; lone dollars and `:red[...]`,
    which only Streamlit takes for more; and pictures, which the reader's browser would fetch from anywhere.
    """

    def change(match: re.Match[str]) -> str:
        if match["fence"] or match["span"] or match["address"]:
            return match[0]
        if match["special"]:
            return f"\\{match[0]}"
        if block := match["dollars"] or match["brackets"]:
            return f"\n$$\n{block.strip()}\n$$\n"
        return f"${(match['parens'] or match['inline']).strip()}$"

    return _PARTS.sub(change, text)


def plain(text: str) -> str:
    """Markdown that reads as `text`: labels are Markdown too."""
    return re.sub(r"[!-/:-@\[-`{-~]", r"\\\g<0>", text)  # ASCII's punctuation


def draw_steps(steps: Sequence[Step], texts: Texts) -> None:
    """A conversation, or a part of it."""
    for is_user, group in itertools.groupby(steps, lambda step: step.kind == "user"):
        with st.chat_message("user" if is_user else "assistant"):
            for step in group:
                _draw(step, texts)


def _draw(step: Step, texts: Texts) -> None:
    if step.kind == "call":
        _draw_call(step, texts)
        return
    for name in step.files:
        st.caption(f":material/attach_file: {plain(name)}")
    st.markdown(markdown(step.text))


def _draw_call(step: Step, texts: Texts) -> None:
    """A call folded, unless something is still to happen to it; its pictures are always to be seen."""
    title = texts.ran if step.is_code else texts.called.format(name=plain(step.name))
    if step.seconds is not None:
        title += f" · {step.seconds:.1f} s"
    if step.status == "error":
        title += f" · {texts.failed}"
    state = {"done": "complete", "error": "error"}.get(step.status, "running")
    with st.status(title, state=state, expanded=state == "running"):  # type: ignore[arg-type]
        st.code(step.text, "python" if step.is_code else "json")
        if step.result:
            st.caption(texts.output if step.is_code else texts.result)
            st.code(step.result, None, wrap_lines=True)
    for image in step.images:
        if image.mime_type in _PICTURES:
            st.image(image.data)
