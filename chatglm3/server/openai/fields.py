"""What requests of OpenAI's dialect have in common, and what of it the engine is asked for.

A field is honoured, or refused with a message that names it. Null is the same as leaving a field out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from chatglm3.engine import SamplingParams
from chatglm3.server.answers import Answers
from chatglm3.server.errors import ApiError
from chatglm3.server.replies import sampling

T = TypeVar("T")

Items = Annotated[list[T], Field(max_length=4096, fail_fast=True)]
"""A list with at most one complaint: a body that is wrong throughout must not have millions of them."""
StopString = Annotated[str, Field(min_length=1, max_length=256)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=131_072, fail_fast=True)]
Prompt = Annotated[TokenIds, Field(min_length=1)]
MOST_ANSWERS = 128
_MOST_FIELDS = 100


class Fields(BaseModel):
    """A part of a request. Unknown fields, numbers as strings, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _few(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            raise ValueError(f"this is an object with {len(value)} fields, of which most are unknown here")
        return value


def _only_null(value: Any) -> None:
    if value is not None:
        raise ValueError("is not supported by this server; leave it out")


Unsupported = Annotated[None, BeforeValidator(_only_null)]
"""A field of OpenAI's that cannot be honoured: null, or left out."""


def _at_most_16(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > 16:
        raise ValueError(f"there are {len(value)} entries, and at most 16 are taken")
    return value


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
    BeforeValidator(_at_most_16),  # pydantic reads all of them before it counts
]


class PromptCacheOptions(Fields):
    """Not needed: equal prefixes are always found, as long as there is room for them."""

    mode: Literal["implicit"] | None = None
    ttl: Unsupported = None


def _biases(value: Any) -> Any:
    """Complain of the first entry that is wrong; pydantic would complain of all."""
    if isinstance(value, dict):
        for key, bias in value.items():
            if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10):
                raise ValueError(f"{str(key)[:20]!r} is not a token id")
            if type(bias) not in (int, float) or not -100 <= bias <= 100:
                raise ValueError(f"the bias of token {key} is not a number from -100 to 100")
    return value


LogitBias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=65_536), BeforeValidator(_biases)
]


class StreamOptions(Fields):
    """How an answer is streamed."""

    include_usage: bool | None = Field(None, description="Send a last chunk with the usage and no choices.")
    include_obfuscation: Literal[False] | None = Field(None, description="Chunks carry no padding.")


class SamplingFields(Fields):
    """Fields of every request that generates text."""

    model: str | None = Field(None, description="A name from /v1/models; may be left out.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy. Default 0.8.")
    top_p: float | None = Field(None, gt=0, le=1, description="Default 0.8, as ChatGLM3 was published.")
    top_k: int | None = Field(None, ge=-1, description="0 or -1: no limit, the default.")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="1: none, the default.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="The same seed gives the same answer.")
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS, description="How many answers.")
    stop: StopString | Annotated[Items[StopString], Field(max_length=16)] | None = Field(
        None, description="Texts that end the answer and are no part of it, at most 16."
    )
    logit_bias: LogitBias | None = Field(
        None, description="Token id, written as text, to what is added to its logit."
    )
    stream: bool | None = Field(None, description="Answer as server-sent events.")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=256, description="Goes to the log with the request.")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage. Raises ApiError if there is no stream."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options are for stream=true only", param="stream_options")
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, **more: Any) -> SamplingParams:
        """What the engine is asked for; what is left open keeps the engine's default."""
        return sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k is None else max(self.top_k, 0),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            n=self.n,
            logit_bias={int(key): bias for key, bias in (self.logit_bias or {}).items()},
            **more,
        )


def several(given: str | list[str] | list[int] | list[list[int]]) -> tuple[list[str], list[list[int]]]:
    """One prompt or several, as texts or as ids: one of the two lists is empty."""
    match given:
        case str():
            return [given], []
        case [str(), *_]:
            return cast(list[str], given), []
        case [int(), *_]:
            return [], [cast(list[int], given)]
    return [], cast(list[list[int]], given)


class PromptDetails(TypedDict):
    """Of the prompt's tokens."""

    cached_tokens: int
    """Found in the prefix cache instead of being computed."""


class Usage(TypedDict):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    """Stop tokens included."""
    total_tokens: int
    prompt_tokens_details: NotRequired[PromptDetails]


def usage(answers: Answers) -> Usage:
    """What a request has taken so far."""
    return {
        "prompt_tokens": answers.prompt_tokens,
        "completion_tokens": answers.completion_tokens,
        "total_tokens": answers.prompt_tokens + answers.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": answers.cached_tokens},
    }
