"""The prompt format: conversations to ids and loss mask, and replies back to text and tool calls."""

from chatglm3.prompt.calls import ToolCall
from chatglm3.prompt.conversation import check_conversation, conversation
from chatglm3.prompt.message import Message
from chatglm3.prompt.render import (
    TOOL_SYSTEM_PROMPT,
    Rendered,
    attach_tools,
    encode_message,
    render,
    tool_definitions,
    truncate,
)

__all__ = [
    "TOOL_SYSTEM_PROMPT",
    "Message",
    "Rendered",
    "ToolCall",
    "attach_tools",
    "check_conversation",
    "conversation",
    "encode_message",
    "render",
    "tool_definitions",
    "truncate",
]
