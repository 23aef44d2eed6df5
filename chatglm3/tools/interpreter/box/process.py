"""Processes of a box: starting a kernel, what all of them use, and the end of those that must go."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .limits import Limits

_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
_THREADS = "4"
_ROUNDS = 1000  # of killing, 2 ms each
BOOT = "import sys; sys.path.append({code!r}); from box import {module}; sys.path.pop(); {module}.main()"
"""The program, for `python -c`, that runs a module of this package, which lies in the folder `code`."""


@dataclass(frozen=True)
class Place:
    """What the box is like from within."""

    mode: str
    """"namespaces", "landlock" or "unsafe"; see walls.py."""
    python: str
    sites: list[str]
    """Folders of packages, for sys.path."""
    code: str
    """The folder that holds this package."""
    data: str
    """The workspace."""
    runtime: str
    """For the kernel's sockets; a relative path starts at `data`."""
    home: str
    readable: list[str]
    """What Landlock leaves, where it is the wall; writable are the folders above."""
    writable: list[str]
    limits: Limits


@dataclass(frozen=True)
class KernelProcess:
    """A kernel that has been started, and how to reach it."""

    popen: subprocess.Popen[bytes]
    base: str
    key: bytes

    def address(self, channel: str) -> str:
        """Of one of its sockets, as ZeroMQ writes it."""
        return f"ipc://{self.base}-{_CHANNELS.index(channel) + 1}"


def start_kernel(place: Place) -> KernelProcess:
    """Start a kernel process."""
    base, key = f"{place.runtime}/{secrets.token_hex(4)}", secrets.token_hex(32)
    described = {"transport": "ipc", "ip": base, "key": key, "signature_scheme": "hmac-sha256"}
    ports = {f"{channel}_port": number for number, channel in enumerate(_CHANNELS, 1)}
    file = Path(base + ".json")
    file.write_text(json.dumps(described | ports))
    config = json.dumps(asdict(place) | {"connection_file": str(file)})
    command = [place.python, "-I", "-c", BOOT.format(code=place.code, module="kernel"), config]
    popen = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=place.data,
        env=_environment(place),
        start_new_session=True,
    )
    return KernelProcess(popen, base, key.encode())


def _environment(place: Place) -> dict[str, str]:
    return {
        "PATH": f"{os.path.dirname(place.python)}:/usr/local/bin:/usr/bin:/bin",
        "HOME": place.home,
        "USER": "user",
        "LANG": "C.UTF-8",
        "TMPDIR": f"{place.home}/tmp" if place.mode == "landlock" else "/tmp",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": f"{place.home}/matplotlib",
        "IPYTHONDIR": f"{place.home}/ipython",
        "OMP_NUM_THREADS": _THREADS,
        "OPENBLAS_NUM_THREADS": _THREADS,
    }


def kill_all(kernel: KernelProcess, mode: str) -> None:
    """End the kernel and everything it has started. This process must be what orphans fall to."""
    if mode == "namespaces":
        kill_others(None)
    else:
        while found := list(_descendants(os.getpid())):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            reap()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(kernel.popen.pid, signal.SIGKILL)
    kernel.popen.wait()
    reap()


def kill_others(kernel: KernelProcess | None) -> int:
    """As process 1 of a box, end all other processes but the kernel; returns how many there were.

    A fork bomb makes new ones meanwhile, so it is all of them at once or again and again: see `_ROUNDS`.
    """
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        reap()
        others = {pid for pid in _all() if kernel is None or pid != kernel.popen.pid}
        if not others:
            break
        killed |= others
        for pid in others if kernel else (-1,):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    return len(killed)


def reap() -> None:
    """Bury the orphans that have fallen to this process."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def memory_used(kernel: KernelProcess, mode: str, limit: int) -> int:
    """Bytes that the box's processes use. Pages that several share count once, if that could matter."""
    pids = _all() if mode == "namespaces" else [kernel.popen.pid]
    resident = sum(_resident(pid) for pid in pids)
    return resident if resident <= limit else sum(_proportional(pid) for pid in pids)


def deleted_files(kernel: KernelProcess) -> int:
    """Bytes of files that a kernel has open and that are in no folder any more."""
    found: dict[tuple[int, int], int] = {}
    folder = f"/proc/{kernel.popen.pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                status = os.stat(f"{folder}/{name}")
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def _all() -> list[int]:
    """Every process that lives, but this one."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]
    return [pid for pid in pids if _read(f"/proc/{pid}/stat").rpartition(")")[2][1:2] not in ("", "Z", "X")]


def _resident(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE") if fields else 0


def _proportional(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)  # a process may hide its maps


def _descendants(pid: int) -> Iterator[int]:
    """Children and their children. Where there is no /proc, none are known."""
    if sys.platform != "linux":
        return
    for task in _read(f"/proc/{pid}/task/{pid}/children").split():
        yield int(task)
        yield from _descendants(int(task))


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
