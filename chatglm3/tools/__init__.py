"""Tools: from functions, files and MCP servers; their schemas, their calls and their results."""

from chatglm3.tools.function import Tool, tool
from chatglm3.tools.mcp import McpServer
from chatglm3.tools.output import Image, ToolOutput, ToolResult, cut
from chatglm3.tools.toolbox import Approve, Source, Toolbox

__all__ = [
    "Approve",
    "Image",
    "McpServer",
    "Source",
    "Tool",
    "ToolOutput",
    "ToolResult",
    "Toolbox",
    "cut",
    "tool",
]
