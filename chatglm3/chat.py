"""Messages in, events out: the Python API over one model.

    text -> conversation() -> render() -> Engine -> ReplyDecoder -> TextDelta | CallBegin | ... | Done

`ChatGLM3.stream` is that line written out; everything else in this file is a convenience around it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch

from chatglm3.config import ModelConfig
from chatglm3.engine import Completion, Engine, FinishReason, SamplingParams, TokenOutput
from chatglm3.errors import GenerationError, InvalidMessageError, InvalidParameterError, PromptTooLongError
from chatglm3.loading import LoadedModel, load, make_engine
from chatglm3.model import ChatGLMModel
from chatglm3.prompt import (
    CallBegin,
    CallDelta,
    CallEnd,
    Message,
    Reply,
    ReplyDecoder,
    TextDelta,
    ToolCall,
    attach_tools,
    check_conversation,
    conversation,
    render,
    truncate,
)
from chatglm3.tokenizer import StreamingDetokenizer, Tokenizer

Messages: TypeAlias = "str | Message | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]]"
"""A text from the user, one message, or a conversation; dicts may be ChatGLM3's own or OpenAI's."""

Overflow = Literal["error", "drop"]
"""What to do with a conversation longer than the context: refuse it, or leave out its oldest turns."""


@dataclass(frozen=True)
class Usage:
    """What one answer took."""

    prompt_tokens: int
    completion_tokens: int
    """Tokens the model produced, its stop token included."""
    first_token_seconds: float
    """From the call to the first token: the queue and the prompt."""
    seconds: float
    """From the call to the end."""

    @property
    def tokens_per_second(self) -> float:
        """Rate after the first token; 0 for answers of one token."""
        decoding = self.seconds - self.first_token_seconds
        return (self.completion_tokens - 1) / decoding if decoding > 0 else 0.0


@dataclass(frozen=True)
class Done:
    """The end of an answer, and the whole of it."""

    reply: Reply
    finish_reason: FinishReason
    usage: Usage
    history: list[Message]
    """The conversation with this reply at its end: what to go on with. Nothing the caller gave is missing."""
    dropped: int = 0
    """Messages that were left out of the prompt because the context was full (`overflow="drop"`)."""

    @property
    def content(self) -> str:
        """The text of the reply."""
        return self.reply.content

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls that the model made, parsed and not yet run."""
        return self.reply.tool_calls

    @property
    def code(self) -> str | None:
        """The program that the model wrote for the code interpreter, if it did."""
        return self.reply.code


Event: TypeAlias = TextDelta | CallBegin | CallDelta | CallEnd | Done


class ChatGLM3:
    """One model, ready to talk.

    `engine`, `tokenizer`, `model` and `config` are there for whoever needs the level below. An object serves
    one thread at a time; many conversations at once go through `engine.submit`.
    """

    def __init__(self, loaded: LoadedModel, engine: Engine) -> None:
        self.loaded = loaded
        self.engine = engine

    @classmethod
    def load(
        cls,
        name: str | Path = "nano",
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        quantize: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_bytes: int | None = None,
    ) -> ChatGLM3:
        """Load a model by its name: "nano", a folder, or a hub's id such as "zai-org/chatglm3-6b".

        device: by default CUDA, then a Mac's GPU, then the CPU; dtype: by default what is fast there.
        quantize: "int8" or "int4", to quantize while loading.
        cache_bytes: memory for keys and values; by default four contexts, within half of what is free.
        Raises a ChatGLM3Error that names what is missing and the remedy.
        """
        loaded = load(name, device=device, dtype=dtype, quantize=quantize, revision=revision, token=token)
        valid_vocab = loaded.tokenizer.vocab_size
        engine = make_engine(loaded.model, loaded.prefix, valid_vocab=valid_vocab, cache_bytes=cache_bytes)
        return cls(loaded, engine)

    @property
    def config(self) -> ModelConfig:
        """The network's numbers."""
        return self.loaded.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back."""
        return self.loaded.tokenizer

    @property
    def model(self) -> ChatGLMModel:
        """The network."""
        return self.loaded.model

    def chat(
        self,
        messages: Messages,
        *,
        history: Sequence[Message | Mapping[str, Any]] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        sampling: SamplingParams | None = None,
        overflow: Overflow = "error",
        **overrides: Any,
    ) -> Done:
        """The whole answer at once; the arguments are those of `stream`."""
        events = self.stream(
            messages, history=history, tools=tools, sampling=sampling, overflow=overflow, **overrides
        )
        for event in events:
            if isinstance(event, Done):
                return event
        raise AssertionError("a stream of events ends with Done")

    def stream(
        self,
        messages: Messages,
        *,
        history: Sequence[Message | Mapping[str, Any]] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        sampling: SamplingParams | None = None,
        overflow: Overflow = "error",
        **overrides: Any,
    ) -> Iterator[Event]:
        """Answer a conversation, event by event, `Done` last. Closing the iterator stops the model.

        messages: what follows `history`; together they are the conversation, and neither is changed.
        tools: definitions (`{"name", "description", "parameters"}`, or OpenAI's form); they go into the
            system message, and one is made if there is none.
        sampling, overrides: how tokens are chosen; `temperature=0` overrides one field of `sampling`.
        overflow: see `Overflow`. What was left out is counted in `Done.dropped`.
        Raises InvalidMessageError, InvalidParameterError or PromptTooLongError before the first event.
        """
        started = time.perf_counter()
        params = (sampling or SamplingParams()).replace(**overrides)
        if params.n != 1:
            raise InvalidParameterError(f"n is {params.n}, but a chat has one answer; ask again for another")
        # `<|user|>`, `<|observation|>` and eos end a reply, whatever else the caller stops at.
        params = params.replace(stop_ids=params.stop_ids | self.tokenizer.stop_ids)
        given = conversation([*history, *_as_list(messages)])
        check_conversation(given)
        if given[-1].role not in ("user", "observation"):
            raise InvalidMessageError(
                f"the conversation ends with a message from {given[-1].role}; "
                "the model answers a user or an observation"
            )
        offered = attach_tools(given, tools)
        kept = self._fit(offered, params, overflow)
        ids = render(kept, self.tokenizer).ids
        outputs = self.engine.stream(ids, params)
        decoder = ReplyDecoder(self.tokenizer, tool_names=_tool_names(offered))
        return self._events(outputs, decoder, _Request(given, len(ids), len(offered) - len(kept), started))

    def generate(self, prompt: str, *, sampling: SamplingParams | None = None, **overrides: Any) -> str:
        """Continue a text, without roles: the way of a base model. Returns the continuation."""
        return self.generate_batch([prompt], sampling=sampling, **overrides)[0][0].text

    def generate_batch(
        self, prompts: Sequence[str], *, sampling: SamplingParams | None = None, **overrides: Any
    ) -> list[list[Continuation]]:
        """Continue several texts at once: for each prompt its `n` continuations."""
        params = self._completion_sampling(sampling, overrides)
        results = self.engine.generate([self.completion_ids(prompt) for prompt in prompts], params)
        return [[Continuation(self._text(c.content_ids), c) for c in completions] for completions in results]

    def stream_text(
        self, prompt: str, *, sampling: SamplingParams | None = None, **overrides: Any
    ) -> Iterator[str]:
        """Like `generate`, piece by piece."""
        params = self._completion_sampling(sampling, overrides)
        if params.n != 1:
            raise InvalidParameterError(f"n is {params.n}, but a stream holds one answer; use generate_batch")
        return self._pieces(self.completion_ids(prompt), params)

    def completion_ids(self, prompt: str) -> list[int]:
        """`[gMASK] sop` and the text: what a base model was trained to continue."""
        return [*self.tokenizer.prefix_ids, *self.tokenizer.encode(prompt)]

    def _fit(self, messages: list[Message], params: SamplingParams, overflow: Overflow) -> list[Message]:
        """The messages that go into the prompt: all of them, or what `overflow` says."""
        if overflow not in get_args(Overflow):
            raise InvalidParameterError(f"overflow is {overflow!r}; it can be 'error' or 'drop'")
        context = self.engine.max_context
        limit = context - 1  # one place for the answer
        length = len(render(messages, self.tokenizer).ids)
        if length <= limit:
            return messages
        if overflow == "error":
            raise PromptTooLongError(
                f"the conversation has {length} tokens, and a context of {context} has room for {limit} and "
                "an answer; shorten it, or leave out its oldest turns with overflow='drop'"
            )
        # Leave room for an answer as well: filled to the brim, the context would cut it off at once.
        wanted = params.max_tokens if params.max_tokens is not None else context // 8
        return truncate(messages, self.tokenizer, max(limit - wanted, limit // 2))

    def _events(
        self, outputs: Iterator[TokenOutput], decoder: ReplyDecoder, request: _Request
    ) -> Iterator[Event]:
        tokens, first = 0, 0.0
        reason: FinishReason = "abort"
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
        usage = Usage(request.prompt_tokens, tokens, (first or end) - request.started, end - request.started)
        yield Done(reply, reason, usage, [*request.messages, *reply.messages], request.dropped)

    def _completion_sampling(
        self, sampling: SamplingParams | None, overrides: Mapping[str, Any]
    ) -> SamplingParams:
        params = (sampling or SamplingParams()).replace(**overrides)
        return params.replace(stop_ids=params.stop_ids | {self.tokenizer.eos_id})

    def _pieces(self, ids: list[int], params: SamplingParams) -> Iterator[str]:
        detokenizer = StreamingDetokenizer(self.tokenizer)
        for output in self.engine.stream(ids, params):
            if output.token is not None and output.token not in params.stop_ids:
                yield detokenizer.add(output.token)
        yield detokenizer.finish()

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)


@dataclass(frozen=True)
class Continuation:
    """One continuation of a prompt."""

    text: str
    completion: Completion
    """Its ids, log-probabilities and finish reason."""


@dataclass(frozen=True)
class _Request:
    """What `Done` tells about the request."""

    messages: list[Message]
    prompt_tokens: int
    dropped: int
    started: float


def _as_list(messages: Messages) -> list[Message | Mapping[str, Any]]:
    if isinstance(messages, str):
        return [Message("user", messages)]
    if isinstance(messages, (Message, Mapping)):
        return [messages]
    return list(messages)


def _tool_names(messages: Sequence[Message]) -> set[str]:
    """Names of the tools that the system message offers."""
    tools = messages[0].tools
    definitions = tools if isinstance(tools, list) else []
    names = (tool.get("name") for tool in definitions if isinstance(tool, Mapping))
    return {name for name in names if isinstance(name, str)}
