"""An answer while it is being written, as steps to draw."""

from __future__ import annotations

import json
from dataclasses import dataclass

from chatglm3.chat import Event, ToolImage
from chatglm3.prompt import CallBegin, CallDelta, CallEnd, TextDelta, ToolCall
from chatglm3.tools import ToolResult
from chatglm3.web.conversation import Step


@dataclass(frozen=True)
class Begun:
    """The question is part of the conversation, and the model has been asked."""


@dataclass(frozen=True)
class ApprovalWanted:
    """A tool that writes or runs something is to be called: the person decides, see Session.approve."""

    call: ToolCall


class LiveSteps:
    """`add` every event and draw `steps`."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._calls: dict[int, Step] = {}

    def add(self, event: Event) -> None:
        """Take an event in."""
        match event:
            case TextDelta():
                if not (self.steps and self.steps[-1].kind == "text"):
                    self.steps.append(Step("text"))
                self.steps[-1].text += event.text
            case CallBegin():
                self._calls[event.index] = Step("call", name=event.name, status="writing")
                self.steps.append(self._calls[event.index])
            case CallDelta():
                self._calls[event.index].text += event.text
            case CallEnd():
                step = self._calls[event.index]
                step.status = "running"
                if event.call is not None:
                    step.text = json.dumps(event.call.arguments, ensure_ascii=False, indent=2)
                elif event.code is not None:
                    step.text = event.code
            case ToolImage():
                self._calls[event.index].images.append(event.image)
            case ToolResult():
                step = self._calls[event.index]
                step.result, step.seconds = event.content, event.seconds
                step.status = "error" if event.is_error else "done"
