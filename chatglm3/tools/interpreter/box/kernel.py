"""The kernel: ipykernel, with its last walls around it and a limit on what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from .limits import Limits
from .walls import end_with_parent

_OPEN_FILES = 256
_MAPPED = 4 << 30  # files, and what threads reserve
_UNTOUCHED = 256 << 20
"""Memory that threads reserve and do not use. What is used is the supervisor's to count: a kernel that stays
at its limit could not even run `del`, and is better started anew."""


def main() -> None:
    """Run a kernel until it is ended. The argument is JSON, see supervisor._start."""
    config = json.loads(sys.argv[1])
    limits = Limits(**config["limits"])
    _confine(limits, config)
    for site in config["sites"]:
        if site not in sys.path:
            sys.path.append(site)
    _run(config["connection_file"], limits)


def _confine(limits: Limits, config: dict[str, Any]) -> None:
    mode = config["mode"]
    end_with_parent()
    with contextlib.suppress(OSError):  # if the machine runs out of memory, this is what has to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(10)
    most = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_DATA: limits.memory_bytes + _UNTOUCHED,
        resource.RLIMIT_FSIZE: limits.disk_bytes,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
    }
    if mode == "namespaces":  # elsewhere it would count everything of this user
        most[resource.RLIMIT_NPROC] = limits.processes
    else:
        most[resource.RLIMIT_AS] = limits.memory_bytes + _MAPPED
    for kind, value in most.items():
        resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that is too large is an error, not the end
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if mode == "landlock":
        from . import landlock, seccomp

        landlock.restrict(config["readable"], config["writable"])
        seccomp.install(seccomp.single_process_filter(os.getpid()))


def _run(connection_file: str, limits: Limits) -> None:
    from ipykernel import kernelapp
    from traitlets.config import Config

    from .stream import LimitedStream, make_publisher

    LimitedStream.allow(2 * limits.output_chars)
    config = Config()
    config.IPKernelApp.connection_file = connection_file
    config.IPKernelApp.outstream_class = f"{LimitedStream.__module__}.LimitedStream"
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.xmode = "Plain"
    config.HistoryManager.enabled = False
    kernelapp.IOPubThread = make_publisher  # type: ignore[attr-defined, assignment]
    app = kernelapp.IPKernelApp.instance(config=config)
    app.initialize([])
    assert app.shell is not None
    # IPython 9 keeps a copy of all that is printed, for ever.
    app.shell._tee = lambda channel: contextlib.nullcontext()
    app.shell.events.register("pre_run_cell", LimitedStream.renew)
    app.start()
