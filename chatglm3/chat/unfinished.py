"""What an answer has come to when it is stopped."""

from __future__ import annotations

import itertools

from chatglm3.chat.events import Event
from chatglm3.prompt import INTERPRETER, CallEnd, Message, TextDelta, ToolCall
from chatglm3.tools import ToolResult


class Unfinished:
    """What an answer has come to when it is stopped: `add` every event, and take `messages`."""

    def __init__(self) -> None:
        self._said: list[str | int] = []  # text, and the index of a call
        self._calls: dict[int, Message] = {}
        self._results: dict[int, str] = {}

    def add(self, event: Event) -> None:
        """Note an event."""
        match event:
            case TextDelta():
                self._said.append(event.text)
            case CallEnd(call=ToolCall() as call):
                self._call(event.index, call)
            case CallEnd(code=str() as code):
                self._call(event.index, ToolCall(INTERPRETER, {"code": code}))
            case ToolResult():
                self._results[event.index] = event.content

    @property
    def messages(self) -> list[Message]:
        """The answer so far, each call with an observation; empty if nothing was said."""
        messages: list[Message] = []
        for text, parts in itertools.groupby(self._said, key=lambda part: isinstance(part, str)):
            if text:
                messages.append(Message("assistant", "".join(str(part) for part in parts)))
                continue
            for index in parts:
                result = self._results.get(int(index), "Error: the user stopped this call")
                messages += [self._calls[int(index)], Message("observation", result)]
        return messages

    def _call(self, index: int, call: ToolCall) -> None:
        self._said.append(index)
        self._calls[index] = Message.call(call)
