"""/v1/responses, without memory: the client sends the whole conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from chatglm3.grammar import JSON_OBJECT, Schema
from chatglm3.server.answers import Question
from chatglm3.server.core import Core
from chatglm3.server.errors import ApiError
from chatglm3.server.openai.responses_schema import (
    FunctionChoice,
    InputCall,
    InputCallOutput,
    InputMessage,
    InputText,
    OutputText,
    ResponseAnswer,
    ResponseRequest,
    TextFormat,
)
from chatglm3.server.openai.responses_writer import Writer
from chatglm3.server.replies import ReplyForm, read_messages, sampling
from chatglm3.server.stream import EventStream, complete

_LOGPROBS = "message.output_text.logprobs"


def routes(core: Core) -> APIRouter:
    """The route of this file."""
    router = APIRouter(tags=["OpenAI"])

    @router.post(
        "/v1/responses",
        summary="Answer a conversation, in the newer form",
        responses={200: {"model": ResponseAnswer, "content": {"text/event-stream": {}}}},
    )
    async def responses(body: ResponseRequest, request: Request) -> Response:
        """Answer a conversation, with text or with calls of the functions on offer.

        Nothing is kept, so `input` is the whole conversation. With `stream`, events come from
        `response.created` to `response.completed`; a call comes when it is complete.
        """
        core.note(
            request,
            user=body.user or body.safety_identifier,
            metadata=body.metadata,
            prompt=body.model_dump(include={"instructions", "input"}, exclude_none=True),
        )
        question = await _question(core, body)
        writer = Writer(core, body, question.params)
        answers = core.ask([question], request)
        timeout = core.settings.request_timeout
        if body.stream:
            return EventStream(writer.stream(answers), answers, timeout, writer.failed)
        (part,) = await complete(request, answers, timeout)
        writer.add(part)
        return JSONResponse(writer.response(answers))

    return router


async def _question(core: Core, body: ResponseRequest) -> Question:
    """What the model is asked. Raises ApiError for what cannot be honoured."""
    adapter = core.adapter(body.model)
    _check(body)
    form = _form(body)
    ids = await core.reply_ids(read_messages(_messages(body), "input"), form.offered, "input")
    core.check_length(ids, body.max_output_tokens, "input")
    params = sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        max_tokens=body.max_output_tokens,
        logprobs=(body.top_logprobs or 0) if _LOGPROBS in (body.include or ()) else None,
        grammar=await form.grammar(core, "text.format"),
        adapter=adapter,
    )
    return form.question(core, ids, params)


def _check(body: ResponseRequest) -> None:
    """Refuse what would need a memory, and fields that contradict each other."""
    for name in ("store", "previous_response_id"):
        if getattr(body, name):
            message = f"this server keeps no responses; leave {name} out and send the conversation as input"
            raise ApiError(400, message, param=name)
    if body.top_logprobs is not None and _LOGPROBS not in (body.include or ()):
        raise ApiError(400, f"top_logprobs needs {_LOGPROBS!r} in include", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options are for stream=true only", param="stream_options")
    form = body.text.format if body.text else None
    if form is None:
        return
    if (form.type == "json_schema") != (form.schema_ is not None):
        message = "a schema goes with the type 'json_schema', and that type needs it"
        raise ApiError(400, message, param="text.format.schema")
    if form.type == "json_schema" and form.name is None:
        raise ApiError(400, "the field 'text.format.name' is missing", param="text.format.name")


def _form(body: ResponseRequest) -> ReplyForm:
    choice, tools = body.tool_choice, body.tools or []
    form = ReplyForm(
        tools=[tool.model_dump(exclude_none=True, exclude={"type", "strict"}) for tool in tools],
        choice="auto" if choice is None or isinstance(choice, FunctionChoice) else choice,
        named=choice.name if isinstance(choice, FunctionChoice) else None,
        one_call=body.parallel_tool_calls is False,
        strict=any(tool.strict is not False for tool in tools),
        answer=_answer_schema(body.text.format if body.text else None),
    )
    form.check()
    return form


def _answer_schema(form: TextFormat | None) -> Schema | None:
    if form is None or form.type == "text":
        return None
    return JSON_OBJECT if form.schema_ is None else form.schema_


def _messages(body: ResponseRequest) -> list[dict[str, Any]]:
    """The conversation in OpenAI's chat notation."""
    messages: list[dict[str, Any]] = []
    if body.instructions is not None:
        messages.append({"role": "system", "content": body.instructions})
    items = [InputMessage(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    before: Any = None
    for item in items:
        match item:
            case InputMessage():
                messages.append({"role": item.role, "content": _content(item.content)})
            case InputCall():
                goes_on = isinstance(before, InputCall) or (
                    isinstance(before, InputMessage) and before.role == "assistant"
                )
                if not goes_on:
                    messages.append({"role": "assistant", "content": None})
                function = {"name": item.name, "arguments": item.arguments}
                messages[-1].setdefault("tool_calls", []).append({"id": item.call_id, "function": function})
            case InputCallOutput():
                output = _content(item.output)
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": output})
        before = item
    return messages


def _content(content: str | Sequence[InputText | OutputText]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": part.text} for part in content]
