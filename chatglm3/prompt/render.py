"""A conversation as the ids that the model reads, and which of them it is trained to predict.

    [gMASK] sop <|system|>⏎ Be brief. <|user|>⏎ hi <|assistant|>⏎ Hello! <|user|>⏎ Weather? <|assistant|>

Each message is a role token, the metadata with a line break (usually just the line break), and the content.
The two texts are encoded one after the other, so each begins with SentencePiece's dummy prefix. Nothing
stands between messages. The prompt ends with a bare `<|assistant|>`: the model itself writes the line break
and the answer, and it stops with the role token of whoever comes next. A tool call and its result:

    <|assistant|>weather⏎ ```python⏎tool_call(city='北京')⏎``` <|observation|>⏎ {"celsius": 3} <|assistant|>

`hi` as the only message, in the published vocabulary (30910 is an empty dummy prefix, 13 the line break):

    >>> render([Message("user", "hi")], tokenizer).ids
    [64790, 64792, 64795, 30910, 13, 14980, 64796]
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from chatglm3.errors import InvalidMessageError, PromptTooLongError
from chatglm3.prompt.message import Message
from chatglm3.tokenizer import Tokenizer

TOOL_SYSTEM_PROMPT = (
    "Answer the following questions as best as you can. You have access to the following tools:"
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids."""

    ids: list[int]
    loss_mask: list[bool]
    """As long as `ids`: whether the model is trained to predict this token from those before it."""


def render(
    messages: Iterable[Message],
    tokenizer: Tokenizer,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
) -> Rendered:
    """The ids of a conversation, exactly as the model was trained to see them.

    tools: definitions that are put into the system message, see attach_tools().
    add_generation_prompt: end with `<|assistant|>` for the model to answer. Otherwise the conversation is
        over and ends with eos, as in training.

    The loss falls on what an assistant writes: metadata, content, and the token that ends the message, which
    is the next role token or eos. So a token counts if the token before it belongs to a learnt message; the
    `<|assistant|>` that opens one does not.
    """
    ids = list(tokenizer.prefix_ids)
    learnt = [False] * len(ids)
    for message in attach_tools(messages, tools):
        message_ids = encode_message(message, tokenizer)
        ids += message_ids
        learnt += [message.learnt] * len(message_ids)
    ids.append(tokenizer.assistant_id if add_generation_prompt else tokenizer.eos_id)
    return Rendered(ids, loss_mask=[False, *learnt])


def encode_message(message: Message, tokenizer: Tokenizer) -> list[int]:
    """Role token, metadata and line break, content."""
    content = message.content
    if message.tools is not None:
        content += "\n" + _tools_text(message.tools)
    return [
        tokenizer.special_ids[f"<|{message.role}|>"],
        *tokenizer.encode(message.metadata + "\n"),
        *tokenizer.encode(content),
    ]


def attach_tools(messages: Iterable[Message], tools: Sequence[Mapping[str, Any]] | None) -> list[Message]:
    """Put tool definitions into the system message; if there is none, one with TOOL_SYSTEM_PROMPT is made.

    tools: `{"name", "description", "parameters"}` each, or wrapped as OpenAI does in
        `{"type": "function", "function": ...}`. None and an empty list add nothing.
    """
    messages = list(messages)
    if not tools:
        return messages
    definitions = tool_definitions(tools)
    if not (messages and messages[0].role == "system"):
        return [Message("system", TOOL_SYSTEM_PROMPT, tools=definitions), *messages]
    system = messages[0]
    if system.tools is not None:
        raise InvalidMessageError(
            "the system message has tools of its own; give them there or as `tools`, not both"
        )
    return [replace(system, tools=definitions), *messages[1:]]


def tool_definitions(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Definitions in the form the model was trained with: OpenAI's wrapping is taken off."""
    return [_tool_definition(tool) for tool in tools]


def _tool_definition(tool: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise InvalidMessageError(f"a tool definition must be an object with a name, not {tool!r:.80}")
    if "function" in tool:
        if tool.get("type", "function") != "function" or not isinstance(tool["function"], Mapping):
            raise InvalidMessageError(f"only tools of type 'function' are known: {dict(tool)!r:.200}")
        function = tool["function"]
        definition = {key: function[key] for key in ("name", "description", "parameters") if key in function}
    else:
        definition = dict(tool)
    name = definition.get("name")
    if not isinstance(name, str) or not name.strip() or "\n" in name:
        raise InvalidMessageError(f"a tool definition needs a name, one line of text: {dict(tool)!r:.200}")
    return definition


def _tools_text(tools: Any) -> str:
    try:
        return json.dumps(tools, indent=4, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessageError(f"the tools of a system message must be JSON values ({error})") from None


def truncate(messages: Sequence[Message], tokenizer: Tokenizer, limit: int) -> list[Message]:
    """Drop the oldest turns until the prompt has at most `limit` tokens, `<|assistant|>` included.

    A turn is a user message and all that follows it, so a call is never parted from its observation. The
    system messages at the start and the newest turn are always kept. Each message is encoded once.
    Raises PromptTooLongError if these alone are too long.
    """
    start = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    lengths = [len(encode_message(message, tokenizer)) for message in messages]
    fixed = len(tokenizer.prefix_ids) + sum(lengths[:start]) + 1
    left = list(accumulate(reversed(lengths[start:]), initial=fixed))[::-1]  # from message `start + i` on

    turns = [i for i in range(start, len(messages)) if i == start or messages[i].role == "user"] or [start]
    for turn in turns:
        if left[turn - start] <= limit:
            return [*messages[:start], *messages[turn:]]
    raise PromptTooLongError(
        f"the prompt has {left[turns[-1] - start]} tokens even without its older turns, and {limit} fit; "
        "shorten the newest turn, the system prompt or the tools, or use a model with a longer context"
    )
