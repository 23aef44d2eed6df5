"""The loop of an agent: the model calls, tools answer, the model reads on, until it has said all."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace

from chatglm3.chat.events import Done, EndReason, Event, ToolImage, Usage
from chatglm3.chat.replies import P, Replies, ReplyEnd
from chatglm3.errors import PromptTooLongError
from chatglm3.prompt import INTERPRETER, CallEnd, Message, Reply, TextDelta, ToolCall
from chatglm3.tools import Approve, Toolbox, ToolResult


def answer(
    replier: Replies[P],
    messages: list[Message],
    prompt: P,
    toolbox: Toolbox,
    *,
    max_rounds: int,
    approve: Approve | None,
    started: float,
) -> Iterator[Event]:
    """Answer `messages`, of which `prompt` is made, event by event, `Done` last.

    Each round of calls is answered with observations and the model is asked again, `max_rounds` times at
    most. A reply with a call that the toolbox cannot answer, because the tool is a definition without code,
    is handed to the caller as it is: none of its calls is run. Closing the iterator, or an exception while it
    waits, stops the model and the tools.
    """
    progress = _Progress(list(messages), started)
    while True:
        end, ends, misread = yield from _reply(replier, prompt, progress.calls, toolbox)
        progress.count(end)
        calls = _calls(ends, end)
        answered = calls and end.finish_reason == "stop" and all(toolbox.answers(c.name) for c in calls)
        if not answered or progress.rounds > max_rounds:
            yield from misread
            yield progress.done(end.reply, "rounds" if answered else end.finish_reason)
            return
        said = [*progress.history, *end.reply.messages]
        results = yield from _observe(
            calls,
            functools.partial(toolbox.run, approve=approve),
            functools.partial(replier.shorten, messages=said, others=len(calls) - 1),
        )
        progress.add(end.reply, results)
        try:
            prompt = replier.prepare(progress.history)
        except PromptTooLongError:
            yield progress.done(_NOTHING, "length")
            return


_NOTHING = Reply(messages=[], raw=[], content="", tool_calls=[], code=None, problems=[])


def _reply(
    replier: Replies[P], prompt: P, calls_before: int, toolbox: Toolbox
) -> Generator[Event, None, tuple[ReplyEnd, list[CallEnd], list[TextDelta]]]:
    """One reply, its calls counted on from those before it.

    Returns its end, the ends of its calls, and the texts of calls that cannot be read. These are held back:
    if a tool could have answered, they are the model's business and not the reader's.
    """
    ends: list[CallEnd] = []
    misread: list[TextDelta] = []
    previous: object = None
    with contextlib.closing(replier.reply(prompt)) as events:
        for event in events:
            match event:
                case ReplyEnd():
                    return event, ends, misread
                case TextDelta():
                    if isinstance(previous, CallEnd) and previous.problem and toolbox.runs_anything:
                        misread.append(event)
                    else:
                        yield event
                case _:
                    counted = replace(event, index=event.index + calls_before)
                    if isinstance(counted, CallEnd):
                        ends.append(counted)
                    yield counted
            previous = event
    raise AssertionError("a reply ends with ReplyEnd")


@dataclass(frozen=True)
class _Call:
    """A call as the model made it: `call`, or the `problem` of reading it."""

    index: int
    name: str
    call: ToolCall | None
    problem: str | None


def _calls(ends: list[CallEnd], end: ReplyEnd) -> list[_Call]:
    """The calls of a reply. Every message with metadata is one, and ended with one CallEnd."""
    calls = []
    for item, message in zip(ends, [m for m in end.reply.messages if m.metadata], strict=True):
        call = item.call if item.code is None else ToolCall(INTERPRETER, {"code": item.code})
        calls.append(_Call(item.index, message.metadata, call, item.problem))
    return calls


def _observe(
    calls: list[_Call],
    run: Callable[[list[ToolCall]], Generator[ToolResult]],
    shorten: Callable[[str], str],
) -> Generator[Event, None, list[ToolResult]]:
    """Answer the calls of one reply, each as its result comes; returns the results in the calls' order."""
    results: dict[int, ToolResult] = {}
    for call in calls:
        if call.problem is not None:
            text = f"Error: {call.problem}. Write tool_call(name=value, ...) with plain values"
            results[call.index] = ToolResult(call.index, call.name, None, text, is_error=True)
            yield results[call.index]
    readable = [(call.index, call.call) for call in calls if call.call is not None]
    with contextlib.closing(run([call for _, call in readable])) as running:
        for result in running:
            index = readable[result.index][0]
            results[index] = replace(result, index=index, content=shorten(result.content))
            for image in result.images:
                yield ToolImage(index, image)
            yield results[index]
    return [results[call.index] for call in calls]


@dataclass
class _Progress:
    """The answer so far."""

    history: list[Message]
    started: float
    results: list[ToolResult] = field(default_factory=list)
    rounds: int = 0
    calls: int = 0
    dropped: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    decoding_seconds: float = 0.0
    first_token_seconds: float = 0.0

    def count(self, end: ReplyEnd) -> None:
        """Book what one reply took."""
        if self.rounds == 0:
            self.first_token_seconds = end.first_token_at - self.started
        self.rounds += 1
        self.calls += sum(bool(message.metadata) for message in end.reply.messages)
        self.dropped = end.dropped
        self.prompt_tokens = end.prompt_tokens
        self.completion_tokens += end.tokens
        self.decoding_seconds += end.ended_at - end.first_token_at

    def add(self, reply: Reply, results: list[ToolResult]) -> None:
        """Go on with a reply and the results of its calls, each after its call.

        What the model said after its last call, without waiting for the result, comes before that call: the
        conversation must end with an observation for the model to go on.
        """
        waiting = iter(results)
        last = max(i for i, message in enumerate(reply.messages) if message.metadata)
        said_too_early = reply.messages[last + 1 :]
        for message in [*reply.messages[:last], *said_too_early, reply.messages[last]]:
            self.history.append(message)
            if message.metadata:
                self.history.append(Message("observation", next(waiting).content))
        self.results += results

    def done(self, reply: Reply, reason: EndReason) -> Done:
        """The end, with the last reply."""
        usage = Usage(
            self.prompt_tokens,
            self.completion_tokens,
            self.first_token_seconds,
            seconds=time.perf_counter() - self.started,
            rounds=self.rounds,
            decoding_seconds=self.decoding_seconds,
        )
        history = [*self.history, *reply.messages]
        return Done(reply, reason, usage, history, self.dropped, self.results)
