"""`chatglm3 chat`: a conversation at the terminal, or one question through a pipe."""

from __future__ import annotations

import argparse
import contextlib
import functools
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeAlias

from chatglm3.cli.arguments import (
    add_model,
    add_sampling,
    add_tools,
    describe,
    load,
    read_stdin,
    sampling_params,
)
from chatglm3.errors import ChatGLM3Error, InvalidMessageError

if TYPE_CHECKING:
    from chatglm3.chat import Event
    from chatglm3.cli.conversation import Conversation
    from chatglm3.cli.display import Display
    from chatglm3.cli.tools import Stop

Ask: TypeAlias = "Callable[..., Iterator[Event]]"
"""ChatGLM3.stream, with the tools given."""

EPILOG = """\
At the terminal, each message gets an answer; /help lists what else can be typed, among it
clear (forget the conversation), stop (leave) and /set temperature 0.5. Ctrl-C stops an answer,
Ctrl-D leaves.

When something is piped in, all of it is one message, and the answer is all that is printed.
With --json the answer is one JSON object a line: {"event": "text", "text": ...} for each piece,
{"event": "call", "name": ..., "arguments": ...} or {"event": "code", "code": ...} for a tool call,
{"event": "image", "mime_type": ..., "data": base64} and {"event": "result", "name": ..., "content": ...,
"is_error": ..., "seconds": ...} for what it gave, and at the end {"event": "done", "content": ...,
"finish_reason": "stop" | "length" | "rounds", "usage": ...} with all of it.

Before a tool writes or runs something you are asked. Where nobody can be asked, in a pipe or with --json,
such a call is refused, and the model is told; --yes lets all run. The tools of an MCP server count as
such, unless it says that they only read. What tools print goes to standard error.

examples:
  chatglm3 chat
  chatglm3 chat chatglm3-6b --quantize int4 --system "Answer in one sentence."
  chatglm3 chat --tools builtin,my_tools.py --interpreter
  chatglm3 chat --mcp "npx -y @modelcontextprotocol/server-filesystem ." --mcp-config mcp.json
  echo 你好 | chatglm3 chat
  chatglm3 chat --json --temperature 0 < question.txt | tail -n 1"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add_model(parser, default="nano")
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")
    parser.add_argument("--json", action="store_true", help="answer in JSON, one object a line")
    add_tools(parser)
    add_sampling(parser)


def run(args: argparse.Namespace) -> int:
    """Talk until the person leaves, or answer what was piped in."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not args.json
    question = "" if interactive else read_stdin()
    if not interactive and not question.strip():
        raise InvalidMessageError("there is no question: nothing came in through standard input")
    sampling = sampling_params(args)

    from chatglm3.cli.tools import Person, Stop, open_tools, own_stdout, refuse

    stop, person = Stop(), Person() if interactive else None
    with open_tools(args, stop, person.observe if person else None) as tools:
        if interactive:
            print(f"loading {args.model} ...", end="\r", flush=True)
        model = load(args)

        from chatglm3.cli.conversation import Conversation

        conversation = Conversation(sampling, args.system, tools.interpreter)
        approve = person.approve if person else refuse
        ask = functools.partial(
            model.stream,
            tools=tools.toolbox,
            strict_tools=args.strict_tools,
            approve=None if args.yes else approve,
        )
        if interactive:
            loaded = model.loaded
            dtype = str(loaded.dtype).removeprefix("torch.")
            print(f"{loaded.name} on {loaded.device}, {dtype}. /help explains, Ctrl-D leaves.")
            if offered := str(tools):
                print(f"tools: {offered}")
            _talk(ask, conversation, stop, _display(args, sys.stdout))
        else:
            with own_stdout() as output:
                display = _display(args, output)
                for event in ask(question, history=conversation.messages, sampling=sampling):
                    display.show(event)
    return 0


def _display(args: argparse.Namespace, file: TextIO) -> Display:
    """How answers are shown."""
    from rich.console import Console

    from chatglm3.cli.display import JsonDisplay, PlainDisplay, TerminalDisplay
    from chatglm3.cli.images import ImageFolder

    if args.json:
        return JsonDisplay(file)
    images = ImageFolder(Path(args.images).expanduser())
    console = Console(file=file, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalDisplay(console, images)
    return PlainDisplay(file, images)


def _talk(ask: Ask, conversation: Conversation, stop: Stop, display: Display) -> None:
    """Read, answer, until the person leaves."""
    from chatglm3.cli.conversation import LeaveError
    from chatglm3.cli.line_editor import LineEditor

    editor = LineEditor()
    while True:
        try:
            line = editor.read()
            if not line.strip():
                continue
            said = conversation.command(line)
            if said is None:
                _answer(ask, conversation, line.strip(), stop, display)
            else:
                print(said)
        except KeyboardInterrupt:
            print("Ctrl-D leaves.")
        except (EOFError, LeaveError):
            return
        except (ChatGLM3Error, OSError) as error:
            print(f"error: {describe(error)}")


def _answer(ask: Ask, conversation: Conversation, line: str, stop: Stop, display: Display) -> None:
    """Answer one message. The conversation goes on with the answer, or with the part before a Ctrl-C."""
    from chatglm3.chat import Done, Unfinished
    from chatglm3.prompt import Message

    question = conversation.uploads + line
    unfinished = Unfinished()
    with _stoppable(stop):
        events = ask(question, history=conversation.messages, sampling=conversation.sampling, overflow="drop")
        try:
            for event in events:
                display.show(event)
                if isinstance(event, Done):
                    conversation.messages, conversation.uploads = event.history, ""
                    return
                unfinished.add(event)
                if stop.is_wanted:
                    break
        except KeyboardInterrupt:
            pass
        finally:
            events.close()  # type: ignore[attr-defined]
    display.stopped()
    if unfinished.messages:
        conversation.messages = [*conversation.messages, Message("user", question), *unfinished.messages]
        conversation.uploads = ""


@contextlib.contextmanager
def _stoppable(stop: Stop) -> Iterator[None]:
    """Ctrl-C stops an answer and not the program.

    What is typed meanwhile is not echoed into the answer; it waits for the next prompt.
    """
    stop.is_wanted = False
    previous = signal.signal(signal.SIGINT, stop.interrupt)
    terminal = sys.stdin.fileno()
    modes = termios.tcgetattr(terminal)
    silent = [*modes]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, modes)
        signal.signal(signal.SIGINT, previous)
