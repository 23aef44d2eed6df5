"""Conversations as files: JSON, and Markdown that can be read anywhere and read back here."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from chatglm3.errors import InvalidMessageError
from chatglm3.web.conversation import Conversation, Step

_COMMENT = re.compile(r"<!-- chatglm3 conversation\n(?P<json>.*)\n-->\s*\Z", re.DOTALL)


def to_json(conversation: Conversation) -> str:
    """All of a conversation; its `messages` are a transcript, which `chatglm3 chat` loads too."""
    return json.dumps(conversation.to_dict(), ensure_ascii=False, indent=2) + "\n"


def to_markdown(conversation: Conversation) -> str:
    """A conversation to read, with its pictures; a comment at the end holds it as JSON."""
    parts = [f"# {conversation.title or 'ChatGLM3'}", *map(_markdown, conversation.steps)]
    data = json.dumps(conversation.to_dict())
    data = data.replace("<", r"\u003c").replace(">", r"\u003e")  # nothing in it can end the comment
    return "\n\n".join([*parts, f"<!-- chatglm3 conversation\n{data}\n-->"]) + "\n"


def read(text: str) -> Conversation:
    """A conversation from what `to_json` or `to_markdown` wrote, or from a transcript.

    Its id is new, so that it stands beside the one that was exported. Raises InvalidMessageError.
    """
    comment = _COMMENT.search(text)
    try:
        item = json.loads(comment["json"] if comment else text)
    except ValueError as error:
        raise InvalidMessageError(
            f"the file is neither JSON nor Markdown that this page has written ({error})"
        ) from None
    if isinstance(item, list):
        item = {"messages": item}
    if not isinstance(item, dict):
        raise InvalidMessageError("the file must hold a conversation: a list of messages, or an object")
    return Conversation.from_dict({**item, "id": None})


def read_file(path: str | Path) -> Conversation:
    """The conversation in a file. Raises InvalidMessageError, and OSError."""
    try:
        return read(Path(path).read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidMessageError(f"{Path(path).name} is not text in UTF-8") from None


def _markdown(step: Step) -> str:
    match step.kind:
        case "user":
            files = "".join(f"\n\n(file: {name})" for name in step.files)
            return f"**User**{files}\n\n{step.text}"
        case "text":
            return f"**ChatGLM3**\n\n{step.text}"
        case "call":
            language = "python" if step.is_code else "json"
            images = "".join(
                f"\n\n![picture](data:{image.mime_type};base64,{base64.b64encode(image.data).decode()})"
                for image in step.images
            )
            result = f"\n\n{fenced(step.result)}" if step.result else ""
            return f"**{step.name}**\n\n{fenced(step.text, language)}{result}{images}"


def fenced(text: str, language: str = "text") -> str:
    """A text in a Markdown fence that is longer than any in it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", text))])
    return f"{fence}{language}\n{text}\n{fence}"
