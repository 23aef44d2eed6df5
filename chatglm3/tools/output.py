"""What a tool gave back: any Python value as text for the model, and images for the reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from chatglm3.prompt import ToolCall

_MOST_ITEMS = 10_000  # of an iterator, which need not end


@dataclass(frozen=True)
class Image:
    """A picture that a tool made; the reader sees it, the model does not."""

    data: bytes = field(repr=False)
    mime_type: str = "image/png"


@dataclass(frozen=True)
class ToolOutput:
    """What a tool returns when text is not all of it."""

    content: str
    """For the model."""
    images: tuple[Image, ...] = ()
    """For the reader."""
    is_error: bool = False


@dataclass(frozen=True)
class ToolResult:
    """A call has been answered: `content` is the observation that the model reads."""

    index: int
    """Which call of the answer this is, as in CallBegin."""
    name: str
    call: ToolCall | None
    """None if the call could not be read."""
    content: str
    seconds: float = 0.0
    is_error: bool = False
    images: tuple[Image, ...] = ()


def to_output(value: Any) -> ToolOutput:
    """The value of a tool as text: a str as it is, everything else as JSON, where that is possible.

    Dataclasses, pydantic models, dates, sets and numpy arrays are written as what they hold. Raises
    ValueError for what holds itself.
    """
    if isinstance(value, ToolOutput):
        return value
    if isinstance(value, Image):
        return ToolOutput("an image, which the user can see", (value,))
    if isinstance(value, str):
        return ToolOutput(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return ToolOutput(f"{len(bytes(value))} bytes of binary data")
    left_out = ""
    if isinstance(value, Iterator):
        iterator, value = value, list(islice(value, _MOST_ITEMS))
        if next(iterator, _NOTHING) is not _NOTHING:
            left_out = f"\n[the first {_MOST_ITEMS} items; there are more]"
    return ToolOutput(_to_json(value) + left_out)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, and a mark where something was left out; no halves of characters."""
    text = text.encode("utf-8", errors="replace").decode()
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[cut here: {limit} of {len(text)} characters are shown]"


_NOTHING = object()


def _to_json(value: Any) -> str:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        plain = to_jsonable_python(
            value, fallback=_plain, bytes_mode="base64", inf_nan_mode="constants", by_alias=True
        )
    except PydanticSerializationError as error:
        raise ValueError(f"the result cannot be written as JSON: {error}") from None
    return json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """What pydantic does not know: numpy's arrays and numbers, and as the last resort the repr."""
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else repr(value)
