"""Starting a box: the process, the wire to it, and its walls."""

from __future__ import annotations

import os
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chatglm3.errors import InterpreterError
from chatglm3.tools.interpreter.box.limits import Limits
from chatglm3.tools.interpreter.box.process import BOOT
from chatglm3.tools.interpreter.box.walls import Layer
from chatglm3.tools.interpreter.box.wire import Wire, WireError
from chatglm3.tools.interpreter.folder import make_folder
from chatglm3.tools.interpreter.seatbelt import SANDBOX_EXEC, profile

_START_SECONDS = 30.0
_END_SECONDS = 3.0


class Box:
    """A box that stands, with a supervisor in it that answers on `wire`.

    mode: see box/walls.py. probe: only put up the walls and end.
    Raises InterpreterError if the walls cannot be put up; its `layers` say which.
    """

    def __init__(self, mode: str, limits: Limits, *, probe: bool = False) -> None:
        self._owner = os.getpid()
        self._folder: str | None = None
        lock: int | None = None
        if mode != "namespaces":
            self._folder, lock = make_folder()
        self.workspace = f"{self._folder}/data" if self._folder else "/mnt/data"
        ours, theirs = socket.socketpair()
        code = str(Path(__file__).parent)
        sites = _sites()
        readable = sorted({*_python_folders(), *sites, code})
        command = [sys.executable, "-I", "-c", BOOT.format(code=code, module="launch"), str(os.getpid())]
        if mode == "seatbelt" and self._folder:
            command = [SANDBOX_EXEC, "-p", profile(readable, os.path.realpath(self._folder)), *command]
        self.wire = Wire(ours)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                pass_fds=() if lock is None else (lock,),
                start_new_session=True,
            )
        finally:
            theirs.close()
            if lock is not None:
                os.close(lock)
        config = {
            "mode": mode,
            "probe": probe,
            "limits": asdict(limits),
            "python": sys.executable,
            "sites": sites,
            "readable": readable,
            "code": code,
            "folder": self._folder,
            "home": str(Path.home()),
        }
        try:
            self.layers = self._agree(config)
        except BaseException:
            self.close()
            raise

    def _agree(self, config: dict[str, Any]) -> list[Layer]:
        deadline = time.monotonic() + _START_SECONDS
        try:
            self.wire.send(config, deadline=deadline)
            answer, _ = self.wire.receive(deadline=deadline)
        except WireError as error:
            raise WallsError([Layer("process", False, str(error))]) from None
        layers = [Layer(**layer) for layer in answer["layers"]]
        if answer["event"] != "built":
            raise WallsError(layers)
        return layers

    def close(self) -> None:
        """End all processes and remove all files. Calling it again does nothing."""
        self.wire.close()  # on which the supervisor ends by itself
        if os.getpid() != self._owner:
            return  # a forked child closes what it has inherited, and no more
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class WallsError(InterpreterError):
    """The walls of a box cannot be put up."""

    def __init__(self, layers: list[Layer]) -> None:
        missing = [layer for layer in layers if not layer.holds]
        super().__init__("; ".join(f"{layer.name}: {layer.detail}" for layer in missing))
        self.layers = layers


def _python_folders() -> set[str]:
    """What this Python needs of the file system besides the system's own folders."""
    paths = {sys.prefix, sys.base_prefix, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))}
    return {path for path in paths if os.path.isdir(path)}


def _sites() -> list[str]:
    """Where packages are installed; the user's own folder too, if this Python uses it."""
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    return [folder for folder in folders if folder in sys.path and os.path.isdir(folder)]
