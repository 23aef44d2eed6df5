"""Replies as the published `chat` returns them: `(response, history)`, read by this package's one parser.

A response is a text; `{"name", "parameters"}` for a tool call where the history offers tools; and
`{"name", "content"}` for code, or for a call where it offers none. A call that cannot be read is text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatglm3.prompt.message import INTERPRETER
from chatglm3.prompt.reply import (
    CallBegin,
    ReplyParser,
    TextDelta,
    published_answer,
    published_history,
)
from chatglm3.tokenizer import StreamingDetokenizer, Tokenizer

Response = str | dict[str, Any]
Turn = Mapping[str, Any]
"""One message of a history: role, content, and perhaps metadata or tools."""
History = list[dict[str, Any]]


def extended(history: Sequence[Turn] | None, *turns: Turn) -> History:
    """A history of its own: what was, and what is added. The caller's is never touched."""
    return [dict(turn) for turn in (*(history or ()), *turns)]


def read_text(output: str, history: Sequence[Turn]) -> tuple[Response, History]:
    """A reply from its text, where `<|assistant|>` stands spelled out between its messages."""
    names = _offered(history)
    read = [_read(raw, names) for raw in output.split("<|assistant|>")]
    return read[-1][0], extended(history, *(turn for _, turn in read))


class ReplyReader:
    """Reads one reply token by token, and tells at any time what it says so far.

    history: the turns up to and including the one that is answered.
    """

    def __init__(self, tokenizer: Tokenizer, history: Sequence[Turn]) -> None:
        self._tokenizer = tokenizer
        self._history = history
        self._names = _offered(history)
        self._turns: list[Turn] = []  # finished messages of this reply
        self._detokenizer = StreamingDetokenizer(tokenizer)
        self._begin_message()

    def add(self, id: int) -> bool:
        """Take one token, no stop id; tells whether it added text."""
        if id == self._tokenizer.assistant_id:
            self._feed(self._detokenizer.finish())
            self._detokenizer.add(id)  # it spells the token, which is no text of the reply
            self._turns.append(_read(self._raw, self._names)[1])
            self._begin_message()
            return True
        return self._feed(self._detokenizer.add(id))

    def so_far(self) -> tuple[Response, History] | None:
        """The unfinished reply; None while it may be, or is, a tool call that cannot be read yet."""
        first, newline, rest = self._raw.partition("\n")
        head = self._raw.strip()
        if self._is_code or (self._is_call and self._names is None):
            turn = _turn(first, rest)
            return {"name": first.strip(), "content": rest}, self._with(turn)
        undecided = bool(head) and not self._is_text
        if self._is_call or (undecided and (self._names is not None or INTERPRETER.startswith(head))):
            return None
        metadata = first if newline and not first.strip() else ""
        return published_answer(head), self._with(_turn(metadata, head))

    def finish(self, stop_id: int | None) -> tuple[Response, History]:
        """The whole reply; stop_id: the token that ended it, if one did."""
        self._feed(self._detokenizer.finish())
        waits = stop_id == self._tokenizer.observation_id
        response, turn = _read(self._raw, self._names, waits_for_observation=waits)
        return response, self._with(turn)

    def _begin_message(self) -> None:
        self._raw = ""
        self._parser = ReplyParser(self._names or ())
        self._is_text = self._is_call = self._is_code = False

    def _feed(self, text: str) -> bool:
        self._raw += text
        for event in self._parser.feed(text) if text else ():
            if isinstance(event, TextDelta):
                self._is_text = True
            elif isinstance(event, CallBegin):
                self._is_call, self._is_code = True, event.is_code
        return bool(text)

    def _with(self, turn: Turn) -> History:
        return extended(self._history, *self._turns, turn)


def _read(raw: str, names: list[str] | None, *, waits_for_observation: bool = False) -> tuple[Response, Turn]:
    """One whole message of a reply, and the turn that it becomes."""
    parser = ReplyParser(names or ())
    parser.feed(raw)
    _, reply = parser.finish()
    (message,), (turn,) = reply.messages, published_history(reply)
    if message.metadata and (names is None or reply.code is not None):
        return {"name": message.metadata, "content": turn["content"]}, turn
    if reply.tool_calls:
        call = reply.tool_calls[0]
        return {"name": call.name, "parameters": call.arguments}, turn
    first, newline, rest = raw.partition("\n")
    if waits_for_observation and names is None and newline and first.strip():
        # No call that the parser would believe, but the model itself has asked for its result.
        return {"name": first.strip(), "content": rest}, _turn(first, rest)
    return published_answer(reply.content), turn


def _turn(metadata: str, content: str) -> Turn:
    return {"role": "assistant", "metadata": metadata, "content": content}


def _offered(history: Sequence[Turn]) -> list[str] | None:
    """Names of the tools that a history offers in its first message; None where it offers none."""
    if not history or history[0].get("role") != "system" or "tools" not in history[0]:
        return None
    tools = history[0]["tools"]
    definitions = [tool for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    return [tool["name"] for tool in definitions if isinstance(tool.get("name"), str)]
