"""`chatglm3 chat`: a conversation at the terminal, or one question through a pipe."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import termios
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chatglm3.cli.arguments import add_model, add_sampling, describe, load, read_stdin, sampling_params
from chatglm3.errors import ChatGLM3Error, InvalidMessageError

if TYPE_CHECKING:
    from types import FrameType

    from chatglm3.chat import ChatGLM3
    from chatglm3.cli.conversation import Conversation
    from chatglm3.cli.display import Display

EPILOG = """\
At the terminal, each message gets an answer; /help lists what else can be typed, among it
clear (forget the conversation), stop (leave) and /set temperature 0.5. Ctrl-C stops an answer,
Ctrl-D leaves.

When something is piped in, all of it is one message, and the answer is all that is printed.
With --json the answer is one JSON object a line: {"event": "text", "text": ...} for each piece,
{"event": "call", "name": ..., "arguments": ...} for a tool call, and at the end
{"event": "done", "content": ..., "finish_reason": "stop" | "length", "usage": ...} with all of it.

examples:
  chatglm3 chat
  chatglm3 chat chatglm3-6b --quantize int4 --system "Answer in one sentence."
  echo 你好 | chatglm3 chat
  chatglm3 chat --json --temperature 0 < question.txt | tail -n 1"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add_model(parser, default="nano")
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")
    parser.add_argument("--json", action="store_true", help="answer in JSON, one object a line")
    add_sampling(parser)


def run(args: argparse.Namespace) -> int:
    """Talk until the person leaves, or answer what was piped in."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not args.json
    question = "" if interactive else read_stdin()
    if not interactive and not question.strip():
        raise InvalidMessageError("there is no question: nothing came in through standard input")
    if interactive:
        print(f"loading {args.model} ...", end="\r", flush=True)
    sampling = sampling_params(args)
    model = load(args)

    from chatglm3.cli.conversation import Conversation

    conversation = Conversation(sampling, args.system)
    if interactive:
        _talk(model, conversation)
    else:
        display = _display(args.json)
        for event in model.stream(question, history=conversation.messages, sampling=sampling):
            display.show(event)
    return 0


def _display(as_json: bool) -> Display:
    """How answers are shown on this standard output."""
    from rich.console import Console

    from chatglm3.cli.display import JsonDisplay, PlainDisplay, TerminalDisplay

    if as_json:
        return JsonDisplay(sys.stdout)
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalDisplay(console)
    return PlainDisplay(sys.stdout)


def _talk(model: ChatGLM3, conversation: Conversation) -> None:
    """Read, answer, until the person leaves."""
    from chatglm3.cli.conversation import LeaveError
    from chatglm3.cli.line_editor import LineEditor

    display = _display(as_json=False)
    editor = LineEditor()
    loaded = model.loaded
    dtype = str(loaded.dtype).removeprefix("torch.")
    print(f"{loaded.name} on {loaded.device}, {dtype}. /help explains, Ctrl-D leaves.")
    while True:
        try:
            line = editor.read()
            if not line.strip():
                continue
            said = conversation.command(line)
            if said is None:
                _answer(model, conversation, line.strip(), display)
            else:
                print(said)
        except KeyboardInterrupt:
            print("Ctrl-D leaves.")
        except (EOFError, LeaveError):
            return
        except (ChatGLM3Error, OSError) as error:
            print(f"error: {describe(error)}")


def _answer(model: ChatGLM3, conversation: Conversation, question: str, display: Display) -> None:
    """Answer one message. The conversation goes on with the answer, or with the part before a Ctrl-C."""
    from chatglm3.chat import Done
    from chatglm3.prompt import Message, TextDelta

    said: list[str] = []
    with _stoppable() as stop:
        events = model.stream(
            question, history=conversation.messages, sampling=conversation.sampling, overflow="drop"
        )
        try:
            for event in events:
                display.show(event)
                if isinstance(event, Done):
                    conversation.messages = event.history
                    return
                if isinstance(event, TextDelta):
                    said.append(event.text)
                if stop.is_set():
                    break
        except KeyboardInterrupt:
            pass
        finally:
            events.close()  # type: ignore[attr-defined]
    display.stopped()
    if said:
        exchange = [Message("user", question), Message("assistant", "".join(said))]
        conversation.messages = [*conversation.messages, *exchange]


@contextlib.contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that the engine finishes its step; a second one raises KeyboardInterrupt.

    What is typed meanwhile is not echoed into the answer; it waits for the next prompt.
    """
    stop = threading.Event()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = signal.signal(signal.SIGINT, interrupt)
    terminal = sys.stdin.fileno()
    modes = termios.tcgetattr(terminal)
    silent = [*modes]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield stop
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, modes)
        signal.signal(signal.SIGINT, previous)
