"""Steps as the messages of a Gradio chat."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chatglm3.tools import Image
from chatglm3.web.conversation import Step
from chatglm3.web.export import fenced
from chatglm3.web.markup import FENCE, MATH, SPAN
from chatglm3.web.texts import Texts

_FENCE, _SPAN, _MATH = (re.compile(pattern, re.M | re.S) for pattern in (FENCE, SPAN, MATH))
_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}


def markdown(text: str) -> str:
    """Markdown in which HTML is text, and formulas have the delimiters that the page knows."""
    return _outside(
        _FENCE, text, lambda part: _outside(_SPAN, part, lambda p: _outside(_MATH, p, _escape, _math))
    )


def _outside(
    pattern: re.Pattern[str],
    text: str,
    change: Callable[[str], str],
    found: Callable[[re.Match[str]], str] = lambda match: match[0],
) -> str:
    """Change what lies between the matches, and perhaps these."""
    parts, end = [], 0
    for match in pattern.finditer(text):
        parts += [change(text[end : match.start()]), found(match)]
        end = match.end()
    return "".join([*parts, change(text[end:])])


def _escape(text: str) -> str:
    return re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")


def _math(match: re.Match[str]) -> str:
    formula = rf"\({match['inline']}\)" if match["inline"] else match[0]
    return formula.replace("<", r"\lt ").replace(">", r"\gt ")


def chat_messages(
    steps: Sequence[Step], texts: Texts, folder: Path
) -> tuple[list[dict[str, Any]], list[int]]:
    """The messages of a chat, and for each the number of its step. Pictures are put into `folder`."""
    messages: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, step in enumerate(steps):
        drawn = list(_drawn(step, texts, folder))
        messages += drawn
        numbers += [number] * len(drawn)
    return messages, numbers


def _drawn(step: Step, texts: Texts, folder: Path) -> list[dict[str, Any]]:
    match step.kind:
        case "user":
            files = "".join(f"`{name}`\n\n" for name in step.files)
            return [{"role": "user", "content": files + markdown(step.text)}]
        case "text":
            return [{"role": "assistant", "content": markdown(step.text)}]
    pictures = [
        {"role": "assistant", "content": {"path": str(path), "alt_text": texts.picture}}
        for image in step.images
        if (path := _kept(image, folder)) is not None
    ]
    return [
        {"role": "assistant", "content": _call(step, texts), "metadata": _metadata(step, texts)},
        *pictures,
    ]


def _call(step: Step, texts: Texts) -> str:
    source = fenced(step.text, "python" if step.is_code else "json")
    if not step.result:
        return source
    return f"{source}\n\n{texts.output if step.is_code else texts.result}\n\n{fenced(step.result)}"


def _metadata(step: Step, texts: Texts) -> dict[str, Any]:
    title = texts.ran if step.is_code else texts.called.format(name=step.name)
    metadata: dict[str, Any] = {"title": title}
    log = {"error": texts.failed, "writing": texts.writing, "running": texts.running}.get(step.status)
    if log:
        metadata["log"] = log
    if step.seconds is not None:
        metadata["duration"] = round(step.seconds, 2)
    if step.status in ("writing", "running"):
        metadata["status"] = "pending"
    elif step.status != "waiting":
        metadata["status"] = "done"
    return metadata


def _kept(image: Image, folder: Path) -> Path | None:
    """The picture in a file; None for a kind that a browser might run."""
    suffix = _SUFFIXES.get(image.mime_type)
    if suffix is None:
        return None
    path = folder / f"{hashlib.sha256(image.data).hexdigest()[:24]}{suffix}"
    if not path.exists():
        path.write_bytes(image.data)
    return path
