"""The walls of a box, which are put up around the supervisor before it does anything else.

Modes, of which the program chooses the first that this machine can give:

namespaces  The code sees a file system, processes, users and a network of its own. Seccomp keeps it from the
            parts of the kernel that break most often; Landlock, where there is one, says the same about files
            once more.
landlock    No namespaces, as in most containers: Landlock leaves only some folders, seccomp no sockets but
            Unix ones, no other programs or processes, and no signals to others.
seatbelt    macOS: the box is started by sandbox-exec, and only checks that this holds. See ../seatbelt.py.
unsafe      No walls; only if the user says so.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from . import landlock, seccomp, syscalls

LANDLOCK_NEEDED = 3
"""Before version 3 files outside could be truncated."""


@dataclass(frozen=True)
class Layer:
    """One wall, and whether it stands."""

    name: str
    holds: bool
    detail: str


class WallError(Exception):
    """A wall that this mode needs cannot be put up."""

    def __init__(self, layers: list[Layer]) -> None:
        super().__init__(layers[-1].detail)
        self.layers = layers


class Builder:
    """Puts up walls, and keeps the list of them."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []

    def need(self, name: str, build: Callable[[], object], detail: str) -> None:
        """Put up a wall. Raises WallError."""
        try:
            build()
        except (OSError, KeyError) as error:
            self.layers.append(Layer(name, False, str(error)))
            raise WallError(self.layers) from None
        self.layers.append(Layer(name, True, detail))

    def files(self, readable: list[str], writable: list[str], *, needed: bool) -> None:
        """Landlock."""
        version = landlock.version()
        if version >= (LANDLOCK_NEEDED if needed else 1):
            self.need("landlock", lambda: landlock.restrict(readable, writable), f"version {version}")
        else:
            reason = (
                f"this kernel has version {version}, needed is {LANDLOCK_NEEDED}"
                if version
                else "not in this kernel"
            )
            self.layers.append(Layer("landlock", False, reason))
            if needed:
                raise WallError(self.layers)

    def calls(self) -> None:
        """Seccomp."""
        self.need("seccomp", lambda: seccomp.install(seccomp.base_filter()), "system calls are filtered")


def end_with_parent() -> None:
    """End this process when the thread that started it ends. Linux only."""
    if sys.platform == "linux":
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def hide_from_code() -> None:
    """Keep the memory of this process, which has the same user as the code, from it."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def existing(paths: list[str]) -> list[str]:
    """Those that are there."""
    return [path for path in paths if os.path.exists(path)]
