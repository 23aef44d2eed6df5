"""/v1/chat/completions."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from chatglm3.engine import Grammar
from chatglm3.errors import ChatGLM3Error
from chatglm3.grammar import JSON_OBJECT, Schema
from chatglm3.prompt import ToolCall, conversation
from chatglm3.server.answers import Answers, Part, Question
from chatglm3.server.core import Core
from chatglm3.server.errors import ApiError, refused
from chatglm3.server.openai.chat_schema import (
    AnswerMessage,
    CallAnswer,
    CalledFunction,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatMessage,
    ChatRequest,
    ChunkChoice,
    Function,
    NamedFunction,
    NamedToolChoice,
    ResponseFormat,
)
from chatglm3.server.openai.fields import usage
from chatglm3.server.openai.logprobs import chat_logprobs
from chatglm3.server.stream import EventStream, complete, event

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


def routes(core: Core) -> APIRouter:
    """The route of this file."""
    router = APIRouter(tags=["OpenAI"])

    @router.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        responses={200: {"model": ChatCompletion, "content": {"text/event-stream": {}}}},
    )
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation, with text or with calls of the tools on offer.

        With `stream`, chunks come as server-sent events, and `[DONE]` is the last. A call comes when it is
        complete, in two deltas: its id and name, then its arguments.
        """
        core.note(
            request,
            user=body.user or body.safety_identifier,
            metadata=body.metadata,
            prompt=[message.model_dump(exclude_none=True) for message in body.messages],
        )
        writer = _Writer(core, body)
        answers = core.ask([await _question(core, body)], request)
        timeout = core.settings.request_timeout
        if body.stream:
            return EventStream(writer.stream(answers), answers, timeout)
        return JSONResponse(writer.completion(answers, await complete(request, answers, timeout)))

    return router


async def _question(core: Core, body: ChatRequest) -> Question:
    """What the model is asked. Raises ApiError for what cannot be honoured."""
    core.check_model(body.model)
    _check_forms(body)
    tools = _offered(body)
    try:
        messages = conversation(plain_messages(body.messages))
    except ChatGLM3Error as error:
        raise refused(error, "messages") from None
    ids = await core.reply_ids(messages, tools)
    max_tokens = body.max_completion_tokens or body.max_tokens
    core.check_length(ids, max_tokens, "messages")
    params = body.sampling(
        max_tokens=max_tokens, logprobs=(body.top_logprobs or 0) if body.logprobs else None
    ).replace(grammar=await _grammar(core, body, tools))
    return Question(
        ids,
        core.reply_sampling(params),
        stop=body.stops,
        tool_names=frozenset(tool["name"] for tool in tools) if tools else None,
        one_call=_wants_one_call(body),
    )


async def _grammar(core: Core, body: ChatRequest, tools: list[dict[str, Any]]) -> Grammar | None:
    """What the reply has to be, where the request says so."""
    one_call = _wants_one_call(body)
    if (name := _forced(body)) is not None:
        return await core.grammar("tools", tools=[t for t in tools if t["name"] == name], one_call=True)
    if body.tool_choice == "required":
        return await core.grammar("tools", tools=tools, one_call=one_call)
    schema = _answer_schema(body.response_format)
    if schema is not None:
        return await core.grammar("response_format", answer=schema, tools=tools, one_call=one_call)
    strict = any(tool.function.strict for tool in body.tools or ())
    if tools and (strict or any(function.strict for function in body.functions or ())):
        return await core.grammar("tools", answer="text", tools=tools, one_call=one_call)
    return None


def _forced(body: ChatRequest) -> str | None:
    """The one tool that must be called, if the request names one."""
    if isinstance(body.tool_choice, NamedToolChoice):
        return body.tool_choice.function.name
    return body.function_call.name if isinstance(body.function_call, NamedFunction) else None


def _wants_one_call(body: ChatRequest) -> bool:
    return body.parallel_tool_calls is False or body.functions is not None or _forced(body) is not None


def _answer_schema(form: ResponseFormat | None) -> Schema | None:
    """The schema of an answer in JSON; None for an answer in words."""
    if form is None or form.type == "text":
        return None
    return JSON_OBJECT if form.json_schema is None else form.json_schema.schema_


def _check_forms(body: ChatRequest) -> None:
    """Refuse fields that contradict each other, and what cannot be guaranteed."""
    form = body.response_format
    if form is not None and (form.json_schema is not None) != (form.type == "json_schema"):
        message = "json_schema goes with the type 'json_schema', and that type needs it"
        raise ApiError(400, message, param="response_format")
    if body.tools is not None and body.functions is not None:
        raise ApiError(400, "tools and functions are two forms of the same; give one", param="functions")
    if body.tool_choice in ("auto", "required") and not body.tools:
        raise ApiError(
            400, f"tool_choice is {body.tool_choice!r}, and there are no tools", param="tool_choice"
        )
    functions = body.functions or [tool.function for tool in body.tools or ()]
    if (forced := _forced(body)) is not None and forced not in [function.name for function in functions]:
        param = "function_call" if isinstance(body.function_call, NamedFunction) else "tool_choice"
        raise ApiError(400, f"{forced!r} must be called, and there is no such tool", param=param)
    limits = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give one", param="max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true", param="top_logprobs")


def _offered(body: ChatRequest) -> list[dict[str, Any]]:
    """The definitions that the model is shown; with a choice of 'none' it sees none, and so can call none."""
    if body.tool_choice == "none" or body.function_call == "none":
        return []
    if body.functions is not None:
        return offered_tools(body.functions, "functions")
    return offered_tools([tool.function for tool in body.tools or ()], "tools")


def offered_tools(functions: Sequence[Function], param: str) -> list[dict[str, Any]]:
    """Definitions as the model was trained to see them. Raises ApiError, naming `param`, for double names."""
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise ApiError(400, f"two of the {param} have the same name", param=param)
    return [function.model_dump(exclude_none=True, exclude={"strict"}) for function in functions]


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as `conversation` takes them."""
    return [_plain(message) for message in messages]


def _plain(message: ChatMessage) -> dict[str, Any]:
    """A message as `conversation` takes it; the older form of calls becomes the newer one."""
    plain = message.model_dump(exclude_none=True)
    if plain["role"] == "function":
        return {"role": "tool", "content": plain["content"]}
    called = plain.pop("function_call", None)
    if called is not None:
        plain["tool_calls"] = [{"type": "function", "function": called}]
    if plain["role"] == "assistant":
        plain.setdefault("content", "")
    return plain


class _Writer:
    """Writes answers down in OpenAI's form."""

    def __init__(self, core: Core, body: ChatRequest) -> None:
        self._core = core
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._model = body.model or core.model_name
        self._created = int(time.time())
        self._logprobs = bool(body.logprobs)
        self._usage = body.wants_usage
        self._older_form = body.functions is not None
        self._n = body.n or 1

    def completion(self, answers: Answers, parts: list[Part]) -> ChatCompletion:
        """Whole answers."""
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": [self._choice(part) for part in parts],
            "usage": usage(answers),
            "system_fingerprint": self._core.fingerprint,
        }

    def _choice(self, part: Part) -> ChatChoice:
        calls = [_call(call) for call in part.calls]
        message: AnswerMessage = {"role": "assistant", "content": part.text, "refusal": None}
        if calls:
            message["content"] = part.text or None
            if self._older_form:
                message["function_call"] = calls[0]["function"]
            else:
                message["tool_calls"] = calls
        logprobs = chat_logprobs(self._core.tokenizer, part.logprobs, begins=True) if self._logprobs else None
        reason = self._reason(part)
        assert reason is not None
        return {"index": part.index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def _reason(self, part: Part) -> FinishReason | None:
        if part.finish_reason == "tool_calls" and self._older_form:
            return "function_call"
        return part.finish_reason

    async def stream(self, answers: Answers) -> AsyncGenerator[str, None]:
        """The events of a stream."""
        choices = [_ChoiceStream(self, index) for index in range(self._n)]
        for choice in choices:
            yield self._event(choice.chunk({"role": "assistant", "content": ""}))
        async for parts in answers.parts():
            texts = [self._event(chunk) for part in parts for chunk in choices[part.index].chunks(part)]
            if texts:
                yield "".join(texts)
        if self._usage:
            yield event(self._chunk([]) | {"usage": usage(answers)})
        yield event("[DONE]")

    def _event(self, choice: ChunkChoice) -> str:
        return event(self._chunk([choice]) | ({"usage": None} if self._usage else {}))

    def _chunk(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
            "system_fingerprint": self._core.fingerprint,
        }


class _ChoiceStream:
    """One answer as chunks."""

    def __init__(self, writer: _Writer, index: int) -> None:
        self._writer = writer
        self._index = index
        self._calls = 0
        self._scored = False

    def chunk(self, delta: dict[str, Any]) -> ChunkChoice:
        """A chunk in the middle."""
        return {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunks(self, part: Part) -> list[ChunkChoice]:
        """What is new."""
        chunks: list[ChunkChoice] = []
        for item in part.items:
            if isinstance(item, str):
                chunks.append(self.chunk({"content": item}))
            else:
                chunks += self._call(item)
        if part.logprobs:
            if not chunks:
                chunks.append(self.chunk({}))
            tokenizer = self._writer._core.tokenizer
            chunks[0]["logprobs"] = chat_logprobs(tokenizer, part.logprobs, begins=not self._scored)
            self._scored = True
        if part.finish_reason is not None:
            chunks.append({**self.chunk({}), "finish_reason": self._writer._reason(part)})
        return chunks

    def _call(self, call: ToolCall) -> list[ChunkChoice]:
        """A call: its name, then its arguments."""
        whole = _call(call)
        function = whole["function"]
        begun: CalledFunction = {"name": function["name"], "arguments": ""}
        rest = {"arguments": function["arguments"]}
        if self._writer._older_form:
            return [self.chunk({"function_call": begun}), self.chunk({"function_call": rest})]
        number, self._calls = self._calls, self._calls + 1
        first = {"index": number, "id": whole["id"], "type": "function", "function": begun}
        return [
            self.chunk({"tool_calls": [first]}),
            self.chunk({"tool_calls": [{"index": number, "function": rest}]}),
        ]


def _call(call: ToolCall) -> CallAnswer:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
