"""The workspace's files. The code may have put links, pipes or anything else there: none is followed."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Any

CHUNK = 8 << 20
_MOST_FILES = 1000


def put(folder: Path, name: str, data: bytes, *, append: bool) -> None:
    """Write a file, or go on writing it. Raises OSError."""
    path = _inside(folder, name)
    if append:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(path, flags), "ab") as file:
            file.write(data)
        return
    draft = folder / f".{secrets.token_hex(8)}"
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def listing(folder: Path) -> list[dict[str, Any]]:
    """Regular files below the folder: path from there, size, time of the last change."""
    found = [item for item in _all(folder) if stat.S_ISREG(item[1].st_mode)]
    return [
        {"path": str(path.relative_to(folder)), "size": status.st_size, "changed": status.st_mtime}
        for path, status in sorted(found)[:_MOST_FILES]
    ]


def get(folder: Path, name: str, offset: int) -> bytes:
    """A chunk of a file. Raises OSError."""
    path = _inside(folder, name)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{name} is not a regular file")
        file.seek(offset)
        return file.read(CHUNK)


def used(folder: Path) -> int:
    """Bytes that all files below a folder take."""
    return sum(status.st_blocks * 512 for _, status in _all(folder))


def shrink(folder: Path, most: int) -> None:
    """Remove files below a folder, the newest first, until no more than `most` bytes are left."""
    found = sorted(_all(folder), key=lambda item: item[1].st_mtime, reverse=True)
    left = sum(status.st_blocks * 512 for _, status in found)
    for path, status in found:
        if left <= most:
            return
        path.unlink(missing_ok=True)
        left -= status.st_blocks * 512


def _all(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(OSError):
                found.append((path, path.lstat()))
    return found


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    parent = path.parent.resolve()
    if parent != folder.resolve() and folder.resolve() not in parent.parents:
        raise OSError(f"{name} is outside of the workspace")
    return parent / path.name
