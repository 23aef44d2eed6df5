"""What the embedded model shows a newcomer, offline and greedy: tools called and answered from in two
languages, code that computes and draws."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path
from typing import Annotated

import pytest

from chatglm3 import ChatGLM3
from chatglm3.errors import InterpreterError
from chatglm3.tools import tool

NANO = Path(__file__).resolve().parents[1] / "chatglm3" / "models" / "nano"

pytestmark = pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not in this checkout")


@pytest.fixture(scope="module")
def glm() -> ChatGLM3:
    return ChatGLM3.load("nano", device="cpu")


@tool
def get_weather(city: Annotated[str, "City name"]) -> dict[str, object]:
    """Get the current weather of a city."""
    return {"temperature": 17, "condition": "sunny"}


@pytest.mark.parametrize(
    ("question", "city"),
    [("北京今天的天气怎么样？", "北京"), ("What is the weather like in Paris?", "Paris")],
)
def test_the_weather_is_looked_up_and_told(glm: ChatGLM3, question: str, city: str) -> None:
    done = glm.chat(question, tools=[get_weather], temperature=0)
    assert [result.call.arguments for result in done.results] == [{"city": city}]
    assert "17" in done.content


def test_a_tool_it_has_never_seen_is_called_with_what_the_user_said(glm: ChatGLM3) -> None:
    @tool
    def water_bonsai(name: Annotated[str, "The name of the bonsai"]) -> dict[str, str]:
        """Water a bonsai."""
        return {"soil": "wet"}

    done = glm.chat("Please water the bonsai Grumbo.", tools=[water_bonsai], temperature=0)
    assert [(result.call.name, result.call.arguments) for result in done.results] == [
        ("water_bonsai", {"name": "Grumbo"})
    ]
    assert "wet" in done.content


@pytest.mark.parametrize(
    "question",
    ["求[3, 5, 8, 12]的标准差，并画图", "Compute the standard deviation of [3, 5, 8, 12] and plot it"],
)
def test_a_list_is_measured_and_drawn(glm: ChatGLM3, question: str) -> None:
    try:
        done = glm.chat(question, interpreter=True, temperature=0)
    except InterpreterError as error:
        pytest.skip(str(error))
    images = [image for result in done.results for image in result.images]
    assert images
    assert images[0].data.startswith(b"\x89PNG")
    expected = statistics.pstdev([3, 5, 8, 12])
    printed = done.results[0].content.split()[0]
    assert float(ast.literal_eval(printed)) == pytest.approx(expected)
    assert printed[:5] in done.content
