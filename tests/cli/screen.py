"""A terminal, as far as the tests need one: what a sequence of bytes leaves on the screen and above it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Self

from wcwidth import wcswidth

_STYLE = re.compile(r"\x1b\[[\d;]*m|\x1b\]8;[^\x1b]*\x1b\\")
_MOVE = re.compile(r"\x1b\[(\d*)([AJ])")


# Without it, prompt_toolkit waits for an answer that only a real terminal gives.
_QUIET = {"PROMPT_TOOLKIT_NO_CPR": "1"}


class Screen:
    """Takes printed text, line feeds, returns, `cursor up` and `erase below`: what LiveRegion uses."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.lines = [""]
        self.row = 0

    def write(self, text: str) -> None:
        """Interpret `text`; only whole lines are rewritten, so the column is always 0 when it matters."""
        text = _STYLE.sub("", text)
        while text:
            if move := _MOVE.match(text):
                self._move(int(move[1] or 1) if move[2] == "A" else 0)
                text = text[move.end() :]
            elif text[0] == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
                text = text[1:]
            elif text[0] == "\r":
                text = text[1:]
            else:
                end = min((i for i, c in enumerate(text) if c in "\n\r\x1b"), default=len(text))
                self.lines[self.row] += text[:end]
                assert wcswidth(self.lines[self.row]) <= self.width, (
                    "a line wraps: rows can no longer be counted"
                )
                text = text[end:]

    def _move(self, up: int) -> None:
        if up:
            self.row -= up
            assert self.row >= len(self.lines) - self.height, "the cursor would leave the screen at the top"
        else:
            del self.lines[self.row :]
            self.lines.append("")

    @property
    def text(self) -> str:
        """Everything that can be seen or scrolled to."""
        return "\n".join(self.lines)


class Terminal:
    """The `chatglm3` command in a terminal of its own, driven by a test."""

    def __init__(
        self,
        *words: object,
        home: Path,
        width: int = 80,
        height: int = 24,
        module: str = "chatglm3",
        **env: str,
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=home,
            env={**os.environ, "TERM": "xterm-256color", "XDG_STATE_HOME": str(home), **_QUIET, **env},
            start_new_session=True,
            # Ctrl-C reaches the process only if this is the terminal that controls it.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(slave)
        self._raw = b""
        self._read_to = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def ask(self, keys: str, answer: str) -> None:
        """Wait for the prompt, press keys, wait for `answer`."""
        self.expect("\n>")
        self.type(keys)
        self.expect(answer)

    @property
    def text(self) -> str:
        """All that was printed, without the codes for colours and the cursor."""
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", self._raw.decode("utf-8", errors="ignore"))

    def expect(self, text: str, *, within: float = 60) -> str:
        """Wait until `text` is printed after what was expected before; returns what came in between."""
        deadline = time.monotonic() + within
        while (found := self.text.find(text, self._read_to)) < 0:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            if not (ready and self._receive()):
                raise AssertionError(f"{text!r} did not appear; what did is {self.text[self._read_to :]!r}")
        between = self.text[self._read_to : found]
        self._read_to = found + len(text)
        return between

    def leave(self, keys: str) -> int:
        """Wait for the prompt, press keys that end the program, and return its exit code."""
        self.expect("\n>")
        self.type(keys)
        while select.select([self._master], [], [], 60)[0] and self._receive():
            pass
        return self.process.wait(timeout=60)

    def _receive(self) -> bool:
        """Take what the program has printed; False if it has ended."""
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self._raw += data
        return bool(data)
