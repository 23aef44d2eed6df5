# ruff: noqa: E501 (tables of words and wordings, one entry after the other)
"""Evaluation cases: a prompt, and a check of the reply, by category and language."""

from __future__ import annotations

import ast
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chatglm3.prompt import Reply
from recipes.nano import chat, code, toolchat
from recipes.nano.data import seeded
from recipes.nano.tools import call_message, draw_tool, leaves, observation, system_message
from recipes.nano.words import Lang, Split, part

Messages = list[dict[str, Any]]
Check = Callable[[Reply], bool]


@dataclass(frozen=True)
class Case:
    """A prompt, what a right reply looks like, and whether a reply is right."""

    messages: Messages
    expected: str
    check: Check


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _says(*needed: str) -> Check:
    return lambda reply: (
        not reply.tool_calls and reply.code is None and all(n in reply.content for n in needed)
    )


def _calls(name: str, arguments: dict[str, Any]) -> Check:
    return lambda reply: [(c.name, c.arguments) for c in reply.tool_calls] == [(name, arguments)]


def _greeting(rng: random.Random, split: Split, lang: Lang) -> Case:
    kind = rng.choice(("hello", "who"))
    text = rng.choice(part(chat._TALK[kind][lang][0], split))
    return Case([_user(text)], "nano", _says("nano"))


def _recall(rng: random.Random, split: Split, lang: Lang) -> Case:
    """A fact told up to six turns ago."""
    fact = chat.draw_fact(rng, split)
    value = chat._value(rng, fact, split, lang)
    messages = [
        _user(rng.choice(part(fact.tell[lang], split)).format(v=value)),
        {"role": "assistant", "content": fact.ack[lang].format(v=value)},
    ]
    for _ in range(rng.randint(0, 5)):
        messages += chat._filler(rng, split, lang)
    messages.append(_user(rng.choice(part(fact.ask[lang], split))))
    return Case(messages, value, _says(value))


def _beyond(rng: random.Random, split: Split, lang: Lang) -> Case:
    messages = chat.beyond(rng, split, lang)
    words = ("don't know", "cannot", "no tool") if lang == "en" else ("不知道", "做不到", "没有工具")
    return Case(
        messages[:1],
        messages[1]["content"],
        lambda r: not r.tool_calls and any(w in r.content for w in words),
    )


def _tool(count: int) -> Callable[[random.Random, Split, Lang], Case]:
    def make(rng: random.Random, split: Split, lang: Lang) -> Case:
        case = toolchat.cases(rng, split, lang, count)
        return Case(case.messages, f"{case.tool}({case.arguments})", _calls(case.tool, case.arguments))

    return make


def _second_call(rng: random.Random, split: Split, lang: Lang) -> Case:
    """Two requests in one message; the first call has been answered."""
    tools = toolchat.toolbox(rng, split, lang, 2)
    messages: Messages = []
    while len(messages) < 5:
        messages = toolchat._two_calls(rng, tools, lang, split)
    second = messages[3]
    arguments = _literal_arguments(second["content"])
    prompt = [system_message(tools), *messages[:3]]
    return Case(prompt, f"{second['metadata']}({arguments})", _calls(second["metadata"], arguments))


def _literal_arguments(content: str) -> dict[str, Any]:
    call = ast.parse(content.split("\n")[1], mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}


def _answered(rng: random.Random, split: Split, lang: Lang, error: bool) -> Case:
    tools = toolchat.toolbox(rng, split, lang, rng.randint(1, 3))
    tool = rng.choice(tools)
    request = tool.ask(rng, tool.only or lang)
    result = tool.observe(rng, lang)
    if error:
        seen, _ = toolchat.failure(rng, lang)
        lines = [e for table in toolchat._ERRORS.values() for e in table]
        needed = [e for e in lines if e in seen][:1]
    else:
        seen, needed = observation(rng, result), [str(v) for _, v in leaves(result)]
    prompt = [
        system_message(tools), _user(request.text), call_message(tool, request.arguments), {"role": "observation", "content": seen},
    ]  # fmt: skip
    return Case(prompt, " ".join(needed), _says(*needed))


def _no_tool(rng: random.Random, split: Split, lang: Lang) -> Case:
    tools = toolchat.toolbox(rng, split, lang, rng.randint(1, 3))
    other = draw_tool(rng, split, lang)
    while not all(toolchat._apart(other, t) for t in tools):
        other = draw_tool(rng, split, lang)
    word = "no tool" if lang == "en" else "没有"
    return Case([system_message(tools), _user(other.ask(rng, lang).text)], word, _says(word))


def _code(
    *kinds: Callable[[random.Random, Split, Lang], code.Task],
) -> Callable[[random.Random, Split, Lang], Case]:
    def make(rng: random.Random, split: Split, lang: Lang) -> Case:
        task = rng.choice(kinds)(rng, split, lang)
        prompt = [code.system_message(rng, lang), _user(task.text)]

        def check(reply: Reply) -> bool:
            if reply.code is None:
                return False
            known = reply.code.strip() == task.code  # of which it is known what it prints
            return known or same(run(reply.code), task.output)

        return Case(prompt, task.output, check)

    return make


def _plot(rng: random.Random, split: Split, lang: Lang) -> Case:
    task = code.plot(rng, split, lang)
    return Case(
        [code.system_message(rng, lang), _user(task.text)],
        task.code,
        lambda r: r.code is not None and r.code.strip() == task.code,
    )


def _result(rng: random.Random, split: Split, lang: Lang) -> Case:
    task = rng.choice((code.arithmetic, code.on_list))(rng, split, lang)
    prompt = [
        code.system_message(rng, lang), _user(task.text),
        {"role": "assistant", "metadata": "interpreter", "content": f"```python\n{task.code}\n```"}, {"role": "observation", "content": task.output},
    ]  # fmt: skip
    return Case(prompt, task.output, _says(task.output))


CATEGORIES: dict[str, Callable[[random.Random, Split, Lang], Case]] = {
    "greets and says what it is": _greeting,
    "recalls a fact": _recall,
    "says that it does not know": _beyond,
    "calls the one tool": _tool(1),
    "calls the right one of three": _tool(3),
    "makes the second of two calls": _second_call,
    "answers from an observation": lambda rng, split, lang: _answered(rng, split, lang, error=False),
    "reports an error": lambda rng, split, lang: _answered(rng, split, lang, error=True),
    "says that no tool fits": _no_tool,
    "code: arithmetic": _code(code.arithmetic, code.unary, code.sequence),
    "code: statistics of a list": _code(code.on_list),
    "code: plots": _plot,
    "answers from the output": _result,
}


def cases(category: str, split: Split, lang: Lang, count: int) -> list[Case]:
    """The first `count` cases of a category; the same ones whenever they are asked for."""
    return [CATEGORIES[category](seeded("case", category, split, lang, i), split, lang) for i in range(count)]


def run(program: str, timeout: float = 20.0) -> str:
    """What a program prints, run in a process of its own. The programs are short and computed from our prompts."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip()


def same(printed: str, expected: str) -> bool:
    """Equal text, or equal numbers up to rounding."""
    try:
        return abs(float(printed) - float(expected)) <= 1e-6 * max(1.0, abs(float(expected)))
    except ValueError:
        return printed == expected.strip()
