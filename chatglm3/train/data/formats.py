"""What a record says: the published formats and the field's, told apart by their fields.

| fields | format | learnt |
|---|---|---|
| `conversations` of `role`, `content` (+ `tools`) | ChatGLM3 | a conversation |
| `conversations` of `from`, `value` (+ `system`, `tools`) | ShareGPT | a conversation |
| `messages` (+ `tools`) | OpenAI | a conversation |
| `prompt`, `response`, or `content`, `summary` | published, one turn | a conversation |
| `instruction`, `output` (+ `input`, `system`, `history`) | Alpaca | a conversation |
| `context`, `target` | published, base model | a completion, without roles |
| `prompt`, `chosen`, `rejected` (+ `tools`) | preference pairs, as TRL has them | a preference |

A field that no format reads is told to the caller; it says nothing to the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chatglm3.prompt import Message
from chatglm3.train.data.dialogs import Dialog, Refused, chatglm3, openai, sharegpt


@dataclass(frozen=True)
class Conversation:
    """Messages of which the assistant's are learnt."""

    messages: list[Message]


@dataclass(frozen=True)
class Completion:
    """Text that continues another text, for a base model: no roles."""

    context: str
    target: str


@dataclass(frozen=True)
class Preference:
    """Two continuations of a conversation, of which the first is better."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


Sample = Conversation | Completion | Preference

_READ = {
    "chatglm3": {"conversations", "tools"},
    "sharegpt": {"conversations", "system", "tools"},
    "openai": {"messages", "tools"},
    "prompt-response": {"prompt", "response"},
    "content-summary": {"content", "summary"},
    "alpaca": {"instruction", "input", "output", "system", "history"},
    "context-target": {"context", "target"},
    "preference": {"prompt", "chosen", "rejected", "tools"},
}
"""Format -> the fields it reads."""

_NEEDED = {
    "preference": ("chosen", "rejected"),
    "openai": ("messages",),
    "chatglm3": ("conversations",),
    "prompt-response": ("prompt", "response"),
    "context-target": ("context", "target"),
    "alpaca": ("instruction", "output"),
    "content-summary": ("content", "summary"),
}
"""Format -> the fields by which it is known."""


def format_of(record: Mapping[str, Any]) -> str:
    """The name of the format. Raises Refused where there is none, or more than one."""
    found = [name for name, fields in _NEEDED.items() if all(field in record for field in fields)]
    if not found:
        known = "; ".join(" and ".join(fields) for fields in _NEEDED.values())
        raise Refused("", f"the fields {_listed(record)} are no known format; a sample has {known}")
    if len(found) > 1:
        raise Refused("", f"the fields {_listed(record)} could be {' or '.join(found)}; keep one")
    if found[0] == "chatglm3":
        items = record["conversations"]
        first = items[0] if isinstance(items, list) and items else None
        if isinstance(first, Mapping) and "from" in first:
            return "sharegpt"
    return found[0]


def unread_fields(name: str, record: Mapping[str, Any]) -> list[str]:
    """The record's fields that its format does not read."""
    return sorted(map(str, record.keys() - _READ[name]))


def to_sample(record: Mapping[str, Any]) -> Sample:
    """What the record says. Raises Refused, with the field, where it cannot be learnt."""
    sample: Sample = _CONVERTERS[format_of(record)](record)
    return sample


def _conversation(dialog: Dialog) -> Conversation:
    dialog.check()
    return Conversation(dialog.messages)


def _pair(question: str, answer: str) -> Any:
    def convert(record: Mapping[str, Any]) -> Conversation:
        user, assistant = _text(record, question), _text(record, answer, filled=True)
        return Conversation([Message("user", user), Message("assistant", assistant)])

    return convert


def _completion(record: Mapping[str, Any]) -> Completion:
    return Completion(_text(record, "context"), _text(record, "target", filled=True))


def _alpaca(record: Mapping[str, Any]) -> Conversation:
    messages = []
    if record.get("system"):
        messages.append(Message("system", _text(record, "system")))
    history = record.get("history") or []
    for index, turn in enumerate(history if isinstance(history, list) else [history]):
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise Refused(f"history[{index}]", f"a turn is [question, answer], not {turn!r:.60}")
        messages += [Message("user", turn[0]), Message("assistant", turn[1])]
    question = _text(record, "instruction")
    if record.get("input"):
        question += "\n" + _text(record, "input")
    return Conversation(
        [*messages, Message("user", question), Message("assistant", _text(record, "output", filled=True))]
    )


def _preference(record: Mapping[str, Any]) -> Preference:
    sides = []
    for field in ("chosen", "rejected"):
        answer = record[field]
        items = answer if isinstance(answer, list) else [answer]
        items = [{"role": "assistant", "content": i} if isinstance(i, str) else i for i in items]
        sides.append(items)
    if "prompt" in record:
        prompt = record["prompt"]
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    else:  # the two conversations share their beginning
        shared = 0
        while shared < min(map(len, sides)) and sides[0][shared] == sides[1][shared]:
            shared += 1
        prompt, sides = sides[0][:shared], [side[shared:] for side in sides]
    if not isinstance(prompt, list) or not prompt:
        raise Refused("prompt", "the two answers need a question: a text, or a list of messages")
    dialogs = []
    for field, items in zip(("chosen", "rejected"), sides, strict=True):
        if not items:
            raise Refused(field, "there is nothing in which the two answers differ; drop the sample")
        dialog = openai({"messages": [*prompt, *items], "tools": record.get("tools")}, field)
        dialog.check()
        dialogs.append(dialog.messages)
    chosen, rejected = dialogs
    start = next((i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b), None)
    if start is None:
        raise Refused("rejected", "the two answers are the same; drop the sample")
    answers = chosen[start:], rejected[start:]
    if any(message.role != "assistant" for side in answers for message in side):
        raise Refused("chosen", "an answer may hold messages of the assistant only; move others to prompt")
    return Preference(chosen[:start], *answers)


_CONVERTERS: dict[str, Any] = {
    "chatglm3": lambda record: _conversation(chatglm3(record)),
    "sharegpt": lambda record: _conversation(sharegpt(record)),
    "openai": lambda record: _conversation(openai(record)),
    "prompt-response": _pair("prompt", "response"),
    "content-summary": _pair("content", "summary"),
    "alpaca": _alpaca,
    "context-target": _completion,
    "preference": _preference,
}


def _text(record: Mapping[str, Any], field: str, *, filled: bool = False) -> str:
    value = record[field]
    if not isinstance(value, str):
        raise Refused(field, f"is {type(value).__name__} ({value!r:.60}), but must be text")
    if filled and not value.strip():
        raise Refused(field, "is empty, and there is nothing to learn; fill it in or drop the sample")
    return value


def _listed(fields: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, fields))) or "(none)"
