"""A conversation's folder on disk, for boxes that cannot have a file system of their own.

It goes when the conversation does. If everything that could remove it is killed at once, the next one does: a
lock on the folder says whether somebody still uses it, and ends with the last process that holds it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

_PREFIX = "chatglm3-interpreter-"


def make_folder() -> tuple[str, int]:
    """Make a folder; returns its path and the lock, a descriptor for the processes that use it."""
    _remove_stale()
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    for name in ("data", "run", "home/tmp"):
        Path(folder, name).mkdir(parents=True)
    lock = os.open(folder, os.O_RDONLY)
    _lock(lock)
    return folder, lock


def _remove_stale() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                _lock(descriptor)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock without waiting. Raises OSError if somebody else has it."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
