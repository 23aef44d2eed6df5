"""ChatGLM3: one model, ready to talk, to call tools and to continue texts."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from chatglm3.chat.events import Done, Event
from chatglm3.chat.loop import answer
from chatglm3.chat.replies import Overflow, Replier
from chatglm3.config import ModelConfig
from chatglm3.engine import Completion, Engine, SamplingParams
from chatglm3.errors import InvalidParameterError, ToolError
from chatglm3.grammar import GrammarCompiler, Schema
from chatglm3.loading import LoadedModel, load, load_adapters, make_engine
from chatglm3.model import ChatGLMModel
from chatglm3.prompt import INTERPRETER, Message, conversation, tool_definitions
from chatglm3.tokenizer import StreamingDetokenizer, Tokenizer
from chatglm3.tools import Approve, Source, Toolbox

if TYPE_CHECKING:
    from chatglm3.tools.interpreter import Interpreter

Messages: TypeAlias = "str | Message | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]]"
"""A text from the user, one message, or a conversation; dicts may be ChatGLM3's own or OpenAI's."""


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
        kv_dtype: str | None = None,
        speculate: int | None = None,
        adapter: str | Path | Mapping[str, str | Path] | None = None,
    ) -> ChatGLM3:
        """Load a model by its name: "nano", a folder, or a hub's id such as "zai-org/chatglm3-6b".

        device: by default CUDA, then a Mac's GPU, then the CPU; dtype: by default what is fast there.
        quantize: "int8" or "int4", to quantize while loading.
        cache_bytes: memory for keys and values; by default four contexts, within half of what is free.
        kv_dtype: "int8" holds keys and values in 8 bits, about half the memory.
        speculate: most tokens of an answer that are drafted ahead of it, which changes no answer; 0: none; by
            default as many as pay on the device.
        adapter: a folder that fine-tuning made, which then answers everything; or several by name, of which
            each call chooses one with `adapter="name"`, and the model alone without.
        Raises a ChatGLM3Error that names what is missing and the remedy.
        """
        loaded = load(name, device=device, dtype=dtype, quantize=quantize, revision=revision, token=token)
        valid_vocab = loaded.tokenizer.vocab_size
        default = None
        if isinstance(adapter, str | Path):
            default = Path(adapter).resolve().name
            adapter = {default: adapter}
        engine = make_engine(
            loaded.model,
            loaded.prefix,
            valid_vocab=valid_vocab,
            cache_bytes=cache_bytes,
            kv_dtype=kv_dtype,
            speculate=speculate,
            adapters=load_adapters(loaded, adapter or {}),
            default_adapter=default,
        )
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

    @functools.cached_property
    def grammars(self) -> GrammarCompiler:
        """What `strict_tools` and `schema` are compiled with; other grammars go into `SamplingParams`."""
        return GrammarCompiler(self.tokenizer)

    def chat(
        self,
        messages: Messages,
        *,
        history: Sequence[Message | Mapping[str, Any]] = (),
        tools: Source | Sequence[Source] | None = None,
        interpreter: Interpreter | bool = False,
        strict_tools: bool = False,
        schema: Schema | None = None,
        max_rounds: int = 8,
        approve: Approve | None = None,
        sampling: SamplingParams | None = None,
        overflow: Overflow = "error",
        **overrides: Any,
    ) -> Done:
        """The whole answer at once; the arguments are those of `stream`."""
        events = self.stream(
            messages,
            history=history,
            tools=tools,
            interpreter=interpreter,
            strict_tools=strict_tools,
            schema=schema,
            max_rounds=max_rounds,
            approve=approve,
            sampling=sampling,
            overflow=overflow,
            **overrides,
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
        tools: Source | Sequence[Source] | None = None,
        interpreter: Interpreter | bool = False,
        strict_tools: bool = False,
        schema: Schema | None = None,
        max_rounds: int = 8,
        approve: Approve | None = None,
        sampling: SamplingParams | None = None,
        overflow: Overflow = "error",
        **overrides: Any,
    ) -> Iterator[Event]:
        """Answer a conversation, event by event, `Done` last. Closing the iterator stops model and tools.

        messages: what follows `history`; together they are the conversation, and neither is changed.
        tools: a Toolbox, or what one is made of: functions are called, and the model goes on with what they
            return; the calls of definitions (`{"name", "description", "parameters"}`, or OpenAI's form) are
            handed out in `Done.tool_calls`. The definitions go into the system message; one is made if there
            is none.
        interpreter: runs the programs that the model writes for its interpreter, and keeps their variables
            and files for the next answer; True: one for this answer only.
        strict_tools: a call always fits the parameters of its tool; `chatglm3[grammar]` guarantees it.
        schema: the answer is JSON that fits this JSON schema, by the same guarantee. The model is not told.
        max_rounds: how often tools are called before the answer ends as it is (`finish_reason="rounds"`).
        approve: asked before a tool is run that needs approval; without it, such tools are run.
        sampling, overrides: how tokens are chosen; `temperature=0` overrides one field of `sampling`.
        overflow: see `Overflow`. What was left out is counted in `Done.dropped`.
        Raises InvalidMessageError, InvalidParameterError, GrammarError, ToolError, InterpreterError or
        PromptTooLongError before the first event.
        """
        started = time.perf_counter()
        params = (sampling or SamplingParams()).replace(**overrides)
        if max_rounds < 1:
            raise InvalidParameterError(
                f"max_rounds is {max_rounds}, but must be at least 1; to run no tools, give their definitions"
            )
        given = conversation([*history, *_as_list(messages)])
        toolbox = _toolbox(tools)
        closing: list[Toolbox | Interpreter] = [] if toolbox is tools else [toolbox]
        if interpreter:
            toolbox, owned = _with_interpreter(toolbox, interpreter)
            closing += [toolbox, *owned]
        if strict_tools or schema is not None:
            offered = _callable(given, toolbox)
            grammar = self.grammars.reply(answer="text" if schema is None else schema, tools=offered)
            params = params.replace(grammar=grammar)
        system = toolbox.interpreter.definition.get("description") if toolbox.interpreter else None
        replier = Replier(self.engine, self.tokenizer, toolbox.definitions, params, overflow, system=system)
        prompt = replier.prepare(given)
        events = answer(
            replier, given, prompt, toolbox, max_rounds=max_rounds, approve=approve, started=started
        )
        return _closing(closing, events) if closing else events

    def generate(self, prompt: str, *, sampling: SamplingParams | None = None, **overrides: Any) -> str:
        """Continue a text, without roles: the way of a base model. Returns the continuation."""
        return "".join(self.stream_text(prompt, sampling=sampling, **overrides))

    def generate_batch(
        self, prompts: Sequence[str], *, sampling: SamplingParams | None = None, **overrides: Any
    ) -> Iterator[list[Continuation]]:
        """Continue several texts at once: for each prompt, in order, its `n` continuations when complete.

        All prompts are checked now. Closing the iterator stops the model.
        """
        params = self._completion_sampling(sampling, overrides)
        results = self.engine.generate_each([self.completion_ids(prompt) for prompt in prompts], params)
        return ([Continuation(self._text(c.content_ids), c) for c in each] for each in results)

    def stream_text(
        self, prompt: str, *, sampling: SamplingParams | None = None, **overrides: Any
    ) -> Iterator[str]:
        """Like `generate`, piece by piece."""
        params = self._completion_sampling(sampling, overrides)
        if params.n != 1:
            raise InvalidParameterError(f"n is {params.n}, but here is one answer; use generate_batch")
        return self._pieces(self.completion_ids(prompt), params)

    def completion_ids(self, prompt: str) -> list[int]:
        """`[gMASK] sop` and the text: what a base model was trained to continue."""
        return [*self.tokenizer.prefix_ids, *self.tokenizer.encode(prompt)]

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


def _as_list(messages: Messages) -> list[Message | Mapping[str, Any]]:
    if isinstance(messages, str):
        return [Message("user", messages)]
    if isinstance(messages, (Message, Mapping)):
        return [messages]
    return list(messages)


def _toolbox(tools: Source | Sequence[Source] | None) -> Toolbox:
    if isinstance(tools, Toolbox):
        return tools
    if isinstance(tools, Sequence) and not isinstance(tools, str):
        return Toolbox(*tools)
    return Toolbox() if tools is None else Toolbox(tools)


def _callable(messages: Sequence[Message], toolbox: Toolbox) -> list[dict[str, Any]]:
    """Definitions of everything that the model may call."""
    own = messages[0].tools if messages else None  # the system message may offer tools of its own
    definitions = tool_definitions([*(own if isinstance(own, list) else ()), *toolbox.definitions])
    return [*definitions, {"name": INTERPRETER}] if toolbox.interpreter else definitions


def _with_interpreter(toolbox: Toolbox, given: Interpreter | bool) -> tuple[Toolbox, list[Interpreter]]:
    """The same tools and an interpreter, and the interpreter if it is for this answer only."""
    from chatglm3.tools.interpreter import Interpreter, interpreter_tool

    if toolbox.interpreter is not None:
        raise ToolError("the toolbox has an interpreter; give it there or as `interpreter`, not both")
    interpreter = Interpreter() if isinstance(given, bool) else given
    try:
        runner = interpreter_tool(interpreter)
    except BaseException:
        if interpreter is not given:
            interpreter.close()
        raise
    extended = Toolbox(toolbox, timeout=toolbox.timeout, max_chars=toolbox.max_chars, interpreter=runner)
    return extended, [] if interpreter is given else [interpreter]


def _closing(resources: Sequence[Toolbox | Interpreter], events: Iterator[Event]) -> Iterator[Event]:
    """The events, and with their end that of what was started for them."""
    with contextlib.ExitStack() as stack:
        for resource in resources:
            stack.enter_context(resource)
        yield from events
