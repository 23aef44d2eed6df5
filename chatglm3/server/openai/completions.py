"""/v1/completions: a text continued as it stands, without roles."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Literal, NotRequired

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from chatglm3.server.answers import Answers, Part, Question
from chatglm3.server.core import Core
from chatglm3.server.errors import ApiError
from chatglm3.server.openai.fields import Items, Prompt, SamplingFields, Usage, several, usage
from chatglm3.server.openai.logprobs import CompletionLogprobs, completion_logprobs
from chatglm3.server.stream import EventStream, complete, event

MOST_PROMPTS = 1024


class CompletionRequest(SamplingFields):
    """Texts to be continued."""

    prompt: (
        str
        | Annotated[Items[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Prompt
        | Annotated[Items[Prompt], Field(min_length=1, max_length=MOST_PROMPTS)]
    ) = Field(description="Text gets [gMASK] sop in front; ids are taken as they are.")
    max_tokens: int | None = Field(None, ge=0, description="Default 16; 0 scores the prompt only.")
    echo: bool | None = Field(None, description="Begin each answer with its prompt.")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Report each token and so many of the most likely ones; with echo, the prompt's too.",
    )
    suffix: str | None = Field(None, description="Refused: the model cannot fill in.")
    best_of: int | None = Field(None, description="Only as many as n.")


class CompletionChoice(TypedDict):
    """One continuation, or what is new of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(TypedDict):
    """All continuations, or one event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: NotRequired[Usage | None]


def routes(core: Core) -> APIRouter:
    """The route of this file."""
    router = APIRouter(tags=["OpenAI"])

    @router.post(
        "/v1/completions",
        summary="Continue texts",
        responses={200: {"model": Completion, "content": {"text/event-stream": {}}}},
    )
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue one or several texts, without roles: the way of a base model."""
        core.note(request, user=body.user, prompt=body.prompt)
        adapter = core.adapter(body.model)
        if body.suffix is not None:
            raise ApiError(400, "suffix is not supported: the model cannot fill in a gap", param="suffix")
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise ApiError(400, "best_of must be equal to n", param="best_of")
        questions = await _questions(core, body, adapter)
        writer = _Writer(core, body, questions)
        answers = core.ask(questions, request)
        timeout = core.settings.request_timeout
        if body.stream:
            return EventStream(writer.stream(answers), answers, timeout)
        return JSONResponse(writer.completion(answers, await complete(request, answers, timeout)))

    return router


async def _questions(core: Core, body: CompletionRequest, adapter: str | None) -> list[Question]:
    max_tokens = 16 if body.max_tokens is None else body.max_tokens
    params = body.sampling(
        max_tokens=max_tokens,
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
        stop_ids={core.tokenizer.eos_id},
        adapter=adapter,
    )
    texts, prompts = several(body.prompt)
    questions = []
    for ids in prompts or await core.text_ids(texts, "prompt"):
        core.check_length(ids, max_tokens, "prompt")
        core.check_ids(ids, "prompt")
        questions.append(Question(ids, params, stop=body.stops, is_reply=False))
    return questions


class _Writer:
    """Writes continuations down in OpenAI's form."""

    def __init__(self, core: Core, body: CompletionRequest, questions: list[Question]) -> None:
        self._core = core
        self._usage = body.wants_usage
        self._scored = body.logprobs is not None
        self._n = body.n or 1
        self._ids = [question.ids for question in questions]
        texts, prompts = several(body.prompt)
        self._echoed = (texts or [core.tokenizer.decode(ids) for ids in prompts]) if body.echo else None
        # Of a text's ids, those put in front of it are not echoed.
        self._hidden = len(core.tokenizer.prefix_ids) if texts else 0
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model or core.model_name,
            "system_fingerprint": core.fingerprint,
        }
        self._prompt_scores: dict[int, CompletionLogprobs] = {}
        self._offsets: dict[tuple[int, int], int] = {}
        """Length of the text that each answer has so far."""

    def completion(self, answers: Answers, parts: list[Part]) -> Completion:
        """Whole continuations."""
        return self._body([self._choice(part) for part in parts], {"usage": usage(answers)})

    async def stream(self, answers: Answers) -> AsyncGenerator[str, None]:
        """The events of a stream."""
        more: dict[str, Usage | None] = {"usage": None} if self._usage else {}
        async for parts in answers.parts():
            choices = [self._choice(part) for part in parts]
            texts = [
                event(self._body([choice], more))
                for choice in choices
                if choice["text"] or choice["finish_reason"] or choice["logprobs"]
            ]
            if texts:
                yield "".join(texts)
        if self._usage:
            yield event(self._body([], {"usage": usage(answers)}))
        yield event("[DONE]")

    def _body(self, choices: list[CompletionChoice], more: dict[str, Usage | None]) -> Completion:
        return {**self._head, "choices": choices, **more}  # type: ignore[typeddict-item]

    def _choice(self, part: Part) -> CompletionChoice:
        key = (part.prompt, part.index)
        begins = key not in self._offsets
        echoed = self._echoed[part.prompt] if begins and self._echoed is not None else ""
        offset = self._offsets.get(key, 0)
        scored = self._scored and (begins or part.logprobs or part.finish_reason)
        logprobs = self._logprobs(part, begins, offset + len(echoed)) if scored else None
        self._offsets[key] = offset + len(echoed) + len(part.text)
        assert part.finish_reason != "tool_calls"
        return {
            "index": part.prompt * self._n + part.index,
            "text": echoed + part.text,
            "logprobs": logprobs,
            "finish_reason": part.finish_reason,
        }

    def _logprobs(self, part: Part, begins: bool, offset: int) -> CompletionLogprobs:
        tokenizer = self._core.tokenizer
        own = completion_logprobs(
            tokenizer, part.logprobs, [scored.token for scored in part.logprobs], offset=offset
        )
        if self._echoed is None or not begins:
            return own
        if part.prompt_logprobs is not None:  # with the first of n answers only, which begins first
            scores, ids = part.prompt_logprobs[self._hidden :], self._ids[part.prompt][self._hidden :]
            self._prompt_scores[part.prompt] = completion_logprobs(tokenizer, scores, ids, offset=0)
        prompt = self._prompt_scores[part.prompt]
        return {name: prompt[name] + own[name] for name in own}  # type: ignore[literal-required,return-value]
