"""The tools of `chatglm3 chat`: what its flags open, and what the person at the terminal does about them."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from chatglm3.prompt import INTERPRETER, ToolCall
from chatglm3.tools import Approve, McpServer, Source, Tool, Toolbox, ToolResult

if TYPE_CHECKING:
    from types import FrameType

    from chatglm3.tools.interpreter import Interpreter


class Stop:
    """Whether the person wants an answer to stop: heard between two steps of the model, or at once."""

    def __init__(self) -> None:
        self.is_wanted = False
        self._at_once = False

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        """Ctrl-C: the engine finishes its step; while tools run, or at the second one, KeyboardInterrupt."""
        wanted_before, self.is_wanted = self.is_wanted, True
        if wanted_before or self._at_once:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """While tools run: KeyboardInterrupt now. They may take long, and the model takes no steps."""
        if self.is_wanted:
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False


class AttendedToolbox(Toolbox):
    """Tools with a person beside them, who stops them and answers the calls of definitions without code.

    observe: asks for what such a call gives; None: they are handed out, as in a Toolbox.
    """

    def __init__(
        self,
        *sources: Source,
        stop: Stop,
        observe: Callable[[ToolCall], str] | None = None,
        interpreter: Tool | None = None,
    ) -> None:
        super().__init__(*sources, interpreter=interpreter)
        self._stop = stop
        self._observe = observe

    @property
    def runs_anything(self) -> bool:
        """Whether any call gets an answer."""
        return super().runs_anything or (self._observe is not None and len(self) > 0)

    def answers(self, name: str) -> bool:
        """Whether calls of this name get an answer, from a program or from the person."""
        return super().answers(name) or self._is_answered_by_hand(name)

    def run(self, calls: Sequence[ToolCall], *, approve: Approve | None = None) -> Generator[ToolResult]:
        """Run all calls; the person answers first."""
        with self._stop.at_once():
            others = []
            for index, call in enumerate(calls):
                if self._observe is not None and self._is_answered_by_hand(call.name):
                    started = time.monotonic()
                    content = self._observe(call)
                    yield ToolResult(index, call.name, call, content, time.monotonic() - started)
                else:
                    others.append(index)
            with contextlib.closing(super().run([calls[i] for i in others], approve=approve)) as results:
                for result in results:
                    yield replace(result, index=others[result.index])

    def _is_answered_by_hand(self, name: str) -> bool:
        return self._observe is not None and name in self and self[name].function is None


@dataclass(frozen=True)
class OpenTools:
    """What the flags have opened."""

    toolbox: AttendedToolbox
    interpreter: Interpreter | None
    isolation: str | None
    """The kind of walls around the interpreter; None: there are none."""

    def __str__(self) -> str:
        parts = [", ".join(tool.name for tool in self.toolbox)] if len(self.toolbox) else []
        if self.interpreter is not None:
            walls = f"isolated by {self.isolation}" if self.isolation else "NOT isolated"
            parts.append(f"code interpreter ({walls}; /upload gives it a file)")
        return "; ".join(parts)


@contextlib.contextmanager
def open_tools(
    args: argparse.Namespace, stop: Stop, observe: Callable[[ToolCall], str] | None
) -> Iterator[OpenTools]:
    """Open what `add_tools`'s flags name, and end it afterwards. Raises ToolError or InterpreterError."""
    with contextlib.ExitStack() as stack:
        interpreter, runner, isolation = None, None, None
        if args.interpreter or args.unsafe_interpreter:
            from chatglm3.tools.interpreter import Interpreter, best_isolation, interpreter_tool

            interpreter = stack.enter_context(Interpreter(unsafe=args.unsafe_interpreter))
            runner = interpreter_tool(interpreter)
            found = best_isolation()
            isolation = found.mode if found else None
            runner = replace(runner, needs_approval=isolation is None)
        sources = [*args.tools, *map(McpServer.parse, args.mcp), *map(Path, args.mcp_config)]
        toolbox = AttendedToolbox(*sources, stop=stop, observe=observe, interpreter=runner)
        yield OpenTools(stack.enter_context(toolbox), interpreter, isolation)  # type: ignore[arg-type]


class Person:
    """Whoever sits at the terminal: is asked before tools that write or run, and for results by hand."""

    def __init__(self) -> None:
        self._always: set[str] = set()

    def approve(self, call: ToolCall) -> bool:
        """Ask whether to run a call, until the answer is one."""
        if call.name in self._always:
            return True
        _show(call)
        while True:
            try:
                answer = _ask(f"run {call.name}? [y]es, [n]o, [a]lways: ").strip().lower()
            except EOFError:
                answer = "n"
            if answer in ("a", "always"):
                self._always.add(call.name)
            if answer in ("y", "yes", "a", "always"):
                return True
            if answer in ("n", "no"):
                return False

    def observe(self, call: ToolCall) -> str:
        """Ask for what a call gives. Ctrl-D stops the answer, as Ctrl-C does."""
        _show(call)
        try:
            return _ask(f"result of {call.name}: ")
        except EOFError:
            raise KeyboardInterrupt from None


def refuse(call: ToolCall) -> bool:
    """Nobody can be asked: the call is not run, and the model is told."""
    from chatglm3.cli.display import written

    print(f"not run without being asked for, see --yes: {written(call)}", file=sys.stderr)
    return False


def _show(call: ToolCall) -> None:
    """All of a call, on as many lines as it takes; of the interpreter's, the code is on the screen."""
    from chatglm3.cli.display import written
    from chatglm3.cli.markdown import printable

    if call.name != INTERPRETER:
        print(printable(written(call)))


def _ask(question: str) -> str:
    """A line from the person; what was typed before the question was seen is no answer to it."""
    import termios

    from prompt_toolkit import PromptSession
    from prompt_toolkit.input.typeahead import clear_typeahead

    session: PromptSession[str] = PromptSession(question)
    clear_typeahead(session.app.input)
    termios.tcflush(session.app.input.fileno(), termios.TCIFLUSH)
    return session.prompt()


@contextlib.contextmanager
def own_stdout() -> Iterator[TextIO]:
    """Standard output for answers alone: what tools print, or programs they start, goes to stderr."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        try:
            descriptor = answers.fileno()
        except io.UnsupportedOperation:  # a program that runs this command has put its own object there
            yield answers
            return
        answers.flush()
        kept = os.dup(descriptor)
        os.dup2(sys.stderr.fileno(), descriptor)
        try:
            with open(kept, "w", encoding="utf-8", errors="replace", closefd=False) as own:
                yield own
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)
