"""A conversation in a file: a JSON list of messages in ChatGLM3's form, calls and observations included."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from chatglm3.errors import InvalidMessageError
from chatglm3.prompt import Message, conversation


def save_transcript(path: str | Path, messages: Sequence[Message]) -> None:
    """Write a conversation, for instance `Done.history`; an existing file is replaced when all is written."""
    path = Path(path)
    text = json.dumps([message.to_dict() for message in messages], ensure_ascii=False, indent=2)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def load_transcript(path: str | Path) -> list[Message]:
    """The conversation in a file; rendered, it is the same ids as the saved one.

    Messages in OpenAI's form are read as well. Raises InvalidMessageError, and OSError for the file.
    """
    try:
        items = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidMessageError(f"{path} is not JSON ({error})") from None
    if isinstance(items, dict):  # what the web page exports: a transcript and more
        items = items.get("messages")
    if not isinstance(items, list):
        raise InvalidMessageError(f"{path} must hold a list of messages, not {type(items).__name__}")
    try:
        return conversation(items)
    except InvalidMessageError as error:
        raise InvalidMessageError(f"{path}: {error}") from None
