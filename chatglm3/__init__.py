"""ChatGLM3 on today's PyTorch.

    >>> from chatglm3 import ChatGLM3
    >>> glm = ChatGLM3.load()          # the embedded nano; or "zai-org/chatglm3-6b", or a folder
    >>> print(glm.chat("你好").content)

`AutoTokenizer` and `AutoModel` run the code of the original README with only the import changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chatglm3.errors import ChatGLM3Error

if TYPE_CHECKING:
    from chatglm3.chat import ChatGLM3, Done, Event, ToolImage, Usage
    from chatglm3.compat import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
    from chatglm3.engine import GREEDY, SamplingParams
    from chatglm3.prompt import CallBegin, CallDelta, CallEnd, Message, TextDelta, ToolCall
    from chatglm3.tools import McpServer, Tool, Toolbox, ToolResult, tool

__version__ = "0.1.0"

_HOMES = {
    "chat": ("ChatGLM3", "Done", "Event", "ToolImage", "Usage"),
    "compat": ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer"),
    "engine": ("GREEDY", "SamplingParams"),
    "prompt": ("CallBegin", "CallDelta", "CallEnd", "Message", "TextDelta", "ToolCall"),
    "tools": ("McpServer", "Tool", "ToolResult", "Toolbox", "tool"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "GREEDY",
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "CallBegin",
    "CallDelta",
    "CallEnd",
    "ChatGLM3",
    "ChatGLM3Error",
    "Done",
    "Event",
    "McpServer",
    "Message",
    "SamplingParams",
    "TextDelta",
    "Tool",
    "ToolCall",
    "ToolImage",
    "ToolResult",
    "Toolbox",
    "Usage",
    "tool",
]


def __getattr__(name: str) -> Any:
    # PyTorch takes a second to import, which `chatglm3 --help` and a look at the version need not pay.
    if name not in _HOME:
        raise AttributeError(f"module 'chatglm3' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"chatglm3.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
