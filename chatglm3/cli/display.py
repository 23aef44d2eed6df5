"""Showing an answer while it is written: Markdown on a terminal, plain text or JSON lines elsewhere."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import asdict
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.text import Text

from chatglm3.chat import Done, Event, ToolImage, Usage
from chatglm3.cli.images import ImageFolder, drawn
from chatglm3.cli.markdown import LiveRegion, MarkdownStream, printable, render
from chatglm3.prompt import CallBegin, CallDelta, CallEnd, TextDelta, ToolCall
from chatglm3.tools import ToolResult

ENDINGS = {
    "length": "cut off: the limit of tokens is reached",
    "rounds": "cut off: it went on calling tools",
    "error": "cut off: the model's output is not a number; try --dtype float32",
}
"""What to say of an answer that did not end by itself, by finish reason."""


class Display(Protocol):
    """Shows the events of one answer after another, in the order in which they come."""

    def show(self, event: Event) -> None:
        """Show one event; `Done` ends an answer."""

    def stopped(self) -> None:
        """End an answer that was stopped before its `Done`."""


class TerminalDisplay:
    """Streaming Markdown; a call folded into one line, its result into a few; numbers below."""

    def __init__(self, console: Console, images: ImageFolder) -> None:
        self._console = console
        self._images = images
        self._text = MarkdownStream(console)
        self._region = LiveRegion(console)
        self._call_name = ""
        self._call_text = ""

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case TextDelta():
                self._text.feed(event.text)
            case CallBegin():
                self._text.finish()
                self._call_name, self._call_text = event.name, ""
                self._region.show([self._line(f"→ {event.name} …")])
            case CallDelta():
                self._call_text += event.text
                last = self._call_text.rstrip().rpartition("\n")[2]
                self._region.show([self._line(f"→ {self._call_name} … {last}")])
            case CallEnd(call=ToolCall() as call):
                self._region.commit([self._line(f"→ {written(call)}")])
            case CallEnd(code=str() as code):
                self._region.commit(render(self._console, f"````python\n{printable(code)}\n````"))
            case CallEnd():
                self._region.commit([self._line(f"→ {' '.join((event.problem or '').split())}")])
            case ToolImage():
                self._console.file.write(drawn(event.image))
                self.note(self._images.keep(event.image))
            case ToolResult():
                self._region.commit([self._line(line) for line in folded(event)])
            case Done():
                self._text.finish()
                self.note(numbers(event))

    def stopped(self) -> None:
        """End an answer that was stopped before its `Done`."""
        self._region.commit([])
        self._text.finish()
        self.note("stopped; the part above stays in the conversation")

    def note(self, text: str) -> None:
        """A dim line of the program's own."""
        self._console.print(Text(text, style="dim"))

    def _line(self, text: str) -> str:
        """One line of the terminal's width, dim."""
        line = Text(printable(text).expandtabs(4), style="dim")
        line.truncate(self._console.width - 1, overflow="ellipsis")
        with self._console.capture() as captured:
            self._console.print(line, end="", soft_wrap=True)
        return captured.get()


class PlainDisplay:
    """The text as it is and calls that wait for an answer, for pipes and for terminals without a cursor.

    A terminal is told of calls and their results as well.
    """

    def __init__(self, file: TextIO, images: ImageFolder) -> None:
        self._file = file
        self._images = images
        self._at_line_start = True

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case TextDelta():
                self._write(event.text)
            case CallBegin():
                self._end_line()
            case CallEnd(call=ToolCall() as call) if self._file.isatty():
                self._write(f"→ {written(call)}\n")
            case CallEnd(code=str() as code) if self._file.isatty():
                self._write(f"{code}\n")
            case ToolImage():
                print(self._images.keep(event.image), file=self._file if self._file.isatty() else sys.stderr)
            case ToolResult() if self._file.isatty():
                self._write("".join(f"{line}\n" for line in folded(event)))
            case Done() if self._file.isatty():
                self._end_line()
                self._write(f"{numbers(event)}\n")
            case Done():
                self._end_line()
                for call in event.tool_calls:
                    self._write(f"{written(call)}\n")
                if event.code is not None:
                    self._write(f"{event.code}\n")

    def stopped(self) -> None:
        """End an answer that was stopped before its `Done`."""
        self._end_line()

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            self._file.write(printable(text) if self._file.isatty() else text)
            self._file.flush()
            self._at_line_start = text.endswith("\n")


class JsonDisplay:
    """One JSON object a line: text as it comes, each call when it is complete, and `done` with all of it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def show(self, event: Event) -> None:
        """Write one event."""
        match event:
            case TextDelta():
                self._write(event="text", text=event.text)
            case CallEnd(call=ToolCall() as call):
                self._write(event="call", name=call.name, arguments=call.arguments)
            case CallEnd(code=str() as code):
                self._write(event="code", code=code)
            case CallEnd():
                self._write(event="problem", problem=event.problem)
            case ToolImage():
                data = base64.b64encode(event.image.data).decode()
                self._write(event="image", mime_type=event.image.mime_type, data=data)
            case ToolResult():
                self._write(
                    event="result",
                    name=event.name,
                    content=event.content,
                    is_error=event.is_error,
                    seconds=round(event.seconds, 4),
                )
            case Done():
                calls = [{"name": call.name, "arguments": call.arguments} for call in event.tool_calls]
                self._write(
                    event="done",
                    content=event.content,
                    tool_calls=calls,
                    code=event.code,
                    problems=event.reply.problems,
                    finish_reason=event.finish_reason,
                    usage=_usage(event.usage),
                )

    def stopped(self) -> None:
        """End an answer that was stopped before its `Done`."""
        self._write(event="stopped")

    def _write(self, **record: Any) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()


def _usage(usage: Usage) -> dict[str, float]:
    fields = asdict(usage) | {"tokens_per_second": usage.tokens_per_second}
    return {name: round(value, 4) for name, value in fields.items()}


def written(call: ToolCall) -> str:
    """A call in one line: `get_weather(city='北京')`."""
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


def folded(result: ToolResult) -> list[str]:
    """How a call ended, the first lines of what it gave, and how many were left out."""
    lines = [line for line in result.content.splitlines() if line.strip()]
    shown = [f"{'✗' if result.is_error else '✓'} {result.name} · {result.seconds:.1f} s"]
    shown += [f"  {line}" for line in lines[:_RESULT_LINES]]
    if len(lines) > _RESULT_LINES:
        shown.append(f"  … lines left out: {len(lines) - _RESULT_LINES}")
    return shown


_RESULT_LINES = 4


def numbers(done: Done) -> str:
    """What an answer took, in one line; below it, what the reader should know of its end."""
    usage = done.usage
    parts = [
        f"{usage.completion_tokens} tokens",
        f"{usage.tokens_per_second:.1f} tokens/s",
        f"prompt {usage.prompt_tokens}",
        f"first token after {usage.first_token_seconds:.2f} s",
    ]
    lines = [" · ".join(parts)]
    if done.finish_reason in ENDINGS:
        lines.append(ENDINGS[done.finish_reason])
    if done.dropped:
        lines.append(f"the oldest {done.dropped} messages no longer fit the context and were left out")
    return "\n".join(lines)
