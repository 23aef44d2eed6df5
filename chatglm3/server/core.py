"""One model and everything that the dialects of the API share: its engine, its names, its limits."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from chatglm3.chat import ChatGLM3
from chatglm3.engine import SamplingParams
from chatglm3.errors import ChatGLM3Error, InvalidMessageError, InvalidParameterError
from chatglm3.grammar import Grammar, GrammarCompiler
from chatglm3.prompt import INTERPRETER, Message, attach_tools, check_conversation, render
from chatglm3.server.answers import Answers, Question
from chatglm3.server.engine_thread import EngineThread
from chatglm3.server.errors import ApiError, refused
from chatglm3.server.keys import spend
from chatglm3.server.logs import record
from chatglm3.server.metrics import Metrics
from chatglm3.server.sentences import SentenceModel
from chatglm3.server.settings import VERSION, Settings

T = TypeVar("T")

_PARAMETERS = {field.name for field in dataclasses.fields(SamplingParams)}
_LONG_TEXT = 20_000
"""Characters beyond which a text is encoded in another thread: 20 ms, which the others would notice."""
_MESSAGE = 20
"""Characters that take as long as a message does by itself."""


class Core:
    """What an app serves. Belongs to one event loop."""

    def __init__(self, glm: ChatGLM3, settings: Settings, sentences: SentenceModel | None = None) -> None:
        self.settings = settings
        self.sentences = sentences
        self.loaded = glm.loaded
        self.tokenizer = glm.tokenizer
        self.max_context = glm.engine.max_context
        self.adapters = glm.engine.adapters
        for name, times in Counter([*self.names, *self.embedding_names]).items():
            if times > 1:
                raise InvalidParameterError(
                    f"{name!r} is the name of two among the model, its adapters and the embedding model; "
                    "rename one of them"
                )
        self.created = int(time.time())
        self.fingerprint = f"fp_{VERSION.replace('.', '_')}_{str(glm.loaded.dtype).removeprefix('torch.')}"
        self.grammars = GrammarCompiler(glm.tokenizer)
        self.metrics = Metrics(self.model_name)
        self.thread = EngineThread(
            glm.engine,
            self.metrics,
            max_queue=settings.max_queue,
            max_queue_tokens=settings.max_queue_tokens,
        )
        self.metrics.watch(lambda: self.thread.stats)

    @property
    def model_name(self) -> str:
        """The model's name where a request leaves it open."""
        return self.settings.model_names[0]

    @property
    def names(self) -> list[str]:
        """What a request's `model` may be: the model's own names, and one for each adapter."""
        return [*self.settings.model_names, *self.adapters]

    @property
    def embedding_names(self) -> Sequence[str]:
        """What it may be for embeddings besides: the names of the model that was trained for them."""
        return () if self.sentences is None else self.sentences.names

    def adapter(self, name: str | None) -> str | None:
        """The adapter that a request's `model` stands for; None: the model itself. Raises ApiError."""
        self.check_model(name)
        return name if name in self.adapters else None

    def check_model(self, name: str | None) -> None:
        """Raise ApiError unless a request's `model` is ours, or left open."""
        if name is not None and name not in self.names:
            known = ", ".join(map(repr, self.names))
            here = "for anything but embeddings" if name in self.embedding_names else "here"
            raise ApiError(
                404,
                f"there is no model {name!r} {here}; there is {known}",
                param="model",
                code="model_not_found",
            )

    async def reply_ids(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), param: str = "messages"
    ) -> list[int]:
        """A conversation as the ids that the model answers. Raises ApiError where it cannot be answered.

        The interpreter is offered as the model was trained: with a system message, and no definition. Where a
        conversation has no system message, the definition's description is one.
        """
        shown = [tool for tool in tools if tool["name"] != INTERPRETER]
        told = "".join(tool.get("description") or "" for tool in tools if tool["name"] == INTERPRETER)

        def encode() -> list[int]:
            given = _one_system_message(messages)
            if told and not (given and given[0].role == "system"):
                given = [Message("system", told), *given]
            offered = attach_tools(given, shown)
            check_conversation(offered)
            if offered[-1].role not in ("user", "observation"):
                raise InvalidMessageError(
                    f"the conversation ends with a message from {offered[-1].role}; "
                    "the model answers a user or the result of a tool"
                )
            return render(offered, self.tokenizer).ids

        return await self._translate(encode, sum(len(m.content) + _MESSAGE for m in messages), param)

    async def text_ids(self, texts: Sequence[str], param: str, *, prefix: bool = True) -> list[list[int]]:
        """Texts as ids, by default with `[gMASK] sop` in front, as a base model continues them."""
        before = self.tokenizer.prefix_ids if prefix else []

        def encode() -> list[list[int]]:
            return [[*before, *self.tokenizer.encode(text)] for text in texts]

        return await self._translate(encode, sum(map(len, texts)), param)

    async def text(self, ids: Sequence[int], param: str) -> str:
        """The text of ids."""
        return await self._translate(lambda: self.tokenizer.decode(ids), len(ids), param)

    async def _translate(self, work: Callable[[], T], length: int, param: str) -> T:
        try:
            return await asyncio.to_thread(work) if length > _LONG_TEXT else work()
        except ChatGLM3Error as error:
            raise refused(error, param) from None

    async def grammar(self, param: str, **form: Any) -> Grammar:
        """What a reply has to be; the form is GrammarCompiler.reply's. Raises ApiError for a bad schema."""
        try:
            return await asyncio.to_thread(self.grammars.reply, **form)
        except ChatGLM3Error as error:
            raise refused(error, param) from None

    def check_length(self, ids: Sequence[int], max_tokens: int | None, param: str) -> None:
        """Raise ApiError unless prompt and answer fit the context together."""
        wanted = 1 if max_tokens is None else max_tokens
        room = max(self.max_context - len(ids), 0)
        if wanted > room:
            answer = "" if max_tokens is None else f" and {max_tokens} are asked for"
            raise ApiError(
                400,
                f"the context has room for {self.max_context} tokens; the prompt has {len(ids)}{answer}, "
                f"which is {len(ids) + wanted} together; shorten the prompt or ask for fewer",
                param=param,
                code="context_length_exceeded",
            )

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """Raise ApiError unless the model can read these ids at once."""
        try:
            self.thread.engine.check_request(ids, SamplingParams())
        except ChatGLM3Error as error:
            raise refused(error, param) from None

    def ask(self, questions: Sequence[Question], request: Request) -> Answers:
        """Queue questions. Raises ApiError if the queue is full or the engine cannot take one."""
        try:
            answers = Answers(questions, self.thread, self.tokenizer, self.metrics, record(request))
        except ChatGLM3Error as error:
            blamed = str(error).partition(" ")[0]
            raise refused(error, blamed if blamed in _PARAMETERS else None) from None
        spend(request.scope, answers.prompt_tokens)
        return answers

    def note(self, request: Request, prompt: Any = None, **fields: Any) -> None:
        """Add to what the log says of a request; of its prompt only if the operator wants that."""
        if self.settings.log_prompts and prompt is not None:
            fields["prompt"] = prompt
        record(request).update({name: value for name, value in fields.items() if value is not None})

    def reply_sampling(self, params: SamplingParams) -> SamplingParams:
        """The same, ending where a reply ends."""
        return params.replace(stop_ids=params.stop_ids | self.tokenizer.stop_ids)


def _one_system_message(messages: Sequence[Message]) -> list[Message]:
    """Those at the beginning joined: clients send several, and the model was trained with one."""
    systems = list(itertools.takewhile(lambda message: message.role == "system", messages))
    if len(systems) < 2:
        return list(messages)
    joined = Message("system", "\n".join(message.content for message in systems))
    return [joined, *messages[len(systems) :]]
