"""Reading a message at the terminal: line editing, history, several lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

QUOTES = '"""'


class LineEditor:
    """Asks for messages; `input` and `output` are the terminal unless a test puts others there."""

    def __init__(self, *, input: Input | None = None, output: Output | None = None) -> None:
        self._session: PromptSession[str] = PromptSession(
            message="> ",
            prompt_continuation="  ",
            multiline=True,
            history=_history(),
            key_bindings=_key_bindings(),
            input=input,
            output=output,
        )

    def read(self) -> str:
        """The next message, without the marks that made it span lines.

        Raises EOFError on Ctrl-D and KeyboardInterrupt on Ctrl-C.
        """
        text = self._session.prompt()
        if _is_quoted(text):
            text = text.strip().removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
        return text


def _is_quoted(text: str) -> bool:
    return text.lstrip().startswith(QUOTES)


def _is_complete(buffer: Buffer) -> bool:
    """Whether Enter sends the message: not within quotes, and not after a backslash."""
    text = buffer.text
    if _is_quoted(text):
        rest = text.strip().removeprefix(QUOTES)
        return rest.endswith(QUOTES)
    return not buffer.document.current_line_before_cursor.endswith("\\")


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if _is_complete(buffer):
            buffer.validate_and_handle()
        else:
            if not _is_quoted(buffer.text):
                buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings


def _history() -> History:
    """Earlier messages, kept readable by their owner alone; in memory where the home folder takes no file."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "chatglm3"
    path = folder / "chat_history"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError as error:
        print(f"earlier messages are not kept: {path}: {error.strerror}", file=sys.stderr)
        return InMemoryHistory()
    return FileHistory(str(path))
