"""One reply of the model: a conversation is made to fit, rendered, and answered event by event."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, get_args

from chatglm3.engine import Engine, FinishReason, SamplingParams
from chatglm3.errors import GenerationError, InvalidMessageError, InvalidParameterError, PromptTooLongError
from chatglm3.prompt import (
    CallBegin,
    CallDelta,
    CallEnd,
    Message,
    Reply,
    ReplyDecoder,
    TextDelta,
    attach_tools,
    check_conversation,
    render,
    truncate,
)
from chatglm3.tokenizer import Tokenizer

Overflow = Literal["error", "drop"]
"""What to do with a conversation longer than the context: refuse it, or leave out its oldest turns."""


@dataclass(frozen=True)
class Prompt:
    """A conversation that is ready for the model."""

    ids: list[int]
    tool_names: frozenset[str]
    dropped: int
    """Messages that were left out."""


@dataclass(frozen=True)
class ReplyEnd:
    """The end of one reply; times as of time.perf_counter()."""

    reply: Reply
    finish_reason: FinishReason
    tokens: int
    first_token_at: float
    ended_at: float
    prompt_tokens: int
    dropped: int = 0
    """Messages that were left out of the prompt."""


ReplyEvent: TypeAlias = TextDelta | CallBegin | CallDelta | CallEnd | ReplyEnd
P = TypeVar("P")


class Replies(Protocol[P]):
    """Who is asked for one reply at a time: a model in this program, or one behind a server."""

    def prepare(self, messages: list[Message]) -> P:
        """What `reply` needs to answer a conversation. Raises ChatGLM3Error where it cannot be answered."""

    def reply(self, prompt: P) -> Generator[ReplyEvent]:
        """The reply, `ReplyEnd` last. Closing the iterator stops the model."""

    def shorten(self, observation: str, messages: list[Message], others: int) -> str:
        """Cut an observation to what there is room for after `messages`, with `others` beside it."""


class Replier:
    """Asks a model for one reply at a time, always with the same tools and sampling."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        definitions: Sequence[Mapping[str, Any]],
        params: SamplingParams,
        overflow: Overflow,
        *,
        system: str | None = None,
    ) -> None:
        if params.n != 1:
            raise InvalidParameterError(f"n is {params.n}, but a chat has one answer; ask again for another")
        if overflow not in get_args(Overflow):
            raise InvalidParameterError(f"overflow is {overflow!r}; it can be 'error' or 'drop'")
        self._engine = engine
        self._tokenizer = tokenizer
        self._definitions = definitions
        # `<|user|>`, `<|observation|>` and eos end a reply, whatever else the caller stops at.
        self._params = params.replace(stop_ids=params.stop_ids | tokenizer.stop_ids)
        self._overflow = overflow
        self._system = system  # of conversations that have no system message

    def prepare(self, messages: list[Message]) -> Prompt:
        """Check and render a conversation. Raises InvalidMessageError or PromptTooLongError."""
        check_conversation(messages)
        if messages[-1].role not in ("user", "observation"):
            raise InvalidMessageError(
                f"the conversation ends with a message from {messages[-1].role}; "
                "the model answers a user or an observation"
            )
        offered = self._offer(messages)
        kept = self._fit(offered)
        return Prompt(
            render(kept, self._tokenizer).ids, frozenset(_tool_names(offered)), len(offered) - len(kept)
        )

    def reply(self, prompt: Prompt) -> Generator[ReplyEvent]:
        """The model's reply, `ReplyEnd` last. Closing the iterator stops the model."""
        decoder = ReplyDecoder(self._tokenizer, tool_names=prompt.tool_names)
        tokens, first = 0, 0.0
        reason: FinishReason = "abort"
        with contextlib.closing(self._engine.stream(prompt.ids, self._params)) as outputs:  # type: ignore[type-var]
            for output in outputs:
                if output.token is not None:
                    tokens += 1
                    first = first or time.perf_counter()
                    yield from decoder.add(output.token)
                if output.error is not None:
                    raise GenerationError(output.error)
                reason = output.finish_reason or reason
        events, reply = decoder.finish()
        yield from events
        end = time.perf_counter()
        yield ReplyEnd(reply, reason, tokens, first or end, end, len(prompt.ids), prompt.dropped)

    def shorten(self, observation: str, messages: list[Message], others: int) -> str:
        """Cut an observation to what the context has room for after `messages`, visibly.

        others: how many more observations share the room. An answer keeps an eighth of the context.
        """
        if self._overflow == "drop":  # older turns can go
            newest = max((i for i, message in enumerate(messages) if message.role == "user"), default=0)
            messages = [*(m for m in messages[:1] if m.role == "system"), *messages[max(newest, 1) :]]
        context = self._engine.max_context
        used = len(render(self._offer(messages), self._tokenizer).ids)
        room = max((context - context // 8 - used) // (others + 1) - _MARK_TOKENS, _LEAST_TOKENS)
        ids = self._tokenizer.encode(observation)
        if len(ids) <= room:
            return observation
        return f"{self._tokenizer.decode(ids[:room])}\n[cut here: the context has room for no more]"

    def _offer(self, messages: list[Message]) -> list[Message]:
        """The conversation with what the model is told of its tools."""
        if self._system is not None and messages[0].role != "system":
            messages = [Message("system", self._system), *messages]
        return attach_tools(messages, self._definitions)

    def _fit(self, messages: list[Message]) -> list[Message]:
        """The messages that go into the prompt: all of them, or what `overflow` says."""
        context = self._engine.max_context
        limit = context - 1  # one place for the answer
        length = len(render(messages, self._tokenizer).ids)
        if length <= limit:
            return messages
        if self._overflow == "error":
            raise PromptTooLongError(
                f"the conversation has {length} tokens, and a context of {context} has room for {limit} and "
                "an answer; shorten it, or leave out its oldest turns with overflow='drop'"
            )
        # Leave room for an answer as well: filled to the brim, the context would cut it off at once.
        max_tokens = self._params.max_tokens
        wanted = max_tokens if max_tokens is not None else context // 8
        return truncate(messages, self._tokenizer, max(limit - wanted, limit // 2))


_MARK_TOKENS = 24  # the role, the first line, and the mark of a cut
_LEAST_TOKENS = 16  # of an observation: less would say nothing


def _tool_names(messages: Sequence[Message]) -> set[str]:
    """Names of the tools that the system message offers."""
    tools = messages[0].tools
    definitions = tools if isinstance(tools, list) else []
    names = (tool.get("name") for tool in definitions if isinstance(tool, Mapping))
    return {name for name in names if isinstance(name, str)}
