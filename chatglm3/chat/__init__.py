"""Messages in, events out: the Python API over one model, with its tools.

    text -> conversation() -> render() -> Engine -> ReplyDecoder -> TextDelta | CallBegin | ... -> Done
                 ^                                                        |
                 └────── observation <── ToolResult <── Toolbox <── call ─┘

`replies.py` is the upper line, one reply of the model; `loop.py` closes the circle; `api.py` is ChatGLM3, the
convenience around both.
"""

from chatglm3.chat.api import ChatGLM3, Continuation, Messages
from chatglm3.chat.events import Done, EndReason, Event, ToolImage, Usage
from chatglm3.chat.replies import Overflow
from chatglm3.chat.transcript import load_transcript, save_transcript
from chatglm3.chat.unfinished import Unfinished

__all__ = [
    "ChatGLM3",
    "Continuation",
    "Done",
    "EndReason",
    "Event",
    "Messages",
    "Overflow",
    "ToolImage",
    "Unfinished",
    "Usage",
    "load_transcript",
    "save_transcript",
]
