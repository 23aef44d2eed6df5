"""The first process of a box: puts up the walls and becomes, or waits for, the supervisor.

It is started with the wire as standard input and the process id of the program as its argument.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from . import namespaces, syscalls, walls
from .limits import Limits
from .process import Place
from .supervisor import Supervisor
from .wire import Wire, WireError

_READABLE = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/fonts", "/etc/localtime"]
_DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
_WRITABLE = ["/mnt/data", "/tmp", "/home/user", "/run/kernel", "/dev", "/proc/self"]


def main() -> None:
    """Build the box that the first frame describes, and serve in it."""
    program = int(sys.argv[1])
    wire = Wire(socket.socket(fileno=os.dup(0)))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the code may send it to process 1
    try:
        alive = syscalls.pidfd_open(program) if sys.platform == "linux" else None
        if os.getppid() != program:
            return  # it has died already
        config, _ = wire.receive()
    except (OSError, WireError):
        return
    builder = walls.Builder()
    try:
        match config["mode"]:
            case "namespaces":
                _enter_namespaces(builder, config, wire)
            case "landlock":
                _fence_in(builder, config, wire)
            case "seatbelt":
                _separate(config, wire)
                builder.need(
                    "seatbelt", lambda: _check_seatbelt(config["home"]), "tried: see docs/interpreter.md"
                )
            case _:
                _separate(config, wire)
    except walls.WallError as error:
        wire.send({"event": "refused", "layers": [asdict(layer) for layer in error.layers]})
        return
    place = _place(config)
    os.chdir(place.data)
    wire.send({"event": "built", "layers": [asdict(layer) for layer in builder.layers]})
    if not config["probe"]:
        Supervisor(wire, alive, place).serve()


def _place(config: dict[str, Any]) -> Place:
    inside = config["mode"] == "namespaces"
    folder = config["folder"]
    return Place(
        mode=config["mode"],
        python=config["python"],
        sites=config["sites"],
        code=config["code"],
        data="/mnt/data" if inside else f"{folder}/data",
        runtime="/run/kernel" if inside else "../run",  # a socket's name has 107 bytes at most
        home="/home/user" if inside else f"{folder}/home",
        readable=[*_readable(config), "/proc/self"],
        writable=[] if folder is None else [folder, *_DEVICES],
        limits=Limits(**config["limits"]),
    )


def _enter_namespaces(builder: walls.Builder, config: dict[str, Any], wire: Wire) -> None:
    builder.need("namespaces", namespaces.enter, "its own users, files, processes, network and IPC")
    _fork(wire)
    disk = config["limits"]["disk_bytes"]
    builder.need(
        "root",
        lambda: namespaces.build_root(config["readable"], disk),
        "nothing of this machine but programs",
    )
    builder.need("privileges", namespaces.become_nobody, "none, and no new ones")
    walls.end_with_parent()
    walls.hide_from_code()
    builder.files(["/"], _WRITABLE, needed=False)
    builder.calls()


def _fence_in(builder: walls.Builder, config: dict[str, Any], wire: Wire) -> None:
    folder = config["folder"]
    _fork(wire, folder)
    walls.end_with_parent()
    walls.hide_from_code()
    builder.need("privileges", syscalls.drop_capabilities, "none, and no new ones")
    # The kernel gives up /proc, of which the supervisor needs the kernel's part, by itself; see kernel.py.
    builder.files([*_readable(config), "/proc"], [folder, *_DEVICES], needed=True)
    builder.calls()


def _readable(config: dict[str, Any]) -> list[str]:
    return walls.existing([*_READABLE, *config["readable"]])


def _separate(config: dict[str, Any], wire: Wire) -> None:
    _fork(wire, config["folder"])
    walls.end_with_parent()


def _check_seatbelt(home: str) -> None:
    """Raise OSError unless home, other folders and the network are out of reach."""
    attempts: list[Callable[[], object]] = [
        lambda: os.listdir(home),
        lambda: os.mkdir(f"/private/tmp/chatglm3-{os.getpid()}"),
        lambda: socket.create_connection(("127.0.0.1", 9), 1),
    ]
    for attempt in attempts:
        try:
            attempt()
        except PermissionError:
            continue
        except OSError as error:
            raise OSError(f"not refused, but failed otherwise: {error}") from None
        raise OSError("the profile does not keep code in")


def _fork(wire: Wire, folder: str | None = None) -> None:
    """Go on in a child. This process waits for its end, and then removes the folder."""
    child = os.fork()
    if child == 0:
        return
    wire.close()
    os.waitpid(child, 0)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)
