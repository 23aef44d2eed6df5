"""/v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from chatglm3.errors import ChatGLM3Error
from chatglm3.grammar import JSON_OBJECT, Schema
from chatglm3.prompt import Message, conversation
from chatglm3.server.answers import Question
from chatglm3.server.core import Core
from chatglm3.server.errors import ApiError, refused
from chatglm3.server.openai.chat_schema import (
    ChatCompletion,
    ChatMessage,
    ChatRequest,
    Function,
    NamedFunction,
    NamedToolChoice,
    ResponseFormat,
)
from chatglm3.server.openai.chat_writer import Writer
from chatglm3.server.replies import ReplyForm
from chatglm3.server.stream import EventStream, complete


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
        writer = Writer(core, body)
        answers = core.ask([await _question(core, body)], request)
        timeout = core.settings.request_timeout
        if body.stream:
            return EventStream(writer.stream(answers), answers, timeout)
        return JSONResponse(writer.completion(answers, await complete(request, answers, timeout)))

    return router


async def _question(core: Core, body: ChatRequest) -> Question:
    """What the model is asked. Raises ApiError for what cannot be honoured."""
    adapter = core.adapter(body.model)
    _check_fields(body)
    form = _form(body)
    ids = await core.reply_ids(read_chat(body.messages), form.offered)
    max_tokens = body.max_completion_tokens or body.max_tokens
    core.check_length(ids, max_tokens, "messages")
    params = body.sampling(
        max_tokens=max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        grammar=await form.grammar(core, "response_format"),
        adapter=adapter,
    )
    return form.question(core, ids, params, body.stops)


def _check_fields(body: ChatRequest) -> None:
    """Refuse fields that contradict each other."""
    form = body.response_format
    if form is not None and (form.json_schema is not None) != (form.type == "json_schema"):
        message = "json_schema goes with the type 'json_schema', and that type needs it"
        raise ApiError(400, message, param="response_format")
    if body.tools is not None and body.functions is not None:
        raise ApiError(400, "tools and functions are two forms of the same; give one", param="functions")
    for name, choice, offered in (
        ("tool_choice", body.tool_choice, body.tools),
        ("function_call", body.function_call, body.functions),
    ):
        if choice not in (None, "none") and not offered:
            needed = "tools" if name == "tool_choice" else "functions"
            raise ApiError(400, f"{name} chooses among {needed}, and there are no {needed}", param=name)
    limits = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give one", param="max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true", param="top_logprobs")


def _form(body: ChatRequest) -> ReplyForm:
    older = body.functions is not None
    functions = body.functions or [tool.function for tool in body.tools or ()]
    choice = body.function_call if older else body.tool_choice
    if isinstance(choice, NamedToolChoice):
        choice = choice.function
    named = choice.name if isinstance(choice, NamedFunction) else None
    form = ReplyForm(
        tools=definitions(functions),
        choice=choice if isinstance(choice, str) else "auto",
        named=named,
        one_call=older or body.parallel_tool_calls is False,
        strict=any(function.strict for function in functions),
        answer=_answer_schema(body.response_format),
    )
    form.check(*(("functions", "function_call") if older else ()))
    return form


def _answer_schema(form: ResponseFormat | None) -> Schema | None:
    """The schema of an answer in JSON; None for an answer in words."""
    if form is None or form.type == "text":
        return None
    return JSON_OBJECT if form.json_schema is None else form.json_schema.schema_


def definitions(functions: Sequence[Function]) -> list[dict[str, Any]]:
    """Functions as the model was trained to see them."""
    return [function.model_dump(exclude_none=True, exclude={"strict"}) for function in functions]


def read_chat(messages: Sequence[ChatMessage]) -> list[Message]:
    """The conversation in a request. Raises ApiError, which names the message by its number."""
    try:
        return conversation(_plain(message) for message in messages)
    except ChatGLM3Error as error:
        raise refused(error, "messages") from None


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
