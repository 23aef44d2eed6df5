"""The kernel's stdout and stderr: what is printed beyond a limit is dropped at its source."""

from __future__ import annotations

import os
from typing import ClassVar

from ipykernel.iostream import OutStream

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
            # ipykernel would use TCP to bring home what a forked process prints; what goes to the descriptors
            # comes home as well, through a pipe.
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
