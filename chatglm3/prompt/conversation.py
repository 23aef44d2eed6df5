"""Conversations in other people's notation, and what makes one fit to be answered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chatglm3.errors import InvalidMessageError
from chatglm3.prompt.calls import ToolCall
from chatglm3.prompt.message import Message

_UNUSED_FIELDS = {"name", "refusal", "annotations"}  # OpenAI's; they say nothing that the prompt format could


def conversation(items: Iterable[Message | Mapping[str, Any]]) -> list[Message]:
    """Messages from Message objects, ChatGLM3's own dicts, and OpenAI's, in any mixture.

    OpenAI's roles `developer` and `tool` become system and observation. Content may be a list of text parts.
    An assistant message with `tool_calls` becomes its text, if any, then each call followed by its result,
    found by `tool_call_id`: the model was trained to stop after each call and wait for the observation.
    Raises InvalidMessageError, naming the message by its number (from 0).
    """
    messages: list[Message] = []
    calls = _OpenCalls()
    for number, item in enumerate(items):
        try:
            if isinstance(item, Message):
                calls.check_answered()
                messages.append(item)
            elif not isinstance(item, Mapping):
                raise InvalidMessageError(f"a message is a Message or a dict, not {item!r:.80}")
            elif item.get("role") == "tool":
                messages += calls.answer(item)
            else:
                calls.check_answered()
                messages += _messages(item, calls)
        except InvalidMessageError as error:
            raise InvalidMessageError(f"message {number}: {error}") from None
    calls.check_answered()
    return messages


def check_conversation(messages: Sequence[Message]) -> None:
    """Refuse a conversation that no ChatGLM3 model was trained on, though it could be rendered.

    Raises InvalidMessageError, naming the message by its number (from 0) and the remedy.
    """
    if not messages:
        raise InvalidMessageError("the conversation is empty; it needs at least one message from the user")
    systems = [i for i, message in enumerate(messages) if message.role == "system"]
    if len(systems) > 1:
        raise InvalidMessageError(
            f"messages {systems[0]} and {systems[1]} are both system messages, and the model knows one; "
            "join their texts into the first message"
        )
    if systems and systems[0] > 0:
        raise InvalidMessageError(
            f"message {systems[0]} is a system message; it must be the first of the conversation"
        )
    for i, message in enumerate(messages):
        if message.role == "observation" and not (i and messages[i - 1].metadata.strip()):
            raise InvalidMessageError(
                f"message {i} is an observation, and the message before it is no call of a tool; "
                "an observation follows an assistant message whose metadata is the tool's name"
            )


class _OpenCalls:
    """The calls of one assistant message in OpenAI's notation, until all their results are there."""

    def __init__(self) -> None:
        self._calls: list[ToolCall] = []
        self._results: dict[int, str] = {}

    def open(self, calls: list[ToolCall]) -> None:
        ids = [call.id for call in calls if call.id is not None]
        if len(set(ids)) < len(ids) or len(ids) < len(calls) > 1:
            raise InvalidMessageError(
                f"each of several tool_calls needs an id of its own, not {[c.id for c in calls]}"
            )
        self._calls, self._results = calls, {}

    def answer(self, item: Mapping[str, Any]) -> list[Message]:
        """Take one result; with the last of them, the messages of all calls and results."""
        call_id = item.get("tool_call_id")
        waiting = {i: call for i, call in enumerate(self._calls) if i not in self._results}
        matching = [
            i for i, call in waiting.items() if call.id == call_id or (call_id is None and len(waiting) == 1)
        ]
        if not matching:
            expected = ", ".join(repr(call.id) for call in waiting.values()) or "none"
            raise InvalidMessageError(
                f"the tool message answers tool_call_id {call_id!r}; "
                f"the calls that wait for a result are: {expected}"
            )
        self._results[matching[0]] = _text(item)
        if len(self._results) < len(self._calls):
            return []
        messages = []
        for i, call in enumerate(self._calls):
            messages += [Message.call(call), Message("observation", self._results[i])]
        self._calls = []
        return messages

    def check_answered(self) -> None:
        missing = [call for i, call in enumerate(self._calls) if i not in self._results]
        if missing:
            raise InvalidMessageError(
                f"the call {missing[0].id!r} of {missing[0].name!r} has no result; "
                "a message with role 'tool' and its tool_call_id must follow"
            )


def _messages(item: Mapping[str, Any], calls: _OpenCalls) -> list[Message]:
    fields = {
        key: value
        for key, value in item.items()
        if key not in _UNUSED_FIELDS and (value is not None or key in ("role", "content", "tools"))
    }
    tool_calls = fields.pop("tool_calls", None)
    if fields.get("role") == "developer":
        fields["role"] = "system"
    if not tool_calls:
        if isinstance(fields.get("content"), list):
            fields["content"] = _text(fields)
        return [Message.from_dict(fields)]
    if fields.get("role") != "assistant":
        raise InvalidMessageError(
            f"only an assistant message has tool_calls, not one from {fields.get('role')!r}"
        )
    if not isinstance(tool_calls, list):
        raise InvalidMessageError(f"tool_calls must be a list, not {tool_calls!r:.80}")
    calls.open([_tool_call(call) for call in tool_calls])
    fields["content"] = "" if fields.get("content") is None else _text(fields)
    thought = Message.from_dict(fields)
    return [thought] if thought.content else []


def _tool_call(item: Any) -> ToolCall:
    function = item.get("function") if isinstance(item, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise InvalidMessageError(f"a tool call needs a function with a name and arguments: {item!r:.200}")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise InvalidMessageError(
                f"the arguments of the call to {function['name']!r} are not JSON ({error}): "
                f"{arguments!r:.200}"
            ) from None
    return ToolCall(function["name"], arguments, id=item.get("id"))


def _text(item: Mapping[str, Any]) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidMessageError(f"the content of a message must be text, not {content!r:.80}")
    texts = []
    for part in content:
        if not (
            isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        ):
            raise InvalidMessageError(f"the model reads text only, and a part of the content is {part!r:.80}")
        texts.append(part["text"])
    return "\n".join(texts)
