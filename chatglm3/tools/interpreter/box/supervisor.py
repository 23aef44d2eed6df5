"""Process 1 of a box: runs cells in a kernel, keeps its time and memory, and moves files in and out.

It obeys the program at the other end of the wire. When that hangs up or dies, it ends, and the box with it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files
from .cell import Cell
from .process import (
    KernelProcess,
    Place,
    deleted_files,
    kill_all,
    kill_others,
    memory_used,
    reap,
    start_kernel,
)
from .wire import Wire, WireError

if TYPE_CHECKING:
    from .client import Kernel

START_SECONDS = 60.0
GRACE_SECONDS = 3.0
"""From an interrupt to the end of the kernel."""
_LATE_SECONDS = 1.0  # for the last outputs after the reply
_TICK, _IDLE_TICK, _EMPTY_TICK = 0.05, 0.25, 5.0


@dataclass
class _Run:
    """A cell on its way."""

    cell: Cell
    code: str
    timeout: float
    deadline: float
    sent: bool = False
    status: str = "ok"
    interrupted_at: float | None = None
    replied_at: float | None = None
    idle: bool = False
    exits: bool = False


class Supervisor:
    """Serves one wire until it is closed."""

    def __init__(self, wire: Wire, parent: int | None, place: Place) -> None:
        self._wire = wire
        self._parent = parent
        self._place = place
        self._kernel: Kernel | None = None
        self._run: _Run | None = None
        self._idle_since = time.monotonic()

    def serve(self) -> None:
        """Serve until the other side hangs up or dies."""
        process = start_kernel(self._place)  # it starts while this process imports what it needs
        try:
            self._connect(process)
            with contextlib.suppress(WireError):
                self._loop()
        finally:
            kill_all(process if self._kernel is None else self._kernel.process, self._place.mode)

    def _loop(self) -> None:
        import zmq

        while True:
            poller = zmq.Poller()
            poller.register(self._wire.fileno(), zmq.POLLIN)
            if self._parent is not None:
                poller.register(self._parent, zmq.POLLIN)
            if self._kernel is not None and self._run is not None:
                poller.register(self._kernel.shell, zmq.POLLIN)
                poller.register(self._kernel.iopub, zmq.POLLIN)
            tick = _TICK if self._run else _IDLE_TICK if self._kernel else _EMPTY_TICK
            ready = dict(poller.poll(int(tick * 1000)))
            if self._parent in ready:
                return
            if self._wire.fileno() in ready:
                self._obey(*self._wire.receive())
            if self._run is not None:
                self._follow(self._run)
            self._watch()

    # Requests

    def _obey(self, request: dict[str, Any], payload: bytes) -> None:
        match request["do"]:
            case "execute":
                self._begin(request["code"], request["timeout"])
            case "interrupt":
                if self._run is not None:
                    self._interrupt(self._run, "interrupted")
            case "put":
                self._answer(
                    lambda: files.put(self._data, request["path"], payload, append=request["append"])
                )
            case "get":
                self._answer(lambda: files.get(self._data, request["path"], request["offset"]))
            case "list":
                self._wire.send({"event": "files", "files": files.listing(self._data)})

    def _answer(self, action: Any) -> None:
        try:
            self._wire.send({"event": "done"}, action() or b"")
        except OSError as error:
            self._wire.send({"event": "failed", "reason": error.strerror or str(error)})

    @property
    def _data(self) -> Path:
        return Path(self._place.data)

    # Cells

    def _begin(self, code: str, timeout: float) -> None:
        cell = Cell("", self._place.limits, self._output)
        self._run = _Run(cell, code, timeout, time.monotonic() + START_SECONDS)
        if self._kernel is None:
            self._connect(start_kernel(self._place))

    def _output(self, kind: str, text: str, data: bytes) -> None:
        self._wire.send({"event": "output", "kind": kind, "text": text}, data)

    def _connect(self, process: KernelProcess) -> None:
        from .client import Kernel

        self._kernel = Kernel(process)
        self._kernel.greet()

    def _follow(self, run: _Run) -> None:
        """Take what the kernel says, and decide whether the cell is over."""
        kernel, now = self._kernel, time.monotonic()
        assert kernel is not None
        if not run.sent:
            for _ in kernel.messages("iopub", ""):
                pass
            if kernel.answered:
                run.cell.id = kernel.execute(run.code)
                run.sent, run.deadline = True, now + run.timeout
        else:
            for kind, content in kernel.messages("iopub", run.cell.id):
                run.idle = run.cell.take(kind, content) or run.idle
            for kind, content in kernel.messages("shell", run.cell.id):
                if kind == "execute_reply":
                    run.replied_at = run.replied_at or now
                    run.exits = run.exits or _exits(content)
        if run.replied_at is not None and (run.idle or now > run.replied_at + _LATE_SECONDS):
            if not run.idle:
                run.cell.note("some output was lost")
            if run.exits:
                self._end_kernel("died")
            else:
                self._finish(run)

    def _interrupt(self, run: _Run, status: str) -> None:
        assert self._kernel is not None
        if run.interrupted_at is None:
            run.status, run.interrupted_at = status, time.monotonic()
            self._kernel.interrupt()

    def _finish(self, run: _Run) -> None:
        if self._place.mode == "namespaces" and self._kernel is not None:
            left = kill_others(self._kernel.process)
            if left:
                run.cell.note(f"processes that were still running were ended: {left}")
        self._run, self._idle_since = None, time.monotonic()
        self._wire.send({"event": "finished", "status": run.status})

    # Time, memory, death

    def _watch(self) -> None:
        kernel, run, now = self._kernel, self._run, time.monotonic()
        if kernel is None:
            return
        code = kernel.process.popen.poll()
        reap()
        limits = self._place.limits
        if code is not None:
            self._end_kernel("died" if run is None or run.interrupted_at is None else run.status)
        elif memory_used(kernel.process, self._place.mode, limits.memory_bytes) > limits.memory_bytes:
            self._end_kernel("memory")
        elif self._disk_is_full(kernel):
            self._end_kernel("disk")
            files.shrink(Path(self._place.home).parent, limits.disk_bytes)
        elif run is not None and run.interrupted_at is not None and now > run.interrupted_at + GRACE_SECONDS:
            self._end_kernel(run.status)
        elif run is not None and now > run.deadline:
            if run.sent:
                self._interrupt(run, "timeout")
            else:
                self._end_kernel("stuck")
        elif run is None and now > self._idle_since + limits.idle_seconds:
            self._end_kernel("idle")

    def _disk_is_full(self, kernel: Kernel) -> bool:
        """In namespaces the file system keeps the limit; elsewhere this does, after the fact."""
        if self._place.mode == "namespaces":
            return False
        used = files.used(Path(self._place.home).parent) + deleted_files(kernel.process)
        return used > self._place.limits.disk_bytes

    def _end_kernel(self, why: str) -> None:
        """End the kernel, and tell; the next cell gets a new one, from which the variables are gone."""
        assert self._kernel is not None
        kill_all(self._kernel.process, self._place.mode)
        self._kernel.close()
        self._kernel = None
        run, self._run, self._idle_since = self._run, None, time.monotonic()
        event: dict[str, Any] = {"event": "restarted", "why": why}
        if run is None:
            self._wire.send(event)
        else:
            self._wire.send({"event": "finished", "status": why, "restarted": True})


def _exits(reply: dict[str, Any]) -> bool:
    """Whether the code has called exit(): the kernel will end, but says so politely and takes its time."""
    payload = reply.get("payload")
    return isinstance(payload, list) and any(
        isinstance(item, dict) and item.get("source") == "ask_exit" for item in payload
    )
