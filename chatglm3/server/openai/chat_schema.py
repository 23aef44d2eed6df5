"""Requests and answers of /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from chatglm3.server.openai.fields import (
    Fields,
    Items,
    Metadata,
    PromptCacheOptions,
    SamplingFields,
    Unsupported,
    Usage,
)
from chatglm3.server.openai.logprobs import ChatLogprobs

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")]


class TextPart(Fields):
    """A part of a message; the model reads text only."""

    type: Literal["text"]
    text: str


class FunctionCall(Fields):
    """What is called, and with what."""

    name: Name
    arguments: str = Field(description="A JSON object, as text.")


class ToolCallField(Fields):
    """A call that the model made earlier."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


Content = str | Items[TextPart]


class SystemMessage(Fields):
    """What the model is told before the conversation; several, all at the beginning, are joined."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Fields):
    """What a person says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(Fields):
    """What the model said, or the calls that it made."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: Items[ToolCallField] | None = None
    function_call: FunctionCall | None = Field(None, description="The older form of one call.")
    name: str | None = None
    refusal: None = None
    audio: None = None
    annotations: Annotated[Items[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> AssistantMessage:
        if self.tool_calls and self.function_call:
            raise ValueError("tool_calls and function_call are two forms of the same; give one")
        return self


class ToolMessage(Fields):
    """The result of a call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


class FunctionMessage(Fields):
    """The result of a call, in the older form."""

    role: Literal["function"]
    content: str
    name: Name


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


class Function(Fields):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema of type object.")
    strict: bool | None = Field(None, description="true: a call always fits the schema.")


class ToolField(Fields):
    """A tool on offer."""

    type: Literal["function"]
    function: Function


class NamedFunction(Fields):
    """A function by its name."""

    name: str


class NamedToolChoice(Fields):
    """One tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Fields):
    """A schema by a name."""

    name: Name
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = Field(None, description="Always observed, strict or not.")


class ResponseFormat(Fields):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(SamplingFields):
    """A conversation to be answered."""

    messages: Items[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Longest answer. Default: what the context has room for."
    )
    max_tokens: int | None = Field(None, ge=1, description="The older name of max_completion_tokens.")
    logprobs: bool | None = Field(None, description="Report the log-probability of each token.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="And so many of the most likely ones.")
    tools: Annotated[Items[ToolField], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call in an answer.")
    functions: Annotated[Items[Function], Field(max_length=128)] | None = Field(
        None, description="The older form of tools."
    )
    function_call: Literal["none", "auto"] | NamedFunction | None = Field(
        None, description="The older form of tool_choice."
    )
    response_format: ResponseFormat | None = None
    metadata: Metadata | None = Field(None, description="Goes to the log with the request.")
    safety_identifier: str | None = Field(None, max_length=256, description="The newer name of user.")
    prompt_cache_key: str | None = Field(None, description="Not needed: equal prefixes are always found.")
    prompt_cache_options: PromptCacheOptions | None = None
    # What says nothing else than the default is taken, so that clients which always send it can be served.
    prompt_cache_retention: Literal["in_memory"] | None = None
    modalities: Items[Literal["text"]] | None = None
    reasoning_effort: Literal["none"] | None = Field(None, description="The model does not reason.")
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = Field(None, description="The server keeps nothing.")
    verbosity: Literal["medium"] | None = None
    audio: Unsupported = None
    moderation: Unsupported = None
    prediction: Unsupported = None
    web_search_options: Unsupported = None


class CalledFunction(TypedDict):
    """What is called, and with what."""

    name: str
    arguments: str
    """A JSON object, as text."""


class CallAnswer(TypedDict):
    """A call that the model wants made."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(TypedDict):
    """What the model answers."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[CallAnswer]]
    function_call: NotRequired[CalledFunction]


class ChatChoice(TypedDict):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]


class ChatCompletion(TypedDict):
    """All answers to a request."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    service_tier: NotRequired[Literal["default"]]


class ChunkChoice(TypedDict):
    """What is new of one answer."""

    index: int
    delta: dict[str, Any]
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"] | None


class ChatCompletionChunk(TypedDict):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    service_tier: NotRequired[Literal["default"]]
    usage: NotRequired[Usage | None]
