"""Requests and answers of /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from chatglm3.server.openai.chat_schema import Name
from chatglm3.server.openai.fields import Fields, Items, Metadata, PromptCacheOptions, Unsupported
from chatglm3.server.openai.logprobs import ContentLogprob

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Fields):
    """Text that the model reads; it reads nothing else."""

    type: Literal["input_text"]
    text: str


class OutputText(Fields):
    """Text that the model wrote earlier."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[Items[Any], Field(max_length=0)] | None = None
    logprobs: Items[Any] | None = Field(
        None, description="As they were answered; the model does not read them."
    )


class InputMessage(Fields):
    """What was said. Messages of the system or a developer come first."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Items[Annotated[InputText | OutputText, Field(discriminator="type")]]
    id: str | None = None
    status: Status | None = None


class InputCall(Fields):
    """A call that the model made earlier."""

    type: Literal["function_call"]
    call_id: str
    name: Name
    arguments: str = Field(description="A JSON object, as text.")
    id: str | None = None
    status: Status | None = None


class InputCallOutput(Fields):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | Items[InputText]
    id: str | None = None
    status: Status | None = None


InputItem = InputMessage | InputCall | InputCallOutput


class FunctionTool(Fields):
    """A function that the model may call."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema of type object.")
    strict: bool | None = Field(None, description="A call always fits the schema. Default true.")


class FunctionChoice(Fields):
    """One function that must be called."""

    type: Literal["function"]
    name: str


class TextFormat(Fields):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="Always observed, strict or not.")


class TextConfig(Fields):
    """What the text of an answer is like."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class StreamConfig(Fields):
    """How an answer is streamed."""

    include_obfuscation: Literal[False] | None = Field(None, description="Events carry no padding.")


class NoReasoning(Fields):
    """The model does not reason before it answers."""

    effort: Literal["none"] | None = None
    summary: None = None


class ResponseRequest(Fields):
    """A conversation to be answered."""

    model: str | None = Field(None, description="A name from /v1/models; may be left out.")
    input: str | Annotated[Items[InputItem], Field(min_length=1)]
    instructions: str | None = Field(None, description="What the model is told first, as its system message.")
    max_output_tokens: int | None = Field(
        None, ge=1, description="Longest answer. Default: what the context has room for."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy. Default 0.8.")
    top_p: float | None = Field(None, gt=0, le=1, description="Default 0.8, as ChatGLM3 was published.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="With the logprobs named in include.")
    include: Items[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    tools: Annotated[Items[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call in an answer.")
    text: TextConfig | None = None
    stream: bool | None = Field(None, description="Answer as server-sent events.")
    stream_options: StreamConfig | None = None
    user: str | None = Field(None, max_length=256, description="Goes to the log with the request.")
    safety_identifier: str | None = Field(None, max_length=256, description="The newer name of user.")
    metadata: Metadata | None = Field(None, description="Goes to the log, and comes back with the answer.")
    store: bool | None = Field(None, description="Only false: the server keeps nothing. Default false.")
    previous_response_id: str | None = Field(None, description="Refused: the server keeps nothing.")
    prompt_cache_key: str | None = Field(None, description="Not needed: equal prefixes are always found.")
    prompt_cache_options: PromptCacheOptions | None = None
    # What says nothing else than the default is taken, so that clients which always send it can be served.
    prompt_cache_retention: Literal["in_memory"] | None = None
    background: Literal[False] | None = None
    reasoning: NoReasoning | None = None
    service_tier: Literal["auto", "default"] | None = None
    truncation: Literal["disabled"] | None = None
    access_programs: Unsupported = None
    background_options: Unsupported = None
    context_management: Unsupported = None
    conversation: Unsupported = None
    image: Unsupported = None
    max_tool_calls: Unsupported = None
    moderation: Unsupported = None
    prompt: Unsupported = None


class OutputTextPart(TypedDict):
    """Text of an answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[ContentLogprob]


class OutputMessage(TypedDict):
    """What the model says."""

    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: Status
    content: list[OutputTextPart]


class OutputCall(TypedDict):
    """A call that the model wants made."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    """A JSON object, as text."""
    status: Status


class InputDetails(TypedDict):
    """Of the prompt's tokens."""

    cached_tokens: int
    """Found in the prefix cache instead of being computed."""
    cache_write_tokens: int


class OutputDetails(TypedDict):
    """Of the answer's tokens."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Tokens of one request."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class FailureDetail(TypedDict):
    """Why there is no complete answer."""

    code: str
    message: str


class IncompleteDetails(TypedDict):
    """Why an answer is not complete."""

    reason: Literal["max_output_tokens"]


class ResponseAnswer(TypedDict):
    """The model's answer, and what it was asked with."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: FailureDetail | None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputMessage | OutputCall]
    usage: ResponseUsage | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, None]
    service_tier: Literal["default"]
    store: Literal[False]
    background: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: str | None
