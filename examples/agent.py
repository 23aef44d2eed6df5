"""A conversation with tools in the terminal: `python examples/agent.py [MODEL] < questions.txt`.

What the model says is printed as it comes, with each call and its result below; a tool that needs approval is
run after a question only.
"""

from __future__ import annotations

import sys
from pathlib import Path

from chatglm3 import CallEnd, ChatGLM3, Done, Message, TextDelta, Toolbox, ToolCall, ToolResult

TOOLS = Path(__file__).with_name("my_tools.py")


def approve(call: ToolCall) -> bool:
    return input(f"  run {call.name}({call.arguments})? [y/n] ").strip().lower() == "y"


def main(model: str = "nano") -> None:
    glm = ChatGLM3.load(model)
    history: list[Message] = []
    with Toolbox("calculator", "current_time", TOOLS) as toolbox:
        for question in map(str.strip, sys.stdin):
            print(f"> {question}")
            for event in glm.stream(
                question, history=history, tools=toolbox, approve=approve, overflow="drop"
            ):
                match event:
                    case TextDelta():
                        print(event.text, end="", flush=True)
                    case CallEnd(call=ToolCall() as call):
                        print(f"  → {call.name} {call.arguments}")
                    case ToolResult():
                        print(f"  ← {event.content} ({event.seconds:.1f} s)")
                    case Done():
                        history = event.history
                        print()


if __name__ == "__main__":
    main(*sys.argv[1:])
