"""Writing answers down as /v1/chat/completions has them: whole, or as the chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any, Literal, cast

from chatglm3.prompt import ToolCall
from chatglm3.server.answers import Answers, Part
from chatglm3.server.core import Core
from chatglm3.server.openai.chat_schema import (
    AnswerMessage,
    CallAnswer,
    CalledFunction,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    ChunkChoice,
)
from chatglm3.server.openai.fields import usage
from chatglm3.server.openai.logprobs import chat_logprobs
from chatglm3.server.stream import event

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class Writer:
    """Writes answers down in OpenAI's form."""

    def __init__(self, core: Core, body: ChatRequest) -> None:
        self.tokenizer = core.tokenizer
        self.older_form = body.functions is not None
        """Whether the client speaks of `function_call` instead of `tool_calls`."""
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model or core.model_name,
            "system_fingerprint": core.fingerprint,
        }
        if body.service_tier is not None:
            self._head["service_tier"] = "default"
        self._logprobs = bool(body.logprobs)
        self._usage = body.wants_usage
        self._n = body.n or 1

    def completion(self, answers: Answers, parts: list[Part]) -> ChatCompletion:
        """Whole answers."""
        choices = [self._choice(part) for part in parts]
        answer = {**self._head, "object": "chat.completion", "choices": choices, "usage": usage(answers)}
        return cast(ChatCompletion, answer)

    def _choice(self, part: Part) -> ChatChoice:
        calls = [_call(call) for call in part.calls]
        message: AnswerMessage = {"role": "assistant", "content": part.text, "refusal": None}
        if calls:
            message["content"] = part.text or None
            if self.older_form:
                message["function_call"] = calls[0]["function"]
            else:
                message["tool_calls"] = calls
        logprobs = chat_logprobs(self.tokenizer, part.logprobs, begins=True) if self._logprobs else None
        reason = self.reason(part)
        assert reason is not None
        return {"index": part.index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def reason(self, part: Part) -> FinishReason | None:
        """Why an answer ended, in the client's words."""
        if part.finish_reason == "tool_calls" and self.older_form:
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
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        return cast(ChatCompletionChunk, chunk)


class _ChoiceStream:
    """One answer as chunks."""

    def __init__(self, writer: Writer, index: int) -> None:
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
            tokenizer = self._writer.tokenizer
            chunks[0]["logprobs"] = chat_logprobs(tokenizer, part.logprobs, begins=not self._scored)
            self._scored = True
        if part.finish_reason is not None:
            chunks.append({**self.chunk({}), "finish_reason": self._writer.reason(part)})
        return chunks

    def _call(self, call: ToolCall) -> list[ChunkChoice]:
        """A call: its name, then its arguments."""
        whole = _call(call)
        function = whole["function"]
        begun: CalledFunction = {"name": function["name"], "arguments": ""}
        rest = {"arguments": function["arguments"]}
        if self._writer.older_form:
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
