"""Writing one answer down as /v1/responses has it: as events, and from these as an object."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Any, cast

from chatglm3.engine import SamplingParams
from chatglm3.prompt import ToolCall
from chatglm3.server.answers import Answers, Part
from chatglm3.server.core import Core
from chatglm3.server.errors import ApiError
from chatglm3.server.openai.logprobs import ContentLogprob, chat_logprobs
from chatglm3.server.openai.responses_schema import (
    FailureDetail,
    ResponseAnswer,
    ResponseRequest,
    ResponseUsage,
)
from chatglm3.server.stream import event


class Writer:
    """The answer to one request.

    params: what the engine is asked with; defaults of the request are told from it.
    """

    def __init__(self, core: Core, body: ResponseRequest, params: SamplingParams) -> None:
        self._tokenizer = core.tokenizer
        self._head = _head(core, body, params)
        self._output: list[Any] = []
        self._message: dict[str, Any] | None = None
        """The message that is being written, the last item of the output."""
        self._scored = False
        self._status = "in_progress"
        self._completed_at: int | None = None
        self._numbers = iter(range(2**62))

    def response(self, answers: Answers | None = None, error: FailureDetail | None = None) -> ResponseAnswer:
        """The answer so far; answers: for its usage, once it is complete."""
        incomplete = self._status == "incomplete"
        answer = {
            **self._head,
            "status": "failed" if error else self._status,
            "completed_at": self._completed_at,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if incomplete else None,
            "output": list(self._output),
            "usage": _usage(answers) if answers else None,
        }
        return cast(ResponseAnswer, answer)

    async def stream(self, answers: Answers) -> AsyncGenerator[str, None]:
        """The events of a stream."""
        begun = self.response()
        yield self._write({"type": "response.created", "response": begun})
        yield self._write({"type": "response.in_progress", "response": begun})
        async for parts in answers.parts():
            texts = [self._write(data) for part in parts for data in self.add(part)]
            if texts:
                yield "".join(texts)
        yield self._write({"type": f"response.{self._status}", "response": self.response(answers)})

    def failed(self, error: ApiError) -> str:
        """The last event of a stream that broke off."""
        detail: FailureDetail = {"code": "server_error", "message": str(error)}
        return self._write({"type": "response.failed", "response": self.response(error=detail)})

    def add(self, part: Part) -> list[dict[str, Any]]:
        """Take in what is new; the events that tell of it, in the state of the moment."""
        events: list[dict[str, Any]] = []
        logprobs = self._logprobs(part)
        for item in part.items:
            if isinstance(item, str):
                events += self._say(item, logprobs)
                logprobs = []
            else:
                events += self._call(item)
        if part.finish_reason is not None:
            if not self._output:
                events += self._open_message()
            cut = part.finish_reason == "length"
            events += self._close_message("incomplete" if cut else "completed")
            self._status = "incomplete" if cut else "completed"
            self._completed_at = None if cut else int(time.time())
        return events

    def _logprobs(self, part: Part) -> list[ContentLogprob]:
        if not part.logprobs:
            return []
        begins, self._scored = not self._scored, True
        return chat_logprobs(self._tokenizer, part.logprobs, begins=begins)["content"]

    def _say(self, text: str, logprobs: list[ContentLogprob]) -> Iterator[dict[str, Any]]:
        yield from self._open_message()
        assert self._message is not None
        content = self._message["content"][0]
        content["text"] += text
        content["logprobs"] += logprobs
        yield self._about_text("response.output_text.delta", delta=text, logprobs=logprobs)

    def _open_message(self) -> Iterator[dict[str, Any]]:
        if self._message is None:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            head = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant"}
            begun = {**head, "status": "in_progress", "content": []}
            self._message = {**begun, "content": [part | {"logprobs": []}]}
            self._output.append(self._message)
            yield self._about_item("response.output_item.added", begun)
            yield self._about_text("response.content_part.added", part=part)

    def _close_message(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        if self._message is not None:
            self._message["status"] = status
            (part,) = self._message["content"]
            told = {"text": part["text"], "logprobs": part["logprobs"]}
            yield self._about_text("response.output_text.done", **told)
            yield self._about_text("response.content_part.done", part=part)
            yield self._about_item("response.output_item.done", self._message)
            self._message = None

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        yield from self._close_message()
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        item = {
            "type": "function_call",
            "id": f"fc_{uuid.uuid4().hex}",
            "call_id": f"call_{uuid.uuid4().hex[:24]}",
            "name": call.name,
            "arguments": arguments,
            "status": "completed",
        }
        self._output.append(item)
        begun = item | {"arguments": "", "status": "in_progress"}
        yield self._about_item("response.output_item.added", begun)
        place = {"item_id": item["id"], "output_index": len(self._output) - 1}
        yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
        done = {"name": call.name, "arguments": arguments}
        yield {"type": "response.function_call_arguments.done", **place, **done}
        yield self._about_item("response.output_item.done", item)

    def _about_item(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        return {"type": kind, "output_index": len(self._output) - 1, "item": item}

    def _about_text(self, kind: str, **fields: Any) -> dict[str, Any]:
        assert self._message is not None
        place = {"item_id": self._message["id"], "output_index": len(self._output) - 1, "content_index": 0}
        return {"type": kind, **place, **fields}

    def _write(self, data: dict[str, Any]) -> str:
        return event(data | {"sequence_number": next(self._numbers)}, data["type"])


def _head(core: Core, body: ResponseRequest, params: SamplingParams) -> dict[str, Any]:
    """What is the same from the first event to the last."""
    form = body.text.format if body.text else None
    choice = body.tool_choice
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "model": body.model or core.model_name,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "background": False,
        "temperature": params.temperature,
        "text": {"format": form.model_dump(exclude_none=True, by_alias=True) if form else {"type": "text"}},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump() if choice else "auto",
        "tools": [tool.model_dump() | {"strict": tool.strict is not False} for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def _usage(answers: Answers) -> ResponseUsage:
    prompt, cached, completion = answers.prompt_tokens, answers.cached_tokens, answers.completion_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": prompt - cached},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }
