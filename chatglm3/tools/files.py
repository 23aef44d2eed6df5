"""Tools that are named by a word or a file."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatglm3.errors import ChatGLM3Error, ToolError
from chatglm3.tools.function import Tool
from chatglm3.tools.mcp import McpServer


def from_name(name: str | Path) -> Sequence[Tool | McpServer]:
    """The tools that a name stands for: a built-in tool's, "builtin", or a file's.

    - `.py`: the `@tool` functions of that file, which is run
    - `.yaml`, `.yml`, `.json`: a list of definitions, or an object with `mcpServers`, the form in which MCP
      programs share their servers
    """
    from chatglm3.tools.builtin import ALL, HARMLESS

    path = Path(name).expanduser()
    if str(name) == "builtin":
        return HARMLESS
    if isinstance(name, str) and name in ALL:
        return [ALL[name]]
    if not path.is_file():
        raise ToolError(
            f"there is no tool and no file {str(name)!r}; built-in tools are {', '.join(ALL)}, and 'builtin' "
            "is all of them but those that run programs"
        )
    if path.suffix == ".py":
        return _from_python(path)
    if path.suffix in (".yaml", ".yml", ".json"):
        return _from_data(path)
    raise ToolError(f"tools come from files that end in .py, .yaml, .yml or .json, not from {path}")


def _from_python(path: Path) -> list[Tool]:
    name = f"chatglm3_tools_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pydantic look up annotations
    try:
        spec.loader.exec_module(module)
    except ChatGLM3Error:
        raise
    except (Exception, SystemExit) as error:
        raise ToolError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    found = {id(value): value for value in vars(module).values() if isinstance(value, Tool)}
    if not found:
        raise ToolError(f"{path} defines no tools; put @tool, from chatglm3 import tool, above its functions")
    return [replace(item, source=str(path)) for item in found.values()]


def _from_data(path: Path) -> list[Tool | McpServer]:
    data = _read(path)
    servers = data.get("mcpServers") if isinstance(data, dict) else None
    if isinstance(servers, dict):
        return [McpServer.from_config(name, entry) for name, entry in servers.items()]
    if isinstance(data, dict) and "name" in data:
        data = [data]
    if not isinstance(data, list):
        raise ToolError(f"{path} must hold a list of tool definitions, or an object with 'mcpServers'")
    try:
        return [Tool.from_definition(item, source=str(path)) for item in data]
    except ChatGLM3Error as error:
        raise ToolError(f"{path}: {error}") from None


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        import yaml

        return yaml.safe_load(text)
    except ModuleNotFoundError:
        raise ToolError(f"{path} needs the package 'PyYAML': pip install 'chatglm3[tools]'") from None
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ToolError(f"{path} is not JSON ({error})") from None
    except yaml.YAMLError as error:
        raise ToolError(f"{path} is not YAML ({error})") from None
