"""What a stream of an answer consists of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from chatglm3.engine import FinishReason
from chatglm3.prompt import CallBegin, CallDelta, CallEnd, Message, Reply, TextDelta, ToolCall
from chatglm3.tools import Image, ToolResult

EndReason: TypeAlias = "FinishReason | Literal['rounds']"
"""Why an answer ended: as in the engine, or because the model kept calling tools (`max_rounds`)."""


@dataclass(frozen=True)
class ToolImage:
    """A tool made a picture, for the reader; its ToolResult follows."""

    index: int
    image: Image


@dataclass(frozen=True)
class Usage:
    """What one answer took."""

    prompt_tokens: int
    """Of the last prompt, which holds all calls and results before it."""
    completion_tokens: int
    """Tokens the model produced, its stop tokens included."""
    first_token_seconds: float
    """From the call to the first token: the queue and the prompt."""
    seconds: float
    """From the call to the end, tools included."""
    rounds: int = 1
    """How often the model was asked: once, and once more for each round of tool calls."""
    decoding_seconds: float = 0.0
    """Time in which tokens came: from each round's first token to its last."""

    @property
    def tokens_per_second(self) -> float:
        """Rate after the first token of each round; 0 for answers of one token."""
        rest = self.completion_tokens - self.rounds
        return rest / self.decoding_seconds if rest > 0 and self.decoding_seconds > 0 else 0.0


@dataclass(frozen=True)
class Done:
    """The end of an answer, and the whole of it."""

    reply: Reply
    """The last reply of the model; those before it, which called tools, are in `history`."""
    finish_reason: EndReason
    usage: Usage
    history: list[Message]
    """The conversation with this answer at its end, every call followed by its observation: what to go on
    with, and just what the model saw. Nothing the caller gave is missing."""
    dropped: int = 0
    """Messages that were left out of the prompt because the context was full (`overflow="drop"`)."""
    results: list[ToolResult] = field(default_factory=list)
    """What the tools gave, in the order of their calls."""

    @property
    def content(self) -> str:
        """The text of the last reply."""
        return self.reply.content

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls of the last reply, parsed and not run."""
        return self.reply.tool_calls

    @property
    def code(self) -> str | None:
        """The program that the last reply holds for the code interpreter, not run."""
        return self.reply.code


Event: TypeAlias = TextDelta | CallBegin | CallDelta | CallEnd | ToolImage | ToolResult | Done
