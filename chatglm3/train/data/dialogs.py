"""Conversations in three notations as messages, each message with the field of the record it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from chatglm3.errors import InvalidMessageError
from chatglm3.prompt import TOOL_SYSTEM_PROMPT, Message, ToolCall, attach_tools, conversation

_SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "assistant": "assistant", "function_call": "call", "observation": "observation", "tool": "observation",
}  # fmt: skip


class Refused(Exception):
    """A record that cannot be learnt from: which field, and why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class Dialog:
    """Messages, and where each stands in its record."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.fields: list[str] = []

    def add(self, field: str, *messages: Message) -> None:
        """Append messages that come from `field`."""
        self.messages += messages
        self.fields += [field] * len(messages)

    def offer(self, tools: Any) -> None:
        """Put tool definitions into the system message; where there is none, the published text opens it."""
        if tools is None or tools == []:
            return
        if isinstance(tools, str):
            try:
                tools = json.loads(tools)
            except ValueError as error:
                raise Refused("tools", f"the text is not JSON: {error}") from None
        had_system = bool(self.messages) and self.messages[0].role == "system"
        try:
            if isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools):
                self.messages = attach_tools(self.messages, tools)
            elif had_system:
                system = self.messages[0]
                self.messages[0] = Message("system", system.content, tools=tools)
            else:
                self.messages.insert(0, Message("system", TOOL_SYSTEM_PROMPT, tools=tools))
        except InvalidMessageError as error:
            raise Refused("tools", str(error)) from None
        if not had_system:
            self.fields.insert(0, "tools")

    def check(self) -> None:
        """Raise Refused for an order of messages that the model never meets, and where nothing is learnt."""
        before = "start"
        for field, message in zip(self.fields, self.messages, strict=True):
            kind = "call" if message.role == "assistant" and message.metadata else message.role
            if before not in _MAY_FOLLOW[kind]:
                raise Refused(field, _order_problem(before, kind))
            before = kind
        if before not in ("assistant", "call"):
            raise Refused(
                self.fields[-1] if self.fields else "",
                "the conversation ends before an answer; add the assistant's, or drop the last message"
                if self.fields
                else "the conversation is empty; drop the sample",
            )
        for field, message in zip(self.fields, self.messages, strict=True):
            if message.learnt and not message.content.strip():
                raise Refused(
                    f"{field}.content", "an empty answer would be learnt; fill it in, or set loss to false"
                )
        if not any(message.learnt for message in self.messages):
            raise Refused("", "no message is learnt, since loss is false on all of them; drop the sample")


_MAY_FOLLOW = {
    "system": {"start"},
    "user": {"start", "system", "assistant"},
    "assistant": {"user", "observation", "assistant"},
    "call": {"user", "observation", "assistant"},
    "observation": {"call"},
}
"""Kind of a message -> the kinds it may follow. A thought may precede a call: assistant after assistant."""


def _order_problem(before: str, kind: str) -> str:
    if kind == "observation":
        return "a tool's result without a call before it; put the assistant's call in front, or remove it"
    if kind == "system":
        return "a system message must be the first, and there is one at most; join it with the first"
    if before == "call":
        return f"a {kind} message after a tool call; the tool's result has to come first"
    if before in {"start", "system"}:
        return f"the first message after the system's is the user's, not the {_SAID[kind]}"
    return (
        f"a {_SAID[kind]} message after a {_SAID[before]} message; join the two, or add what was said between"
    )


_SAID = {"user": "user's", "assistant": "assistant's", "call": "assistant's", "observation": "tool's"}


def chatglm3(record: Mapping[str, Any]) -> Dialog:
    """The published multi-turn format; `tool` entries hold a call and its result."""
    dialog = Dialog()
    for index, item in enumerate(_items(record, "conversations")):
        field = f"conversations[{index}]"
        try:
            if item.get("role") == "tool":
                dialog.add(field, *_call_and_result(field, item))
            else:
                dialog.add(field, Message.from_dict(item))
        except InvalidMessageError as error:
            raise Refused(_role_field(field, error), str(error)) from None
    dialog.offer(record.get("tools"))
    return dialog


def _call_and_result(field: str, item: Mapping[str, Any]) -> list[Message]:
    for name in ("name", "parameters", "observation"):
        if name not in item:
            raise Refused(f"{field}.{name}", "is missing; a tool entry has name, parameters, observation")
    if unknown := item.keys() - {"role", "name", "parameters", "observation", "loss"}:
        raise Refused(
            f"{field}.{sorted(map(str, unknown))[0]}",
            "a tool entry has no such field; remove it or rename it",
        )
    result = item["observation"]
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    loss = True if item.get("loss") is None else item["loss"]
    return [Message.call(ToolCall(item["name"], item["parameters"]), loss=loss), Message("observation", text)]


def sharegpt(record: Mapping[str, Any]) -> Dialog:
    """ShareGPT's `from` and `value`, with LLaMA-Factory's `function_call` and `observation`."""
    dialog = Dialog()
    if record.get("system"):
        dialog.add("system", Message("system", record["system"]))
    for index, item in enumerate(_items(record, "conversations")):
        field = f"conversations[{index}]"
        said_by, value = item.get("from"), item.get("value")
        kind = _SHAREGPT_ROLES.get(said_by) if isinstance(said_by, str) else None
        if kind is None:
            known = ", ".join(_SHAREGPT_ROLES)
            raise Refused(f"{field}.from", f"unknown role {said_by!r}; it is one of {known}")
        if not isinstance(value, str):
            raise Refused(f"{field}.value", f"must be text, not {value!r:.60}")
        if kind == "call":
            dialog.add(field, _written_call(field, value))
        else:
            dialog.add(field, Message(kind, value))  # type: ignore[arg-type]
    dialog.offer(record.get("tools"))
    return dialog


def _written_call(field: str, value: str) -> Message:
    try:
        call = json.loads(value)
        arguments = call["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        return Message.call(ToolCall(call["name"], arguments))
    except (ValueError, KeyError, TypeError, InvalidMessageError) as error:
        raise Refused(
            f"{field}.value",
            f'a call is {{"name": ..., "arguments": {{...}}}} as JSON, not {value!r:.60} ({error})',
        ) from None


def openai(record: Mapping[str, Any], field: str = "messages") -> Dialog:
    """OpenAI's `messages`: calls with the results that follow them; `weight` 0 leaves a message out."""
    dialog = Dialog()
    items = [_weighted(f"{field}[{i}]", item) for i, item in enumerate(_items(record, "messages"))]
    start = 0
    while start < len(items):
        end = start + 1
        if items[start].get("tool_calls"):
            while end < len(items) and items[end].get("role") == "tool":
                end += 1
        try:
            dialog.add(f"{field}[{start}]", *_group(items[start:end], last=end == len(items)))
        except InvalidMessageError as error:
            number, text = _numbered(error)
            raise Refused(_role_field(f"{field}[{start + number}]", error), text) from None
        start = end
    dialog.offer(record.get("tools"))
    return dialog


def _group(items: list[dict[str, Any]], *, last: bool) -> list[Message]:
    """One message, or one with calls and their results; a call that ends a conversation needs none."""
    calls = items[0].get("tool_calls")
    loss = items[0].pop("loss", True)
    if last and len(items) == 1 and isinstance(calls, list) and len(calls) == 1:
        result = {"role": "tool", "content": "", "tool_call_id": dict(calls[0]).get("id")}
        messages = conversation([items[0], result])[:-1]
    else:
        messages = conversation(items)
    if loss:
        return messages
    return [
        Message(m.role, m.content, m.metadata, m.tools, loss=False) if m.role == "assistant" else m
        for m in messages
    ]


def _weighted(field: str, item: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(item)
    weight = fields.pop("weight", None)
    if weight is not None:
        if weight not in (0, 1):
            raise Refused(f"{field}.weight", f"is {weight!r}; it is 0 or 1")
        fields["loss"] = bool(weight)
    return fields


def _items(record: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    items = record[field]
    if not isinstance(items, list):
        raise Refused(field, f"must be a list of messages, not {type(items).__name__}")
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise Refused(f"{field}[{index}]", f"a message is an object, not {item!r:.60}")
    return items


def _numbered(error: InvalidMessageError) -> tuple[int, str]:
    match = re.match(r"message (\d+): (.*)", str(error), re.DOTALL)
    return (int(match[1]), match[2]) if match else (0, str(error))


def _role_field(field: str, error: InvalidMessageError) -> str:
    return f"{field}.role" if "unknown role" in str(error) else field
