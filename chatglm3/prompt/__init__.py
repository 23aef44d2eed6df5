"""The prompt format: conversations to ids and loss mask, and replies back to text and tool calls."""

from chatglm3.prompt.calls import ToolCall
from chatglm3.prompt.conversation import check_conversation, conversation
from chatglm3.prompt.message import INTERPRETER, Message
from chatglm3.prompt.render import (
    TOOL_SYSTEM_PROMPT,
    Rendered,
    attach_tools,
    encode_message,
    render,
    tool_definitions,
    truncate,
)
from chatglm3.prompt.reply import (
    CallBegin,
    CallDelta,
    CallEnd,
    Event,
    Reply,
    ReplyDecoder,
    ReplyParser,
    TextDelta,
    parse_reply,
    published_answer,
    published_history,
)

__all__ = [
    "INTERPRETER",
    "TOOL_SYSTEM_PROMPT",
    "CallBegin",
    "CallDelta",
    "CallEnd",
    "Event",
    "Message",
    "Rendered",
    "Reply",
    "ReplyDecoder",
    "ReplyParser",
    "TextDelta",
    "ToolCall",
    "attach_tools",
    "check_conversation",
    "conversation",
    "encode_message",
    "parse_reply",
    "published_answer",
    "published_history",
    "render",
    "tool_definitions",
    "truncate",
]
