"""The examples run, with the embedded model."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from chatglm3.prompt import ToolCall
from chatglm3.tools import Toolbox

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NANO = Path(__file__).resolve().parents[1] / "chatglm3" / "models" / "nano"


def test_the_tools_of_the_example() -> None:
    with Toolbox(EXAMPLES / "my_tools.py") as toolbox:
        price = toolbox.call(ToolCall("get_price", {"item": "tea"}))
        assert price.content == '{"item": "tea", "euros": 3.5}'
        assert toolbox.call(ToolCall("get_price", {"item": "milk"})).is_error
        order = toolbox.call(ToolCall("place_order", {"item": "tea", "count": 2}))
        assert order.content.endswith(": 2 small tea")
        assert [tool.name for tool in toolbox if tool.needs_approval] == ["place_order"]


def test_every_example_can_be_imported() -> None:
    for path in sorted(EXAMPLES.glob("*.py")):
        runpy.run_path(str(path), run_name="example")


@pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model is not in this checkout")
def test_the_agent_answers_every_question() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "agent.py")],
        check=False,
        input="你好\nHow much is a tea?\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.removeprefix("> 你好\n").split("> How much is a tea?\n")
    assert first.strip()
    assert second.strip()
