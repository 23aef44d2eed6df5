"""One kernel, seen from the supervisor: its process, and Jupyter's messages to and from it.

The channels are Unix sockets within the box. The code shares the kernel's process, and so its key: a message
that verifies may still be forged. What it can achieve is confined to its own cell; see `Kernel.messages`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any, Literal

import zmq
from jupyter_client.session import Session

from .process import KernelProcess

_MAX_MESSAGE = 64 << 20
_BATCH = 100


class Kernel:
    """A running kernel, and its shell and iopub channels."""

    def __init__(self, process: KernelProcess) -> None:
        self.process = process
        self.answered = False
        """Whether anything has come from its iopub channel: only then will outputs."""
        self._session = Session(key=process.key)
        self._context = zmq.Context()
        self.shell = self._connect(zmq.DEALER, process.address("shell"))
        self.iopub = self._connect(zmq.SUB, process.address("iopub"))
        self.iopub.subscribe(b"")

    def _connect(self, kind: int, address: str) -> zmq.Socket[bytes]:
        channel: zmq.Socket[bytes] = self._context.socket(kind)
        channel.linger = 0
        channel.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE)
        channel.setsockopt(zmq.RECONNECT_IVL, 10)
        channel.connect(address)
        return channel

    def greet(self) -> None:
        """Ask for any answer, to see whether the kernel is there."""
        self._session.send(self.shell, "kernel_info_request", {})

    def execute(self, code: str) -> str:
        """Begin to run a cell, and return the id that its messages will refer to."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "allow_stdin": False,
            "stop_on_error": False,
        }
        message = self._session.msg("execute_request", content)
        self._session.send(self.shell, message)
        return str(message["header"]["msg_id"])

    def messages(self, channel: Literal["shell", "iopub"], cell: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Kind and content of the messages that have come for a cell, a batch of them at most.

        Whatever is not signed, not well-formed or for another cell is dropped.
        """
        waiting = self.shell if channel == "shell" else self.iopub
        for _ in range(_BATCH):
            try:
                _, message = self._session.recv(waiting, mode=zmq.NOBLOCK)
                if message is None:
                    return
                self.answered = self.answered or channel == "iopub"
                kind, content = message["msg_type"], message["content"]
                parent = message["parent_header"].get("msg_id")
            except Exception:  # forged; there is no end to what it may raise
                continue
            if parent == cell and isinstance(kind, str) and isinstance(content, dict):
                yield kind, content

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.popen.pid, signal.SIGINT)

    def close(self) -> None:
        """Forget a kernel that has ended."""
        self._context.destroy(linger=0)
