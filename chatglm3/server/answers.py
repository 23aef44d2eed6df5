"""From the engine's tokens to what clients are told: text, calls, log-probabilities and why an answer ended.

Every dialect of the API asks with `Question`s and writes down the `Part`s that come back.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from chatglm3.engine import SamplingParams, TokenLogprob, TokenOutput
from chatglm3.prompt import INTERPRETER, CallEnd, Event, ReplyDecoder, TextDelta, ToolCall
from chatglm3.prompt.calls import CallSyntaxError, read_call
from chatglm3.server.engine_thread import EngineThread, Submission
from chatglm3.server.errors import ApiError, internal
from chatglm3.server.metrics import Metrics
from chatglm3.server.stops import StopStrings
from chatglm3.tokenizer import StreamingDetokenizer, Tokenizer

EndReason: TypeAlias = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Question:
    """A prompt, and how its answers are to be read."""

    ids: list[int]
    params: SamplingParams
    stop: tuple[str, ...] = ()
    """Strings that end the text of an answer, and are no part of it."""
    is_reply: bool = True
    """Whether the answer is a reply in a conversation, or the continuation of a text."""
    tool_names: frozenset[str] | None = None
    """The tools that a reply may call; None: what looks like a call is text."""
    one_call: bool = False
    """End the reply after its first call."""


@dataclass
class Part:
    """What is new of one answer."""

    prompt: int
    """The number of its question."""
    index: int
    """Which of the question's n answers."""
    items: list[str | ToolCall] = field(default_factory=list)
    """Text and calls, in the order in which the model wrote them. A call is whole."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the tokens that the text is made of, where asked for; of all tokens in a continuation."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish_reason: EndReason | None = None
    stop_string: str | None = None
    """The stop string that ended the answer, if one did."""

    @property
    def text(self) -> str:
        """All its text."""
        return "".join(item for item in self.items if isinstance(item, str))

    @property
    def calls(self) -> list[ToolCall]:
        """All its calls."""
        return [item for item in self.items if isinstance(item, ToolCall)]

    def add(self, more: Part) -> None:
        """Take in the part that comes next."""
        self.items += more.items
        self.logprobs += more.logprobs
        self.prompt_logprobs = self.prompt_logprobs or more.prompt_logprobs
        self.finish_reason, self.stop_string = more.finish_reason, more.stop_string


class Answers:
    """The answers to one request's questions, under way. Close it when it is no longer wanted.

    record: what the log will say of the request; token counts go there.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        thread: EngineThread,
        tokenizer: Tokenizer,
        metrics: Metrics,
        record: dict[str, Any],
    ) -> None:
        self.record = record
        self.prompt_tokens = sum(len(question.ids) for question in questions)
        self.completion_tokens = 0
        self._metrics = metrics
        self._started = time.perf_counter()
        self._submission: Submission = thread.submit([(q.ids, q.params) for q in questions])
        self._readers = {
            (number, index): _Answer(question, number, index, tokenizer)
            for number, question in enumerate(questions)
            for index in range(question.params.n)
        }

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the prefix cache had."""
        return self._submission.cached_tokens

    async def parts(self) -> AsyncIterator[list[Part]]:
        """What is new, again and again until every answer has ended; one Part an answer at a time.

        Raises ApiError if the engine fails.
        """
        reasons: list[str] = []
        while arrivals := await self._submission.arrivals():
            news: dict[tuple[int, int], Part] = {}
            for number, output in arrivals:
                answer = self._readers[number, output.index]
                if answer.ended:
                    continue
                self.completion_tokens += output.token is not None
                part = answer.add(output)
                if (key := (number, output.index)) in news:
                    news[key].add(part)
                else:
                    news[key] = part
                if part.finish_reason is not None:
                    reasons.append(part.finish_reason)
                    self._submission.end(number, output.index)
            yield list(news.values())
        seconds = time.perf_counter() - self._started
        self._metrics.answered(seconds, self.prompt_tokens, self.completion_tokens, reasons)

    async def complete(self) -> list[Part]:
        """Each answer as one Part, in the order of questions and indices."""
        whole = {key: Part(*key) for key in self._readers}
        async for parts in self.parts():
            for part in parts:
                whole[part.prompt, part.index].add(part)
        return list(whole.values())

    def close(self) -> None:
        """End what is still under way."""
        self._submission.close()
        self.record |= {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
        }


class _Reader(Protocol):
    """Ids to events."""

    @property
    def held_space(self) -> str: ...
    def add(self, id: int) -> Sequence[Event]: ...
    def end(self) -> Sequence[Event]: ...


class _ReplyReader:
    """A reply in a conversation."""

    def __init__(self, tokenizer: Tokenizer, tool_names: frozenset[str] | None) -> None:
        interpreter = tool_names is not None and INTERPRETER in tool_names
        # The interpreter takes code as it is, and no call.
        names = None if tool_names is None else tool_names - {INTERPRETER}
        self._decoder = ReplyDecoder(tokenizer, names, interpreter)

    @property
    def held_space(self) -> str:
        return self._decoder.held_space

    def add(self, id: int) -> Sequence[Event]:
        return self._decoder.add(id)

    def end(self) -> Sequence[Event]:
        return self._decoder.finish()[0]


class _TextReader:
    """The continuation of a text."""

    held_space = ""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = StreamingDetokenizer(tokenizer)
        # Without its dummy prefix, since the continuation does not begin a text.
        self._detokenizer.add(tokenizer.sop_id)

    def add(self, id: int) -> Sequence[Event]:
        text = self._detokenizer.add(id)
        return [TextDelta(text)] if text else []

    def end(self) -> Sequence[Event]:
        text = self._detokenizer.finish()
        return [TextDelta(text)] if text else []


class _Answer:
    """One answer, token by token."""

    def __init__(self, question: Question, number: int, index: int, tokenizer: Tokenizer) -> None:
        self.ended = False
        self._number = number
        self._index = index
        self._question = question
        self._tokenizer = tokenizer
        self._reader: _Reader = (
            _ReplyReader(tokenizer, question.tool_names) if question.is_reply else _TextReader(tokenizer)
        )
        self._stops = StopStrings(question.stop)
        self._calls = 0
        self._read = 0  # characters of text, so far
        self._released = 0  # of those, past the stop strings
        self._logprobs: list[tuple[int, TokenLogprob]] = []
        """Those not handed out yet, each with where its text begins."""

    def add(self, output: TokenOutput) -> Part:
        """What one more token gives. Raises ApiError where the engine gave an error instead."""
        if output.finish_reason == "error":
            raise ApiError(500, output.error or "the model's output is not usable", code="model_error")
        if output.finish_reason == "abort":
            raise internal()
        part = Part(self._number, self._index, prompt_logprobs=output.prompt_logprobs)
        if output.token is not None:
            self._keep_logprob(output)
            if output.finish_reason != "stop":
                self._take(self._reader.add(output.token), part)
        if self._stops.matches(self._reader.held_space):
            self._say(self._reader.held_space, part)
        if output.finish_reason is not None and self._stops.matched is None:
            self._take(self._reader.end(), part)
            self._release(self._stops.finish(), part)
        part.finish_reason, part.stop_string = self._end_reason(output), self._stops.matched
        self.ended = part.finish_reason is not None
        self._hand_out_logprobs(part)
        return part

    def _end_reason(self, output: TokenOutput) -> EndReason | None:
        if self._stops.matched is not None:
            return "stop"
        if output.finish_reason is None:
            return "tool_calls" if self._calls and self._question.one_call else None
        if output.finish_reason == "length":
            return "length"
        return "tool_calls" if self._calls else "stop"

    def _take(self, events: Sequence[Event], part: Part) -> None:
        for event in events:
            if isinstance(event, TextDelta):
                self._say(event.text, part)
            elif isinstance(event, CallEnd) and event.problem is None and self._wants_call():
                self._release(self._stops.finish(), part)
                self._logprobs.clear()
                part.items.append(event.call or _interpreter_call(event.code or ""))
                self._calls += 1

    def _wants_call(self) -> bool:
        return self._stops.matched is None and not (self._calls and self._question.one_call)

    def _say(self, text: str, part: Part) -> None:
        self._read += len(text)
        self._release(self._stops.feed(text), part)

    def _release(self, text: str, part: Part) -> None:
        if text:
            self._released += len(text)
            part.items.append(text)

    def _keep_logprob(self, output: TokenOutput) -> None:
        if output.logprob is None:
            return
        if self._question.is_reply and (
            output.finish_reason == "stop"
            or output.logprob.token == self._tokenizer.assistant_id
            or (self._read == 0 and not self._tokenizer.token_bytes(output.logprob.token).strip())
        ):
            return  # it is no part of the text: the first line of a reply, or a role
        self._logprobs.append((self._read, output.logprob))

    def _hand_out_logprobs(self, part: Part) -> None:
        """Those whose text has been handed out; a continuation's last tokens may have none."""
        everything = self.ended and part.stop_string is None and not self._question.is_reply
        count = sum(everything or start < self._released for start, _ in self._logprobs)
        part.logprobs = [logprob for _, logprob in self._logprobs[:count]]
        del self._logprobs[:count]


def _interpreter_call(code: str) -> ToolCall:
    """Code for the interpreter as a call; a model that was offered it as a function may write one itself."""
    try:
        return read_call(INTERPRETER, code)
    except CallSyntaxError:
        return ToolCall(INTERPRETER, {"code": code})
