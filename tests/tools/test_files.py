"""Tools named by a word or a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatglm3.errors import ToolError
from chatglm3.prompt import ToolCall
from chatglm3.tools import Toolbox

PYTHON = '''
from __future__ import annotations
from typing import Annotated
from chatglm3 import tool
from pydantic import BaseModel

class Place(BaseModel):
    city: str

@tool
def get_time(place: Place) -> str:
    """The time somewhere."""
    return f"noon in {place.city}"

@tool(name="双倍")
async def double(n: Annotated[int, "A number"]) -> int:
    """Twice n."""
    return 2 * n

def helper() -> None: ...
'''
YAML = """
- name: get_weather
  description: 查询天气
  parameters:
    type: object
    properties:
      city: {type: string, description: 城市}
    required: [city]
- type: function
  function: {name: track, description: Track a parcel}
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_python_file(tmp_path: Path) -> None:
    with Toolbox(str(written(tmp_path / "my_tools.py", PYTHON))) as toolbox:
        assert [tool.name for tool in toolbox] == ["get_time", "双倍"]
        result = toolbox.call(ToolCall("get_time", {"place": {"city": "Oslo"}}))
        assert result.content == "noon in Oslo"
        assert toolbox.call(ToolCall("双倍", {"n": 4})).content == "8"


@pytest.mark.parametrize("name", ["schema.yaml", "schema.yml"])
def test_a_file_of_definitions_is_manual_mode(tmp_path: Path, name: str) -> None:
    with Toolbox(written(tmp_path / name, YAML)) as toolbox:
        assert [tool.name for tool in toolbox] == ["get_weather", "track"]
        assert not toolbox.runs_anything
        assert toolbox.definitions[0]["parameters"]["properties"]["city"]["description"] == "城市"


def test_json_files(tmp_path: Path) -> None:
    assert len(Toolbox(written(tmp_path / "one.json", '{"name": "a"}'))) == 1
    assert len(Toolbox(written(tmp_path / "two.json", '[{"name": "a"}, {"name": "b"}]'))) == 2


def test_builtin_tools_by_name() -> None:
    assert "shell" not in Toolbox("builtin")
    assert [tool.name for tool in Toolbox("shell", "calculator")] == ["shell", "calculator"]
    with pytest.raises(ToolError, match="two tools are called 'calculator'"):
        Toolbox("builtin", "calculator")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.py", "x = 1", "a.py defines no tools; put @tool"),
        ("a.py", "def", r"a.py cannot be run: SyntaxError"),
        ("a.py", "import sys; sys.exit(1)", "cannot be run: SystemExit"),
        ("a.py", "from chatglm3 import tool\n@tool\ndef f(*args): ...", "write every parameter out"),
        ("a.json", "{", "a.json is not JSON"),
        ("a.yaml", "a: [", "a.yaml is not YAML"),
        ("a.yaml", "just text", "must hold a list of tool definitions"),
        ("a.yaml", "- description: x", "a.yaml: a tool definition needs a name"),
        ("a.json", '{"mcpServers": {"x": {}}}', "'x' needs either a command or a url"),
        ("a.txt", "x", "end in .py, .yaml, .yml or .json, not from"),
    ],
)
def test_files_that_hold_no_tools(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(ToolError, match=complaint):
        Toolbox(written(tmp_path / name, text))


def test_a_name_that_is_neither() -> None:
    with pytest.raises(ToolError, match=r"no tool and no file 'calculater'; built-in tools are calculator, "):
        Toolbox("calculater")
