"""The embedded model with tools: whatever it says, the loop holds together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest

from chatglm3 import ChatGLM3, Done, Message
from chatglm3.prompt import render
from chatglm3.tools import Toolbox, tool

NANO = Path(__file__).resolve().parents[1] / "chatglm3" / "models" / "nano"

pytestmark = pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not in this checkout")


@pytest.fixture(scope="module")
def glm() -> ChatGLM3:
    return ChatGLM3.load("nano", device="cpu")


def get_weather(city: Annotated[str, "The city's name"]) -> dict[str, object]:
    """Get the current weather of a city."""
    return {"weather": "晴", "temperature": 3}


@tool
def lookup_invoice(number: Annotated[str, "The number of the invoice"]) -> dict[str, object]:
    """Find an invoice by its number."""
    return {"total": 120, "paid": True}


QUESTIONS = [
    ("北京今天的天气怎么样？", [get_weather]),
    ("What is the weather in Paris?", [get_weather]),
    ("Find the invoice with the number A17.", [lookup_invoice, get_weather]),
    ("你好", [get_weather]),
]


@pytest.mark.parametrize(("question", "tools"), QUESTIONS)
def test_questions_are_answered_and_every_call_is_observed(glm: ChatGLM3, question: str, tools: list) -> None:
    done = glm.chat(question, tools=tools, temperature=0, max_tokens=120, max_rounds=3)
    assert done.finish_reason in ("stop", "rounds", "length")
    assert done.content or done.finish_reason != "stop"
    observations = [message.content for message in done.history if message.role == "observation"]
    assert observations == [result.content for result in done.results]
    for before, message in zip(done.history, done.history[1:]):
        assert before.metadata or message.role != "observation"
    asked = done.history[: len(done.history) - len(done.reply.messages)]
    assert asked[-1].role in ("user", "observation")
    ids = render(asked, glm.tokenizer, tools=Toolbox(*tools).definitions).ids
    assert done.usage.prompt_tokens == len(ids)


def test_an_observation_by_hand_is_answered(glm: ChatGLM3) -> None:
    """The README's tool example: a system message with tools, a call, and the caller's observation."""
    definitions = Toolbox(get_weather).definitions
    history = [Message("system", "Answer the following questions.", tools=definitions)]
    done: Done = glm.chat("What is the weather in Paris?", history=history, temperature=0, max_tokens=120)
    assert done.history[-1].role == "assistant"
    if done.tool_calls:
        done = glm.chat(
            Message("observation", '{"temperature": 3}'), history=done.history, temperature=0, max_tokens=120
        )
    assert done.finish_reason in ("stop", "length")
    assert done.results == []
