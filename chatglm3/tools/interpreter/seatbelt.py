"""Isolation on macOS: a profile for sandbox-exec, which refuses all that it does not name.

Not yet tried on a Mac: what it forgets to allow makes the interpreter fail to start. That it keeps code in is
checked by the box itself, see launch.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

SANDBOX_EXEC = "/usr/bin/sandbox-exec"
_SYSTEM = ("/usr", "/bin", "/System", "/Library/Frameworks", "/opt/homebrew", "/private/var/db/timezone")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

_PROFILE = """\
(version 1)
(deny default)
(allow process-fork)
(allow signal (target same-sandbox))
(allow sysctl-read)
(allow file-read-metadata)
(allow file-read* process-exec file-map-executable {readable})
(allow file-read* file-write-data {devices})
(allow file-read* file-write* {folder})
(allow network-bind network-inbound network-outbound (local unix-socket) (remote unix-socket {folder}))
"""


def profile(readable: Iterable[str], folder: str) -> str:
    """The profile of a box with this folder, in the language of sandbox-exec."""
    return _PROFILE.format(
        readable=" ".join(_below(path) for path in (*_SYSTEM, *readable)),
        devices=" ".join(f"(literal {json.dumps(path)})" for path in _DEVICES),
        folder=_below(folder),
    )


def _below(path: str) -> str:
    return f"(subpath {json.dumps(path, ensure_ascii=False)})"
