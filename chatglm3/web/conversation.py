"""A conversation of the page: its messages, what belongs to them, and how it is kept in files."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from chatglm3.errors import InvalidMessageError
from chatglm3.prompt import INTERPRETER, Message, conversation
from chatglm3.prompt.calls import CallSyntaxError, read_call
from chatglm3.prompt.fence import fenced_code
from chatglm3.tools import Image

Mode = Literal["chat", "tool", "code"]
MODES: tuple[Mode, ...] = get_args(Mode)
Status = Literal["writing", "running", "done", "error", "waiting"]

_UPLOAD = re.compile(r"#File: (?P<path>[^\n]+)\n#Size: (?P<size>\d+)\n#File uploaded\n")
_TITLE_CHARS = 40


@dataclass
class Step:
    """What is drawn as one thing: a message of the user, a text of the model, a call with its result."""

    kind: Literal["user", "text", "call"]
    text: str = ""
    """What was said; of a call, the program or the arguments as JSON."""
    files: list[str] = field(default_factory=list)
    """Of a user's message: the names of uploaded files."""
    name: str = ""
    """Of a call: the tool."""
    status: Status = "done"
    """Of a call; "waiting": the person gives the result."""
    result: str = ""
    images: list[Image] = field(default_factory=list)
    seconds: float | None = None
    message: int | None = None
    """The number of its message in `Conversation.messages`; None while it is being written."""

    @property
    def is_code(self) -> bool:
        """Whether it is a program."""
        return self.name == INTERPRETER


@dataclass
class Detail:
    """What a person sees of a tool's result, and the model does not."""

    images: list[Image] = field(default_factory=list)
    seconds: float = 0.0
    is_error: bool = False


@dataclass
class Conversation:
    """A conversation. `messages` has no system message: mode and settings say what the model is told."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    title: str = ""
    """The beginning of its first question; empty until there is one."""
    mode: Mode = "chat"
    messages: list[Message] = field(default_factory=list)
    details: dict[int, Detail] = field(default_factory=dict)
    """Of observations, by the number of the message."""
    tokens: int = 0
    """Of the context, after the last answer."""
    changed: float = field(default_factory=time.time)
    """Seconds since 1970."""

    @property
    def steps(self) -> list[Step]:
        """What there is to draw."""
        steps: list[Step] = []
        for number, message in enumerate(self.messages):
            if message.role == "observation" and steps and steps[-1].kind == "call":
                detail = self.details.get(number, Detail())
                call = steps[-1]
                call.result, call.images, call.seconds = message.content, detail.images, detail.seconds
                call.status = "error" if detail.is_error else "done"
            elif message.role == "user":
                files = [found["path"].rpartition("/")[2] for found in _UPLOAD.finditer(message.content)]
                steps.append(Step("user", _UPLOAD.sub("", message.content), files, message=number))
            elif message.metadata:
                source = written_call(message)
                steps.append(Step("call", source, name=message.metadata, status="waiting", message=number))
            else:
                steps.append(Step("text", message.content, message=number))
        return steps

    @property
    def waiting(self) -> list[int]:
        """The messages of calls at the end that have no result: the person is to give them."""
        waiting: list[int] = []
        for number in range(len(self.messages) - 1, -1, -1):
            if not self.messages[number].metadata:
                break
            waiting.insert(0, number)
        return waiting

    def observe(self, results: Sequence[str]) -> None:
        """Give the results of the calls that wait, in their order; each comes right after its call."""
        calls = [self.messages[number] for number in self.waiting]
        if len(calls) != len(results):
            raise InvalidMessageError(f"{len(calls)} calls wait for a result, and {len(results)} are given")
        del self.messages[len(self.messages) - len(calls) :]
        for call, result in zip(calls, results):
            self.messages += [call, Message("observation", result)]

    def rewind(self, message: int) -> str:
        """Take back the question before or at `message` and all that follows; returns the question.

        What announced uploaded files is part of it.
        """
        for number in range(min(message, len(self.messages) - 1), -1, -1):
            if self.messages[number].role == "user":
                question = self.messages[number].content
                self._cut(number)
                return question
        raise InvalidMessageError(f"there is no question at or before message {message}")

    def drop_answer(self) -> None:
        """Take back what follows the last question, so that it can be answered anew."""
        question = self.rewind(len(self.messages) - 1)
        self.messages.append(Message("user", question))

    def set_messages(self, messages: Sequence[Message]) -> None:
        """Go on with an answered conversation; a system message is left out."""
        self.messages = [message for message in messages if message.role != "system"]
        self.changed = time.time()
        if not self.title:
            question = next((step.text.strip() for step in self.steps if step.kind == "user"), "")
            self.title = cut_title(question)

    def _cut(self, start: int) -> None:
        del self.messages[start:]
        self.details = {number: detail for number, detail in self.details.items() if number < start}

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `messages` is a transcript, which `chatglm3 chat` can load as well."""
        return {
            "id": self.id,
            "title": self.title,
            "mode": self.mode,
            "messages": [message.to_dict() for message in self.messages],
            "details": {str(number): _detail_dict(detail) for number, detail in self.details.items()},
            "tokens": self.tokens,
            "changed": self.changed,
        }

    @classmethod
    def from_dict(cls, item: Mapping[str, Any]) -> Conversation:
        """The inverse of to_dict; fields that are missing have their defaults. Raises InvalidMessageError."""
        try:
            mode = item.get("mode", "chat")
            if mode not in MODES:
                raise InvalidMessageError(f"the mode is {mode!r}; it can be {', '.join(MODES)}")
            details = {int(key): _detail(value) for key, value in dict(item.get("details", {})).items()}
            made = cls(
                id=str(item.get("id") or uuid.uuid4().hex),
                title=str(item.get("title", "")),
                mode=mode,
                details=details,
                tokens=int(item.get("tokens", 0)),
            )
            given = conversation(item["messages"])
            if any(message.role == "system" for message in given):
                given = [message for message in given if message.role != "system"]
                made.details = {}  # they count messages as they were
            made.set_messages(given)
            made.changed = float(item.get("changed", made.changed))
            return made
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            if isinstance(error, InvalidMessageError):
                raise
            raise InvalidMessageError(f"this is no conversation: {type(error).__name__}: {error}") from None


def written_call(message: Message) -> str:
    """A call for people: the program, or the arguments as JSON."""
    if message.metadata == INTERPRETER:
        return fenced_code(message.content)
    try:
        arguments = read_call(message.metadata, message.content).arguments
    except CallSyntaxError:
        return message.content
    return json.dumps(arguments, ensure_ascii=False, indent=2)


def split_announcements(question: str) -> tuple[str, str]:
    """What announces uploaded files at the beginning of a question, and what was written."""
    end = 0
    while found := _UPLOAD.match(question, end):
        end = found.end()
    return question[:end], question[end:]


def cut_title(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _TITLE_CHARS else line[: _TITLE_CHARS - 1] + "…"


def _detail_dict(detail: Detail) -> dict[str, Any]:
    images = [
        {"mime_type": image.mime_type, "data": base64.b64encode(image.data).decode()}
        for image in detail.images
    ]
    return {"seconds": detail.seconds, "is_error": detail.is_error, "images": images}


def _detail(item: Mapping[str, Any]) -> Detail:
    images = [
        Image(base64.b64decode(image["data"], validate=True), str(image["mime_type"]))
        for image in item.get("images", ())
    ]
    return Detail(images, float(item.get("seconds", 0.0)), bool(item.get("is_error", False)))
