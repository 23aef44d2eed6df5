"""Requests and answers of /v1/messages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from chatglm3.server.openai.chat_schema import Name
from chatglm3.server.openai.fields import Fields, Items, StopString


class CacheControl(Fields):
    """Not needed: equal prefixes are always found."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Block(Fields):
    """A part of a message."""

    cache_control: CacheControl | None = None


class TextInput(Block):
    """Text; the model reads nothing else."""

    type: Literal["text"]
    text: str
    citations: Annotated[Items[Any], Field(max_length=0)] | None = None


class ToolUseInput(Block):
    """A call that the model made earlier."""

    type: Literal["tool_use"]
    id: str
    name: Name
    input: dict[str, Any]


class ToolResult(Block):
    """The result of a call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Items[TextInput] | None = None
    is_error: bool | None = Field(None, description="true: the model is told that it is an error.")


class UserTurn(Fields):
    """What a person says, or the results of all calls of the turn before, which come first."""

    role: Literal["user"]
    content: str | Items[Annotated[TextInput | ToolResult, Field(discriminator="type")]]


class AssistantTurn(Fields):
    """What the model said and called."""

    role: Literal["assistant"]
    content: str | Items[Annotated[TextInput | ToolUseInput, Field(discriminator="type")]]


Turn = Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]


class Tool(Block):
    """A tool on offer."""

    type: Literal["custom"] | None = None
    name: Name
    description: str | None = None
    input_schema: dict[str, Any] = Field(description="A JSON schema of type object.")
    strict: bool | None = Field(None, description="true: a call always fits the schema.")


class ToolChoice(Fields):
    """Which tools may or must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, description="With the type tool: the one that must be called.")
    disable_parallel_tool_use: bool | None = Field(None, description="true: at most one call.")


class JsonFormat(Fields):
    """An answer in JSON."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Fields):
    """The form of the answer."""

    format: JsonFormat | None = None


class NoThinking(Fields):
    """The model does not think aloud."""

    type: Literal["disabled"]


class Metadata(Fields):
    """Goes to the log with the request."""

    user_id: str | None = Field(None, max_length=256)


class CountRequest(Fields):
    """A conversation whose tokens are to be counted."""

    model: str
    messages: Items[Turn] = Field(min_length=1)
    system: str | Items[TextInput] | None = None
    tools: Annotated[Items[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: NoThinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None


class MessagesRequest(CountRequest):
    """A conversation to be answered."""

    max_tokens: int = Field(ge=1, description="Longest answer; the end of the context may come earlier.")
    temperature: float | None = Field(None, ge=0, le=1, description="0 is greedy. Default 0.8.")
    top_p: float | None = Field(None, gt=0, le=1, description="Default 0.8, as ChatGLM3 was published.")
    top_k: int | None = Field(None, ge=0, description="0: no limit, the default.")
    stop_sequences: Annotated[Items[StopString], Field(max_length=16)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


class TextBlock(TypedDict):
    """Text of an answer."""

    type: Literal["text"]
    text: str
    citations: None


class ToolUseBlock(TypedDict):
    """A call that the model wants made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(TypedDict):
    """Tokens of one request; the prompt's are the sum of the first three."""

    input_tokens: int
    """Those that had to be computed."""
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    """Found in the prefix cache."""
    output_tokens: int
    """Stop tokens included."""


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class MessageAnswer(TypedDict):
    """The model's answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ToolUseBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(TypedDict):
    """The length of a prompt."""

    input_tokens: int
