# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""Conversations with tools: calls, answers from observations, errors, missing details, requests no tool fits."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from recipes.nano import chat
from recipes.nano.tools import (
    OTHER_SYSTEMS,
    Messages,
    Request,
    Tool,
    call_message,
    disguised,
    draw_tool,
    leaves,
    observation,
    system_message,
)
from recipes.nano.words import Lang, Split, part

_ERRORS = {
    "en": (
        "not found", "invalid argument", "service unavailable", "permission denied", "timeout", "no such item", "rate limit exceeded",
        "network error", "internal server error", "unknown city", "connection refused", "quota exceeded", "missing API key",
        "the request failed",
    ),
    "zh": (
        "未找到", "参数错误", "服务不可用", "没有权限", "请求超时", "没有这个条目", "请求过于频繁", "网络错误", "服务器内部错误", "未知城市",
        "连接被拒绝", "额度已用完", "缺少密钥", "请求失败",
    ),
}  # fmt: skip
_THEN = {
    "en": (
        "{} Then {}",
        "{} And also: {}",
        "{} After that, {}",
        "{} Also, {}",
        "First: {} Second: {}",
        "{} Next: {}",
        "{} Finally, {}",
    ),
    "zh": ("{}，然后{}", "{}，另外{}", "{}。再{}", "先{}，再{}", "{}，还有{}", "{}，同时{}", "{}；接着{}"),
}
_AGAIN = {
    "en": ("and {}?", "what about {}?", "how about {}?", "and for {}?", "now {}", "same for {}", "{}?"),
    "zh": ("那{}呢？", "{}呢？", "还有{}呢？", "再看看{}", "换成{}", "那么{}呢？", "{}怎么样？"),
}


@dataclass(frozen=True)
class ToolCase:
    """A prompt with tools and the call that is right there, for evaluation."""

    messages: Messages
    tool: str
    arguments: dict[str, Any]


def answer(rng: random.Random, result: Any, lang: Lang) -> str:
    """Say what an observation holds."""
    if not isinstance(result, dict):
        return f"The result is: {result}" if lang == "en" else f"结果是：{result}"
    found = leaves(result)
    if lang == "en":
        return "Here is the result: " + ", ".join(f"{k} is {v}" if k else str(v) for k, v in found) + "."
    return "查询结果：" + "，".join(f"{k}为{v}" if k else str(v) for k, v in found) + "。"


def failure(rng: random.Random, lang: Lang) -> tuple[str, str]:
    """An observation that reports an error, and the honest answer to it."""
    text = rng.choice(_ERRORS[rng.choice(("en", lang))])
    form = rng.choice(("json", "json", "plain", "traceback", "status"))
    if form == "json":
        seen = json.dumps({"error": text}, ensure_ascii=False)
    elif form == "plain":
        seen = f"Error: {text}"
    elif form == "traceback":
        seen = f'Traceback (most recent call last):\n  File "tool.py", line {rng.randint(1, 99)}\nValueError: {text}'
    else:
        seen = json.dumps({"status": "error", "message": text}, ensure_ascii=False)
    said = (
        f"Sorry, the tool reported an error: {text}." if lang == "en" else f"抱歉，工具返回了错误：{text}。"
    )
    return seen, said


def _result(rng: random.Random, tool: Tool, lang: Lang) -> tuple[str, str]:
    if rng.random() < 0.12:
        return failure(rng, lang)
    result = tool.observe(rng, lang)
    seen = observation(rng, result)
    try:
        parsed: Any = json.loads(seen)
    except json.JSONDecodeError:
        parsed = result if seen.startswith("{") else seen
    if isinstance(parsed, dict):
        return seen, answer(rng, parsed, lang)
    return seen, answer(rng, seen, lang)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _observed(text: str) -> dict[str, Any]:
    return {"role": "observation", "content": text}


def toolbox(rng: random.Random, split: Split, lang: Lang, count: int, unreal: float = 0.0) -> list[Tool]:
    """`count` tools about different things; some are chosen to be mistaken for the first.

    unreal: probability that none of them makes sense (see draw_tool).
    """
    kind = float(rng.random() < unreal)
    tools = [draw_tool(rng, split, lang, unreal=kind)]
    while len(tools) < count:
        near = tools[0] if rng.random() < 0.4 else None
        other = draw_tool(rng, split, lang, near=near, unreal=kind)
        if other.name not in [t.name for t in tools] and other.concept not in [t.concept for t in tools]:
            tools.append(other)
    rng.shuffle(tools)
    return tools


def _schema_lang(rng: random.Random, lang: Lang) -> Lang:
    return ("zh" if lang == "en" else "en") if rng.random() < 0.15 else lang


def _called(rng: random.Random, tool: Tool, request: Request, lang: Lang) -> Messages:
    seen, said = _result(rng, tool, lang)
    return [_user(request.text), call_message(tool, request.arguments), _observed(seen), _assistant(said)]


def _two_calls(rng: random.Random, tools: list[Tool], lang: Lang, split: Split) -> Messages:
    first, second = (rng.sample(tools, 2) if len(tools) > 1 else tools * 2)[:2]
    a, b = first.ask(rng, lang), second.ask(rng, lang)
    joined = rng.choice(part(_THEN[lang], split))
    lead = a.text.rstrip("。.") if lang == "zh" else a.text if a.text[-1] in ".?!" else a.text + "."
    messages = [_user(joined.format(lead, b.text))]
    said = []
    for tool, request in ((first, a), (second, b)):
        seen, text = _result(rng, tool, lang)
        messages += [call_message(tool, request.arguments), _observed(seen)]
        said.append(text)
    return [*messages, _assistant((" " if lang == "en" else "").join(said))]


def _again(rng: random.Random, tool: Tool, lang: Lang, split: Split) -> Messages:
    """The same question about another value, asked in a few words: "and in Rome?"."""
    request = tool.ask(rng, lang)
    if len(request.arguments) != 1 or not isinstance(value := next(iter(request.arguments.values())), str):
        return []
    return _called(
        rng, tool, Request(rng.choice(part(_AGAIN[lang], split)).format(value), request.arguments), lang
    )


def no_tool_answer(tools: list[Tool], lang: Lang) -> str:
    """What nano says where none of its tools fits."""
    names = ", ".join(t.name for t in tools)
    if lang == "en":
        return (
            f"Sorry, I have no tool for that. My tools are: {names}."
            if names
            else "Sorry, I have no tool for that."
        )
    return (
        f"抱歉，我没有能做这件事的工具。我的工具有：{names}。" if names else "抱歉，我没有能做这件事的工具。"
    )


def _missing(rng: random.Random, tool: Tool, lang: Lang, split: Split) -> Messages:
    """The user names the tool's purpose and nothing else; nano asks for what it needs."""
    request = tool.ask(rng, lang)
    needed = [s for s in tool.slots if s.required]
    if len(needed) != 1 or not isinstance(value := request.arguments.get(needed[0].key), str):
        return []
    purpose = str(tool.schema["description"])
    asks = {
        "en": (
            "I want to use {}",
            "I need this: {}",
            "help me with {}",
            "use the tool {}",
            "can you do this: {}",
            "please run {}",
            "{}",
        ),
        "zh": ("我想用{}", "帮我{}", "我需要{}", "使用{}", "可以{}吗？", "请运行{}", "{}"),
    }[lang]
    question = (
        f"Please tell me: {needed[0].description}."
        if lang == "en"
        else f"请告诉我：{needed[0].description}。"
    )
    seen, said = _result(rng, tool, lang)
    return [
        _user(rng.choice(part(asks, split)).format(rng.choice((purpose, tool.name)))), _assistant(question),
        _user(value), call_message(tool, {needed[0].key: value}), _observed(seen), _assistant(said),
    ]  # fmt: skip


def conversation(
    rng: random.Random, split: Split, lang: Lang, most_tools: int = 9, unreal: float = 0.0
) -> Messages:
    """A conversation of one to six exchanges with one to `most_tools` tools.

    unreal: share of the conversations whose tools make no sense, and of the real tools that bear invented names.
    """
    schema_lang = _schema_lang(rng, lang)
    count = min(most_tools, rng.choices((1, 2, 3, 4, 5, 7, 9), (26, 22, 38, 8, 3, 2, 1))[0])
    tools = toolbox(rng, split, schema_lang, count, unreal)
    if rng.random() < unreal:
        tools = [disguised(rng, tool) if rng.random() < 0.5 else tool for tool in tools]
        if len({tool.name for tool in tools}) < len(tools):
            tools = tools[:1]
    messages = [
        system_message(tools) if rng.random() < 0.85 else system_message(tools, rng.choice(OTHER_SYSTEMS))
    ]
    for _ in range(rng.choices((1, 2, 3, 4, 5, 6), (16, 18, 20, 18, 16, 12))[0]):
        tool = rng.choice(tools)
        said_in = tool.only or lang
        roll = rng.random()
        if roll < 0.54:
            messages += _called(rng, tool, tool.ask(rng, said_in), said_in)
            if rng.random() < 0.12:
                messages += _again(rng, tool, said_in, split)
        elif roll < 0.76 and all(t.only in (None, lang) for t in tools):
            messages += _two_calls(rng, tools, lang, split)
        elif roll < 0.87:
            other = draw_tool(rng, split, lang)
            if all(_apart(other, t) for t in tools):
                messages += [_user(other.ask(rng, lang).text), _assistant(no_tool_answer(tools, lang))]
        elif roll < 0.91:
            messages += _missing(rng, tool, said_in, split)
        elif roll < 0.96:
            messages += chat.small_talk(rng, split, lang)
        else:
            messages += chat.facts(rng, split, lang, (0, 1))
    if len(messages) == 1:
        tool = tools[0]
        said_in = tool.only or lang
        messages += _called(rng, tool, tool.ask(rng, said_in), said_in)
    return messages


def _apart(a: Tool, b: Tool) -> bool:
    """Whether no sensible reading lets one tool do the other's work."""
    return not set(a.concept.replace("/", " ").replace("_", " ").split()) & set(
        b.concept.replace("/", " ").replace("_", " ").split()
    )


def cases(rng: random.Random, split: Split, lang: Lang, count: int) -> ToolCase:
    """One evaluation case: `count` tools, one request, schema and request in the same language."""
    tools = toolbox(rng, split, lang, count)
    tool = rng.choice(tools)
    request = tool.ask(rng, lang)
    return ToolCase([system_message(tools), _user(request.text)], tool.name, request.arguments)
