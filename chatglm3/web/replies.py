"""Replies of a model behind OpenAI's API, as the loop of `chatglm3.chat` takes them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatglm3.chat.replies import ReplyEnd, ReplyEvent
from chatglm3.engine import FinishReason
from chatglm3.errors import InvalidMessageError, PromptTooLongError, ServerError
from chatglm3.prompt import (
    INTERPRETER,
    CallBegin,
    CallDelta,
    CallEnd,
    Message,
    Reply,
    TextDelta,
    ToolCall,
    check_conversation,
)
from chatglm3.prompt.calls import CallSyntaxError, read_call
from chatglm3.prompt.fence import fenced_code
from chatglm3.web.api import Api, ChatStream


class RemoteReplies:
    """Asks a server for one reply at a time, always with the same tools and sampling.

    definitions: what the model may call; with the interpreter's among them, it may write programs.
    sampling: fields of the request, such as temperature and max_tokens.

    A conversation that is too long for the context loses its oldest turns. `stop` may be called from any
    thread.
    """

    def __init__(
        self, api: Api, definitions: Sequence[Mapping[str, Any]], sampling: Mapping[str, Any]
    ) -> None:
        self._api = api
        self._body = {**sampling, "stream_options": {"include_usage": True}}
        if definitions:
            self._body["tools"] = [{"type": "function", "function": dict(item)} for item in definitions]
        self._stream: ChatStream | None = None
        self.is_stopped = False
        self.tokens = 0
        """Of the context, after the last reply."""

    def prepare(self, messages: list[Message]) -> tuple[ChatStream, int]:
        """Ask, and wait for the answer to begin; with the number of messages left out.

        Raises InvalidMessageError, PromptTooLongError, ServerError, or StoppedError.
        """
        check_conversation(messages)
        kept = messages
        while True:
            stream = self._stream = self._api.stream({**self._body, "messages": openai_messages(kept)})
            if self.is_stopped:
                stream.stop()
            try:
                stream.wait()
            except PromptTooLongError:
                shorter = _without_oldest_turn(kept)
                if shorter is None:
                    raise
                kept = shorter
            else:
                return stream, len(messages) - len(kept)

    def reply(self, prompt: tuple[ChatStream, int]) -> Generator[ReplyEvent]:
        """The reply, `ReplyEnd` last. Closing the iterator closes the connection."""
        stream, dropped = prompt
        draft = _Draft()
        with contextlib.closing(stream):
            for chunk in stream:
                yield from draft.add(chunk)
        yield from draft.finish()
        self.tokens = draft.prompt_tokens + draft.tokens
        yield draft.end(dropped)

    def shorten(self, observation: str, messages: list[Message], others: int) -> str:
        """An observation as it is: the toolbox has cut it, and only the server knows its tokens."""
        return observation

    def stop(self) -> None:
        """End what is under way, and whatever would come after it."""
        self.is_stopped = True
        if self._stream is not None:
            self._stream.stop()


def openai_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A conversation in OpenAI's form; a call that cannot be read is text, as the server gave it."""
    items: list[dict[str, Any]] = []
    waiting: str | None = None  # the id of a call whose result comes next
    for number, message in enumerate(messages):
        match message.role:
            case "assistant" if message.metadata and _is_observed(messages, number):
                waiting = f"call_{number}"
                items.append(_call_message(message, waiting))
            case "observation" if waiting is not None:
                items.append({"role": "tool", "tool_call_id": waiting, "content": message.content})
                waiting = None
            case "observation":
                raise InvalidMessageError(f"message {number} is an observation of no call")
            case role:
                text = f"{message.metadata}\n{message.content}" if message.metadata else message.content
                items.append({"role": role, "content": text})
    return items


def _is_observed(messages: Sequence[Message], number: int) -> bool:
    return number + 1 < len(messages) and messages[number + 1].role == "observation"


def _call_message(message: Message, call_id: str) -> dict[str, Any]:
    if message.metadata == INTERPRETER:
        arguments: dict[str, Any] = {"code": fenced_code(message.content)}
    else:
        try:
            arguments = read_call(message.metadata, message.content).arguments
        except CallSyntaxError:
            arguments = {}
    function = {"name": message.metadata, "arguments": json.dumps(arguments, ensure_ascii=False)}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _without_oldest_turn(messages: list[Message]) -> list[Message] | None:
    """A conversation less its oldest question and the answer to it; None if only one is left."""
    turns = [i for i, message in enumerate(messages) if message.role == "user"]
    if len(turns) < 2:
        return None
    return [*messages[: turns[0]], *messages[turns[1] :]]


@dataclass
class _OpenCall:
    """A call while it comes in."""

    index: int
    name: str
    arguments: str = ""

    @property
    def call(self) -> ToolCall:
        """The call. Raises ServerError for arguments that are no JSON object."""
        try:
            arguments = json.loads(self.arguments or "{}")
            return ToolCall(self.name, {**arguments})
        except (ValueError, TypeError):
            text = f"the arguments of a call of {self.name!r} are no JSON: {self.arguments!r:.200}"
            raise ServerError(text) from None


@dataclass
class _Draft:
    """A reply, put together from chunks."""

    messages: list[Message] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    text: str = ""  # since the last call
    open: _OpenCall | None = None
    reason: FinishReason = "stop"
    prompt_tokens: int = 0
    tokens: int = 0
    first_token_at: float = 0.0

    def add(self, chunk: Mapping[str, Any]) -> Iterator[ReplyEvent]:
        """The events of one chunk. Raises ServerError for what is none."""
        try:
            if usage := chunk.get("usage"):
                self.prompt_tokens, self.tokens = usage["prompt_tokens"], usage["completion_tokens"]
            for choice in chunk.get("choices", ()):
                delta = choice.get("delta") or {}
                if text := delta.get("content"):
                    yield from self._say(text)
                for part in delta.get("tool_calls") or ():
                    yield from self._call(part)
                if choice.get("finish_reason") == "length":
                    self.reason = "length"
        except (KeyError, TypeError, AttributeError):
            raise ServerError(f"the server sent what is no chunk of an answer: {chunk!r:.200}") from None

    def finish(self) -> Iterator[ReplyEvent]:
        """What the end of the reply ends."""
        yield from self._end_call()
        self._end_text()

    def end(self, dropped: int) -> ReplyEnd:
        """The whole of it."""
        now = time.perf_counter()
        code = "\n".join(self.code) if self.code else None
        content = "".join(self.said)
        raw = [f"{message.metadata}\n{message.content}" for message in self.messages]
        reply = Reply(self.messages, raw, content, self.calls, code, [])
        first = self.first_token_at or now
        return ReplyEnd(reply, self.reason, self.tokens, first, now, self.prompt_tokens, dropped)

    def _say(self, text: str) -> Iterator[ReplyEvent]:
        yield from self._end_call()
        self.first_token_at = self.first_token_at or time.perf_counter()
        self.text += text
        self.said.append(text)
        yield TextDelta(text)

    def _call(self, part: Mapping[str, Any]) -> Iterator[ReplyEvent]:
        """A piece of a call; one with a name begins it."""
        self.first_token_at = self.first_token_at or time.perf_counter()
        function = part.get("function") or {}
        if name := function.get("name"):
            yield from self._end_call()
            self._end_text()
            self.open = _OpenCall(len(self.calls) + len(self.code), name)
            yield CallBegin(self.open.index, name, is_code=name == INTERPRETER)
        if self.open is not None and (arguments := function.get("arguments")):
            self.open.arguments += arguments
            if self.open.name != INTERPRETER:
                yield CallDelta(self.open.index, arguments)

    def _end_call(self) -> Iterator[ReplyEvent]:
        if self.open is None:
            return
        call, index = self.open.call, self.open.index
        self.open = None
        self.messages.append(Message.call(call))
        code = call.arguments.get("code") if call.name == INTERPRETER else None
        if isinstance(code, str):
            self.code.append(code)
            yield CallDelta(index, code)
            yield CallEnd(index, code=code)
        else:
            self.calls.append(call)
            yield CallEnd(index, call=call)

    def _end_text(self) -> None:
        if self.text.strip():
            self.messages.append(Message("assistant", self.text.strip()))
        self.text = ""
