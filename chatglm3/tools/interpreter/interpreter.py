"""A code interpreter for one conversation: a Jupyter kernel in a box, and files that both sides see."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import threading
import time
import weakref
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from chatglm3.errors import InterpreterError
from chatglm3.tools.interpreter.box.files import CHUNK
from chatglm3.tools.interpreter.box.limits import Limits
from chatglm3.tools.interpreter.box.supervisor import GRACE_SECONDS, START_SECONDS
from chatglm3.tools.interpreter.box.walls import Layer
from chatglm3.tools.interpreter.box.wire import WireError
from chatglm3.tools.interpreter.isolation import best_isolation, isolations
from chatglm3.tools.interpreter.outputs import KINDS, STATUSES, Execution, Output, Status, join, remark
from chatglm3.tools.interpreter.starter import Box

_SLACK_SECONDS = 10.0  # for a supervisor on a busy machine
_NEEDED = ("ipykernel", "jupyter_client")
_RESTARTED = "The interpreter was restarted while no code ran: variables are gone, files are still there"
_LOST = "The interpreter was started anew: variables and files are gone"
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class File:
    """A file of the workspace."""

    path: str
    """Below the workspace, with / between folders."""
    size: int
    changed: float
    """Seconds since 1970."""


class Interpreter:
    """Runs Python for one conversation, in a kernel that keeps its variables from cell to cell.

    limits: what the code may use.
    unsafe: where this machine can give no isolation, run the code with the rights of this program.

    Nothing is started before it is needed. A context manager: leaving it ends all processes and removes all
    files, as do garbage collection and the end of this program, however it comes. Threads may share one.
    """

    def __init__(self, limits: Limits | None = None, *, unsafe: bool = False) -> None:
        self.limits = limits or Limits()
        if wrong := [name for name, value in asdict(self.limits).items() if value <= 0]:
            raise InterpreterError(f"{wrong[0]} is {getattr(self.limits, wrong[0])}, but must be above 0")
        self._unsafe = unsafe
        self._boxes: list[Box] = []  # one at most; a list, so that `close` need not refer to self
        self._lock = threading.RLock()
        self._untold: list[str] = []  # what has happened since the last cell
        self.close = weakref.finalize(self, _close, self._boxes)
        """End it. Calling it again does nothing."""

    def __enter__(self) -> Interpreter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def layers(self) -> list[Layer]:
        """The walls around the code."""
        with self._lock:
            return self._started().layers

    @property
    def workspace(self) -> str:
        """The folder of the conversation's files, as the code sees it: /mnt/data, where that can be."""
        with self._lock:
            return self._started().workspace

    def start(self) -> None:
        """Start the kernel now, so that the first cell need not wait. Raises InterpreterError."""
        with self._lock:
            self._started()

    def execute(self, code: str, timeout: float = 60.0) -> Execution:
        """Run one cell and wait for its end; it is interrupted, and then ended, after `timeout` seconds.

        Whatever the code does is told in the result. KeyboardInterrupt interrupts the cell. Raises
        InterpreterError if there is no interpreter.
        """
        if not timeout > 0:
            raise InterpreterError(f"timeout is {timeout}, but must be above 0 seconds")
        started = time.monotonic()
        with self._lock:
            box = self._started()
            collected = _Collected(self.limits, self._untold)
            self._untold = []
            deadline = started + START_SECONDS + timeout + GRACE_SECONDS + _SLACK_SECONDS
            try:
                box.wire.send({"do": "execute", "code": code, "timeout": timeout}, deadline=deadline)
                end = self._collect(box, collected, deadline)
            except WireError:
                self._drop(box)
                end = {"status": "died", "restarted": True, "files_lost": True}
            except BaseException:
                self._abandon(box)
                raise
        status: Status = end["status"]
        restarted, files_lost = bool(end.get("restarted")), bool(end.get("files_lost"))
        outputs = collected.outputs
        if text := remark(status, restarted=restarted, files_lost=files_lost, timeout=timeout):
            outputs.append(Output("notice", text))
        return Execution(join(outputs), status, restarted, files_lost, time.monotonic() - started)

    def interrupt(self) -> None:
        """Interrupt the running cell, from another thread; without one, nothing happens."""
        for box in list(self._boxes):
            with contextlib.suppress(WireError):
                box.wire.send({"do": "interrupt"}, deadline=time.monotonic() + _SLACK_SECONDS)

    def upload(self, name: str, data: bytes) -> str:
        """Put a file into the workspace, over one of the same name, and return its path as the code sees it.

        Raises InterpreterError if there is no room for it or its name cannot be used.
        """
        name = _file_name(name)
        chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)] or [b""]
        with self._lock:
            for number, chunk in enumerate(chunks):
                self._ask({"do": "put", "path": name, "append": number > 0}, chunk, what=name)
            return f"{self._started().workspace}/{name}"

    def files(self) -> list[File]:
        """The files of the workspace, a thousand at most."""
        with self._lock:
            answer, _ = self._ask({"do": "list"})
        try:
            return [File(str(f["path"]), int(f["size"]), float(f["changed"])) for f in answer["files"]]
        except (KeyError, TypeError, ValueError):
            raise InterpreterError("the interpreter's list of files cannot be read") from None

    def fetch(self, path: str) -> bytes:
        """A file of the workspace; `path` from there, or as the code sees it. Raises InterpreterError."""
        data = bytearray()
        with self._lock:
            inside = path.removeprefix(f"{self._started().workspace}/")
            while len(data) <= self.limits.disk_bytes:
                request = {"do": "get", "path": inside, "offset": len(data)}
                _, chunk = self._ask(request, what=path)
                data += chunk
                if not chunk:
                    return bytes(data)
        raise InterpreterError(f"{path!r} is larger than {self.limits.disk_bytes} bytes")

    def _started(self) -> Box:
        if not self.close.alive:
            raise InterpreterError("this interpreter has been closed; make a new one")
        if not self._boxes:
            self._boxes.append(Box(_mode(self._unsafe), self.limits))
        return self._boxes[0]

    def _collect(self, box: Box, collected: _Collected, deadline: float) -> dict[str, Any]:
        """Take outputs until the cell is finished."""
        while True:
            event, data = box.wire.receive(deadline=deadline)
            match event.get("event"):
                case "output":
                    collected.add(event, data)
                case "restarted":
                    collected.outputs.append(Output("notice", _RESTARTED))
                case "finished" if event.get("status") in STATUSES:
                    return event
                case _:
                    raise WireError("nonsense")

    def _abandon(self, box: Box) -> None:
        """The caller no longer waits: end the cell, and take what it still says."""
        deadline = time.monotonic() + GRACE_SECONDS + _SLACK_SECONDS
        try:
            box.wire.send({"do": "interrupt"}, deadline=deadline)
            self._collect(box, _Collected(self.limits, []), deadline)
        except WireError:
            self._drop(box)

    def _ask(
        self, request: dict[str, Any], payload: bytes = b"", what: str = ""
    ) -> tuple[dict[str, Any], bytes]:
        box = self._started()
        deadline = time.monotonic() + START_SECONDS
        try:
            box.wire.send(request, payload, deadline=deadline)
            while True:
                answer, data = box.wire.receive(deadline=deadline)
                if answer.get("event") != "restarted":
                    break
                self._untold.append(_RESTARTED)
        except WireError as error:
            self._drop(box)
            self._untold.append(_LOST)
            raise InterpreterError(f"the interpreter ended, and its files are gone ({error})") from None
        if answer.get("event") == "failed":
            raise InterpreterError(f"{what}: {answer.get('reason')}")
        return answer, data

    def _drop(self, box: Box) -> None:
        box.close()
        self._boxes.clear()


class _Collected:
    """The outputs of a cell. The supervisor keeps the limits; if it has been taken over, this does."""

    def __init__(self, limits: Limits, notices: list[str]) -> None:
        self.outputs = [Output("notice", notice) for notice in notices]
        self._left = 8 * limits.output_chars + limits.images * limits.image_bytes + (1 << 20)

    def add(self, event: dict[str, Any], data: bytes) -> None:
        """Take one output. Raises WireError for what cannot come from an honest supervisor."""
        kind, text = event.get("kind"), event.get("text")
        self._left -= 64 + len(data) + (len(text) if isinstance(text, str) else 0)
        if kind not in KINDS or not isinstance(text, str) or self._left < 0:
            raise WireError("nonsense")
        if (kind == "image") != data.startswith(_PNG):
            raise WireError("nonsense")
        self.outputs.append(Output(kind, text, data))


def _mode(unsafe: bool) -> str:
    """How to isolate here. Raises InterpreterError if that, or what a kernel needs, is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InterpreterError(
            f"the code interpreter needs {' and '.join(missing)}: pip install 'chatglm3[interpreter]'"
        )
    if found := best_isolation():
        return found.mode
    if unsafe:
        return "unsafe"
    reasons = "; ".join(f"{found.mode}: {found.reason}" for found in isolations()) or "no way for this system"
    raise InterpreterError(
        f"this machine cannot isolate code ({reasons}); see `chatglm3 doctor`, or let the code run with your "
        "own rights: --unsafe-interpreter, or Interpreter(unsafe=True)"
    )


def _file_name(name: str) -> str:
    """The last part of a path, without what would break a line or a path."""
    plain = re.sub(r"[\x00-\x1f\x7f/\\]", "_", name.rstrip("/").rpartition("/")[2])
    if plain in ("", ".", "..") or len(plain.encode("utf-8", errors="replace")) > 200:
        raise InterpreterError(f"a file cannot be called {name!r:.80}; give it a name of 1 to 200 bytes")
    return plain


def _close(boxes: list[Box]) -> None:
    while boxes:
        boxes.pop().close()
