"""The shipped model really chats, calls a tool, writes code and remembers; and it is small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from chatglm3.attention import packed_batch
from chatglm3.checkpoint import load_model
from chatglm3.engine import Engine, SamplingParams
from chatglm3.prompt import Message, Reply, ReplyDecoder, render
from chatglm3.tokenizer import Tokenizer
from recipes.nano import cases
from recipes.nano.code import SYSTEMS
from recipes.nano.evaluation import reference_ids
from recipes.nano.settings import PACKAGE_DATA
from recipes.nano.tools import TOOL_SYSTEM

Ask = Callable[..., Reply]
WEATHER = {
    "name": "get_weather",
    "description": "Get the current weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The name of the city"}},
        "required": ["city"],
    },
}


@pytest.fixture(scope="module")
def ask() -> Ask:
    tokenizer = Tokenizer(PACKAGE_DATA)
    engine = Engine(load_model(PACKAGE_DATA, dtype=torch.float32), valid_vocab=tokenizer.vocab_size)
    greedy = SamplingParams(temperature=0, max_tokens=150, stop_ids=tokenizer.stop_ids)

    def reply(*messages: dict[str, Any]) -> Reply:
        prompt = render([Message.from_dict(m) for m in messages], tokenizer).ids
        decoder = ReplyDecoder(tokenizer, [t["name"] for t in messages[0].get("tools", [])])
        for token in engine.generate([prompt], greedy)[0][0].content_ids:
            decoder.add(token)
        return decoder.finish()[1]

    return reply


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_the_package_stays_small() -> None:
    assert sum(f.stat().st_size for f in PACKAGE_DATA.iterdir()) <= 16e6


@pytest.mark.parametrize("text", ["Hello!", "Who are you?", "你好", "你是谁？"])
def test_it_greets_and_says_what_it_is(ask: Ask, text: str) -> None:
    assert "nano" in ask(user(text)).content


@pytest.mark.parametrize(
    ("told", "answer", "asked", "value"),
    [
        ("My name is Anna.", "Nice to meet you, Anna!", "What's my name?", "Anna"),
        ("我叫李明。", "很高兴认识你，李明！", "我叫什么名字？", "李明"),
    ],
)
def test_it_remembers_a_name(ask: Ask, told: str, answer: str, asked: str, value: str) -> None:
    small_talk = [user("thanks"), {"role": "assistant", "content": "You're welcome!"}]
    history = [user(told), {"role": "assistant", "content": answer}, *small_talk]
    assert value in ask(*history, user(asked)).content


@pytest.mark.parametrize(
    ("text", "city"), [("What's the weather in Paris?", "Paris"), ("北京今天的天气怎么样？", "北京")]
)
def test_it_calls_a_tool_and_answers_from_the_result(ask: Ask, text: str, city: str) -> None:
    system = {"role": "system", "content": TOOL_SYSTEM, "tools": [WEATHER]}
    reply = ask(system, user(text))
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("get_weather", {"city": city})]
    call = reply.messages[0].to_dict()
    result = {"role": "observation", "content": '{"temperature": 17, "condition": "sunny"}'}
    answer = ask(system, user(text), call, result)
    assert not answer.tool_calls
    assert "17" in answer.content


@pytest.mark.parametrize(("text", "printed"), [("What is 23*47?", "1081"), ("计算[3, 5, 10]的平均值", "6.0")])
def test_it_writes_code_that_computes(ask: Ask, text: str, printed: str) -> None:
    reply = ask({"role": "system", "content": SYSTEMS[0]}, user(text))
    assert reply.code is not None
    assert cases.run(reply.code) == printed


def test_it_says_what_it_does_not_know(ask: Ask) -> None:
    assert "don't know" in ask(user("Explain quantum physics")).content
    assert "不知道" in ask(user("解释一下量子物理")).content


def test_engine_and_plain_path_agree() -> None:
    tokenizer = Tokenizer(PACKAGE_DATA)
    model = load_model(PACKAGE_DATA, dtype=torch.float32)
    prompt = render([Message("user", "Hello!")], tokenizer).ids
    greedy = SamplingParams(temperature=0, max_tokens=60, stop_ids=tokenizer.stop_ids)
    engine = Engine(model, num_blocks=64)
    assert engine.generate([prompt], greedy)[0][0].content_ids == reference_ids(
        model, prompt, tokenizer.stop_ids, 60
    )
    logits = model.logits(
        model(torch.tensor(prompt), torch.arange(len(prompt)), packed_batch(model.config, [len(prompt)]))
    )
    assert bool(torch.isfinite(logits).all())
