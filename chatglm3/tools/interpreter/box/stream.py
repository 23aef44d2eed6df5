"""The kernel's stdout and stderr: what is printed beyond a limit is dropped at its source."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from ipykernel.iostream import IOPubThread, OutStream

_KERNEL = os.getpid()


class LimitedStream(OutStream):
    """An OutStream, so that a flood of output does not become one of messages.

    ipykernel makes both streams, from the name of this class: the limit is the class's, for both together.
    """

    most: ClassVar[int]
    """Characters of one cell."""
    left: ClassVar[int]

    def write(self, string: str) -> int:
        """Write what is still allowed; the rest counts as written."""
        if not isinstance(string, str) or not string:
            return super().write(string) or 0
        allowed = string[: LimitedStream.left]
        LimitedStream.left -= len(allowed)
        if os.getpid() != _KERNEL:
            # See make_publisher. What goes to the descriptors comes home as well, through a pipe.
            os.write(2 if self.name == "stderr" else 1, allowed.encode(errors="replace"))
        elif allowed:
            super().write(allowed)
        return len(string)

    @classmethod
    def allow(cls, most: int) -> None:
        """Set the limit."""
        LimitedStream.most = LimitedStream.left = most

    @classmethod
    def renew(cls, *_: object) -> None:
        """A new cell begins."""
        LimitedStream.left = LimitedStream.most


def make_publisher(socket: Any, pipe: bool = False, **options: Any) -> IOPubThread:
    """An IOPubThread without the TCP port by which forked processes would send home what they print."""
    return IOPubThread(socket, pipe=False, **options)
