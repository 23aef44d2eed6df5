"""What the model wrote, back to text, tool calls and code, while it is still being written.

A reply is one or more messages, each a first line (the metadata) and a content:

    ⏎ It is 3 °C.                                                      an answer: the first line is empty
    get_weather⏎ ```python⏎tool_call(city='Oslo')⏎```                 a tool call
    interpreter⏎ ```python⏎print(1 + 1)⏎```                           code for the interpreter

`<|assistant|>`, as a token, begins the next message of the same reply: usually a call after a thought.
Nothing that a model writes is an error, and nothing of it is run: what is no call is text.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from chatglm3.prompt.calls import CallSyntaxError, ToolCall, read_call
from chatglm3.prompt.fence import FENCE, FencedCode
from chatglm3.prompt.message import INTERPRETER, Message
from chatglm3.tokenizer import StreamingDetokenizer, Tokenizer

# A first line that may name a tool which was not offered is believed if a call begins within _CALL_WINDOW.
_NAME = re.compile(r"[\w.-]{1,64}")
_CALL = re.compile(rf"\s*{FENCE}(?:python|py)?\s*tool_call\s*\(")
_CALL_WINDOW = 64


@dataclass(frozen=True)
class TextDelta:
    """More text for the reader."""

    text: str


@dataclass(frozen=True)
class CallBegin:
    """The model calls a tool, or the interpreter if `is_code`. index: 0 for the first call of the reply."""

    index: int
    name: str
    is_code: bool = False


@dataclass(frozen=True)
class CallDelta:
    """More of a call: the arguments just as the model writes them, or code without its fence."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    """A call is complete. Exactly one of `call`, `code` and `problem` is set.

    After a problem (why the call cannot be read) a TextDelta gives all that the model wrote as text.
    """

    index: int
    call: ToolCall | None = None
    code: str | None = None
    problem: str | None = None


Event = TextDelta | CallBegin | CallDelta | CallEnd


@dataclass(frozen=True)
class Reply:
    """A whole reply."""

    messages: list[Message]
    """What to append to the conversation; rendered, it is what the model wrote, less the space around it."""
    raw: list[str]
    """Each message exactly as it was written, first line included."""
    content: str
    """All text for the reader: the TextDeltas put together."""
    tool_calls: list[ToolCall]
    code: str | None
    """What the interpreter is to run."""
    problems: list[str]
    """Why a call could not be read; its text is in `content`."""


class ReplyParser:
    """Parses the text of one reply as it comes in, in pieces of any size.

    tool_names: the tools on offer. Their names are believed at once; any other name only if a fenced
        `tool_call(` follows, so that the caller can say that there is no such tool. None: the caller takes no
        calls, so everything is text but code for the interpreter.
    interpreter: whether `interpreter` on the first line means code.

    The events do not depend on how the text is cut, but for where the deltas are cut. Linear in the length of
    the text; never raises.
    """

    def __init__(self, tool_names: Collection[str] | None = (), interpreter: bool = True) -> None:
        self._takes_calls = tool_names is not None
        self._names = {name.strip() for name in tool_names or ()}
        self._interpreter = interpreter
        self._longest_line = 128 + max(map(len, self._names), default=0)
        self._draft = _Draft()
        self._begin_message()

    def feed(self, text: str) -> list[Event]:
        """Events that are certain now."""
        self._raw.append(text)
        if self._body is not None:
            return self._body.feed(text)
        self._head += text
        return self._decide(last=False)

    @property
    def held_space(self) -> str:
        """The space at the end of the text so far, which is part of it only if more text follows."""
        return "".join(self._body.space) if isinstance(self._body, _Text) and self._body.begun else ""

    def next_message(self) -> list[Event]:
        """End this message and begin another one, as the token `<|assistant|>` does."""
        events = [] if self._body else self._decide(last=True)
        assert self._body is not None
        raw = "".join(self._raw)
        events += self._body.finish(raw)
        self._draft.raw.append(raw)
        self._begin_message()
        return events

    def finish(self) -> tuple[list[Event], Reply]:
        """The last events, and the reply as a whole."""
        return self.next_message(), self._draft.reply()

    def _begin_message(self) -> None:
        self._raw: list[str] = []
        self._head = ""  # the first line and a little more, until it is clear what the message is
        self._body: _Body | None = None

    def _decide(self, *, last: bool) -> list[Event]:
        """Begin the body, if it is clear which it is."""
        self._body = self._choose_body(last)
        if self._body is None:
            return []
        is_text = isinstance(self._body, _Text)
        content = self._head if is_text else self._head.partition("\n")[2]
        return [*self._body.begin(), *self._body.feed(content)]

    def _choose_body(self, last: bool) -> _Body | None:
        """What the head begins; None as long as more text could still change it."""
        line, newline, content = self._head.partition("\n")
        name = line.strip()
        if len(line) > self._longest_line:
            return _Text(self._draft)
        if not newline:
            return None if self._may_become_name(name) and not last else _Text(self._draft)
        if name in self._names:
            return _Call(self._draft, name)
        if name == INTERPRETER and self._interpreter:
            return _Code(self._draft)
        if not self._takes_calls or not _NAME.fullmatch(name):
            return _Text(self._draft)
        content = content[:_CALL_WINDOW]
        if _CALL.match(content):
            return _Call(self._draft, name)
        may_become_call = len(content) < _CALL_WINDOW and FENCE.startswith(content.lstrip()[: len(FENCE)])
        return None if may_become_call and not last else _Text(self._draft)

    def _may_become_name(self, start: str) -> bool:
        return not start or bool(_NAME.fullmatch(start)) or any(n.startswith(start) for n in self._names)


class ReplyDecoder:
    """Parses the ids of one reply as they are generated: a detokenizer and a ReplyParser."""

    def __init__(
        self, tokenizer: Tokenizer, tool_names: Collection[str] | None = (), interpreter: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = StreamingDetokenizer(tokenizer)
        self._parser = ReplyParser(tool_names, interpreter)

    @property
    def held_space(self) -> str:
        """See ReplyParser."""
        return self._parser.held_space

    def add(self, id: int) -> list[Event]:
        """Events that are certain now. An id that stops generation adds nothing, wherever it stands."""
        if id in self._tokenizer.stop_ids:
            return []
        if id != self._tokenizer.assistant_id:
            return self._feed(self._detokenizer.add(id))
        events = self._feed(self._detokenizer.finish())
        self._detokenizer.add(id)  # it spells the token, which is no text of the reply
        return events + self._parser.next_message()

    def finish(self) -> tuple[list[Event], Reply]:
        """The last events, and the reply as a whole."""
        events = self._feed(self._detokenizer.finish())
        last_events, reply = self._parser.finish()
        return events + last_events, reply

    def _feed(self, text: str) -> list[Event]:
        return self._parser.feed(text) if text else []


def parse_reply(text: str, tool_names: Collection[str] = (), interpreter: bool = True) -> Reply:
    """A whole reply from its text, where `<|assistant|>` stands spelled out between messages.

    In text one cannot tell the token from its spelling: where there are ids, use ReplyDecoder.
    """
    parser = ReplyParser(tool_names, interpreter)
    first, *others = text.split("<|assistant|>")
    parser.feed(first)
    for other in others:
        parser.next_message()
        parser.feed(other)
    return parser.finish()[1]


def published_history(reply: Reply) -> list[dict[str, Any]]:
    """The assistant messages as the published chat() writes them into its history: calls unstripped."""
    history = []
    for raw, message in zip(reply.raw, reply.messages):
        metadata, newline, content = raw.partition("\n")
        if not message.metadata:
            metadata = metadata if newline and not metadata.strip() else ""
            content = message.content
        history.append({"role": "assistant", "metadata": metadata, "content": content})
    return history


def published_answer(content: str) -> str:
    """The text of an answer as the published chat() returns it: with the training date filled in."""
    return content.replace("[[训练时间]]", "2023年")


@dataclass
class _Draft:
    """The reply so far."""

    messages: list[Message] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    calls_begun: int = 0

    def next_index(self) -> int:
        self.calls_begun += 1
        return self.calls_begun - 1

    def say(self, text: str, *, begins: bool) -> TextDelta:
        """Text of one message stands on a line of its own."""
        if begins and self.said:
            text = "\n" + text
        self.said.append(text)
        return TextDelta(text)

    def reply(self) -> Reply:
        code = "\n".join(self.code) if self.code else None
        return Reply(self.messages, self.raw, "".join(self.said), self.calls, code, self.problems)


class _Text:
    """The body of an answer; the space around it is left out, so space waits for what comes after it."""

    def __init__(self, draft: _Draft) -> None:
        self._draft = draft
        self.begun = False
        self.space: list[str] = []

    def begin(self) -> list[Event]:
        return []

    def feed(self, text: str) -> list[Event]:
        if not self.begun:
            text = text.lstrip()
        word = text.rstrip()
        if not word:
            self.space.append(text)
            return []
        delta = self._draft.say("".join(self.space) + word, begins=not self.begun)
        self.begun = True
        self.space = [text[len(word) :]]
        return [delta]

    def finish(self, raw: str) -> list[Event]:
        self._draft.messages.append(Message("assistant", raw.strip()))
        return []


class _Call:
    """The body of a tool call, read when it is complete."""

    def __init__(self, draft: _Draft, name: str) -> None:
        self._draft = draft
        self._name = name
        self._index = draft.next_index()

    def begin(self) -> list[Event]:
        return [CallBegin(self._index, self._name)]

    def feed(self, text: str) -> list[Event]:
        return [CallDelta(self._index, text)] if text else []

    def finish(self, raw: str) -> list[Event]:
        content = raw.partition("\n")[2].strip()
        self._draft.messages.append(Message("assistant", content, metadata=self._name))
        try:
            call = read_call(self._name, content)
        except CallSyntaxError as error:
            problem = f"the call to {self._name} cannot be read: {error}"
            self._draft.problems.append(problem)
            return [CallEnd(self._index, problem=problem), self._draft.say(raw.strip(), begins=True)]
        self._draft.calls.append(call)
        return [CallEnd(self._index, call=call)]


class _Code:
    """The body of a message to the interpreter."""

    def __init__(self, draft: _Draft) -> None:
        self._draft = draft
        self._reader = FencedCode()
        self._code: list[str] = []
        self._index = draft.next_index()

    def begin(self) -> list[Event]:
        return [CallBegin(self._index, INTERPRETER, is_code=True)]

    def feed(self, text: str) -> list[Event]:
        return self._emit(self._reader.feed(text))

    def finish(self, raw: str) -> list[Event]:
        events = self._emit(self._reader.finish())
        code = "".join(self._code)
        self._draft.messages.append(
            Message("assistant", raw.partition("\n")[2].strip(), metadata=INTERPRETER)
        )
        self._draft.code.append(code)
        return [*events, CallEnd(self._index, code=code)]

    def _emit(self, code: str) -> list[Event]:
        self._code.append(code)
        return [CallDelta(self._index, code)] if code else []


_Body = _Text | _Call | _Code
