"""/v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from chatglm3.prompt import ToolCall
from chatglm3.server.answers import Answers, Part, Question
from chatglm3.server.anthropic.schema import (
    AssistantTurn,
    CountRequest,
    MessageAnswer,
    MessagesRequest,
    MessageUsage,
    StopReason,
    TextInput,
    TokenCount,
    ToolResult,
    ToolUseInput,
    UserTurn,
)
from chatglm3.server.core import Core
from chatglm3.server.errors import AnthropicErrorBody, ApiError
from chatglm3.server.replies import ReplyForm, read_messages, sampling
from chatglm3.server.stream import EventStream, complete, event

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": AnthropicErrorBody, "description": "The request is refused; `message` says why."},
    "5XX": {"model": AnthropicErrorBody, "description": "The server cannot answer."},
}
_CHOICES: dict[str, Literal["none", "auto", "required"]] = {"any": "required", "none": "none"}


def routes(core: Core) -> APIRouter:
    """The routes of this file."""
    router = APIRouter(tags=["Anthropic"], responses=_ERRORS)

    @router.post(
        "/v1/messages",
        summary="Answer a conversation",
        responses={200: {"model": MessageAnswer, "content": {"text/event-stream": {}}}},
    )
    async def messages(body: MessagesRequest, request: Request) -> Response:
        """Answer a conversation, with text or with uses of the tools on offer.

        With `stream`, Anthropic's events come, from `message_start` to `message_stop`. The input of a tool
        comes when it is complete, in one delta.
        """
        core.note(
            request,
            user=body.metadata and body.metadata.user_id,
            prompt=[turn.model_dump(exclude_none=True) for turn in body.messages],
        )
        question = await _question(core, body)
        writer = _Writer(body.model, clipped=(question.params.max_tokens or 0) < body.max_tokens)
        answers = core.ask([question], request)
        timeout = core.settings.request_timeout
        if body.stream:
            return EventStream(writer.stream(answers), answers, timeout, _error_event)
        (part,) = await complete(request, answers, timeout)
        for _ in writer.add(part):
            pass
        return JSONResponse(writer.message(answers))

    @router.post("/v1/messages/count_tokens", summary="Count the tokens of a conversation")
    async def count_tokens(body: CountRequest) -> TokenCount:
        """The number of tokens that the same fields of /v1/messages would have as a prompt."""
        core.check_model(body.model)
        return {"input_tokens": len(await _ids(core, body, _form(body)))}

    return router


async def _question(core: Core, body: MessagesRequest) -> Question:
    """What the model is asked. Raises ApiError for what cannot be honoured."""
    adapter = core.adapter(body.model)
    form = _form(body)
    ids = await _ids(core, body, form)
    core.check_length(ids, None, "messages")
    params = sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        max_tokens=min(body.max_tokens, core.max_context - len(ids)),
        grammar=await form.grammar(core, "output_config"),
        adapter=adapter,
    )
    return form.question(core, ids, params, body.stop_sequences or ())


async def _ids(core: Core, body: CountRequest, form: ReplyForm) -> list[int]:
    messages: list[dict[str, Any]] = []
    if body.system:
        messages.append({"role": "system", "content": _parts(body.system)})
    for number, turn in enumerate(body.messages):
        messages += _user(turn, number) if isinstance(turn, UserTurn) else [_assistant(turn)]
    return await core.reply_ids(read_messages(messages, "messages"), form.offered)


def _form(body: CountRequest) -> ReplyForm:
    choice, tools = body.tool_choice, body.tools or []
    if choice is not None and (choice.name is not None) != (choice.type == "tool"):
        message = "a name goes with the type 'tool', and that type needs it"
        raise ApiError(400, message, param="tool_choice.name")
    config = body.output_config
    form = ReplyForm(
        tools=[
            {"name": tool.name}
            | ({} if tool.description is None else {"description": tool.description})
            | {"parameters": tool.input_schema}
            for tool in tools
        ],
        choice="auto" if choice is None else _CHOICES.get(choice.type, "auto"),
        named=choice.name if choice else None,
        one_call=bool(choice and choice.disable_parallel_tool_use),
        strict=any(tool.strict for tool in tools),
        answer=config.format.schema_ if config and config.format else None,
    )
    form.check()
    return form


def _parts(content: str | Sequence[TextInput]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": block.text} for block in content]


def _user(turn: UserTurn, number: int) -> Iterator[dict[str, Any]]:
    """A turn in OpenAI's chat notation: the results first, then what is said."""
    if isinstance(turn.content, str):
        yield {"role": "user", "content": turn.content}
        return
    texts = [block for block in turn.content if isinstance(block, TextInput)]
    results = [block for block in turn.content if isinstance(block, ToolResult)]
    if any(isinstance(block, ToolResult) for block in turn.content[len(results) :]):
        message = "tool_result blocks come before the text of their message"
        raise ApiError(400, message, param=f"messages.{number}.content")
    for result in results:
        content = _parts(result.content or "")
        if result.is_error:
            text = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
            content = text if text.startswith("Error") else f"Error: {text}"
        yield {"role": "tool", "tool_call_id": result.tool_use_id, "content": content}
    if texts or not results:
        yield {"role": "user", "content": _parts(texts)}


def _assistant(turn: AssistantTurn) -> dict[str, Any]:
    """A turn in OpenAI's chat notation."""
    if isinstance(turn.content, str):
        return {"role": "assistant", "content": turn.content}
    message: dict[str, Any] = {
        "role": "assistant",
        "content": _parts([block for block in turn.content if isinstance(block, TextInput)]),
    }
    if calls := [block for block in turn.content if isinstance(block, ToolUseInput)]:
        message["tool_calls"] = [
            {"id": call.id, "function": {"name": call.name, "arguments": call.input}} for call in calls
        ]
    return message


class _Writer:
    """Writes one answer down in Anthropic's form: as events, and from these as a message.

    model: the name that the client knows it by.
    clipped: the context has less room than the request asks for.
    """

    def __init__(self, model: str, *, clipped: bool) -> None:
        self._clipped = clipped
        self._model = model
        self._id = f"msg_{uuid.uuid4().hex}"
        self._content: list[Any] = []
        self._text_is_open = False
        self._stop_reason: StopReason | None = None
        self._stop_sequence: str | None = None

    def message(self, answers: Answers) -> MessageAnswer:
        """The answer so far."""
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": list(self._content),
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
            "usage": _usage(answers),
        }

    async def stream(self, answers: Answers) -> AsyncGenerator[str, None]:
        """The events of a stream; the first comes with the first token, when the cached ones are known."""
        begun = False
        async for parts in answers.parts():
            events: list[dict[str, Any]] = []
            if not begun:
                begun = True
                events.append({"type": "message_start", "message": self.message(answers)})
            for part in parts:
                events += self.add(part)
            if events:
                yield "".join(event(data, data["type"]) for data in events)
        end = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        last = {"type": "message_delta", "delta": end, "usage": _usage(answers)}
        yield event(last, "message_delta") + event({"type": "message_stop"}, "message_stop")

    def add(self, part: Part) -> list[dict[str, Any]]:
        """Take in what is new; the events that tell of it."""
        events: list[dict[str, Any]] = []
        for item in part.items:
            events += self._say(item) if isinstance(item, str) else self._call(item)
        if part.finish_reason is not None:
            events += self._close_text()
            self._stop_sequence = part.stop_string
            self._stop_reason = self._reason(part)
        return events

    def _say(self, text: str) -> Iterator[dict[str, Any]]:
        if not self._text_is_open:
            self._text_is_open = True
            block = {"type": "text", "text": "", "citations": None}
            self._content.append(dict(block))
            yield self._event("content_block_start", content_block=block)
        self._content[-1]["text"] += text
        yield self._event("content_block_delta", delta={"type": "text_delta", "text": text})

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        yield from self._close_text()
        block = {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": call.name, "input": {}}
        self._content.append(block | {"input": call.arguments})
        yield self._event("content_block_start", content_block=block)
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        yield self._event(
            "content_block_delta", delta={"type": "input_json_delta", "partial_json": arguments}
        )
        yield self._event("content_block_stop")

    def _close_text(self) -> Iterator[dict[str, Any]]:
        if self._text_is_open:
            self._text_is_open = False
            yield self._event("content_block_stop")

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """An event about the newest block."""
        return {"type": kind, "index": len(self._content) - 1, **fields}

    def _reason(self, part: Part) -> StopReason:
        if part.stop_string is not None:
            return "stop_sequence"
        if part.finish_reason == "length":
            return "model_context_window_exceeded" if self._clipped else "max_tokens"
        return "tool_use" if part.finish_reason == "tool_calls" else "end_turn"


def _usage(answers: Answers) -> MessageUsage:
    return {
        "input_tokens": answers.prompt_tokens - answers.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answers.cached_tokens,
        "output_tokens": answers.completion_tokens,
    }


def _error_event(error: ApiError) -> str:
    return event(error.anthropic_body(), "error")
