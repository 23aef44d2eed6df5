"""`chatglm3 doctor`: what this machine and this installation can do, and why not where they cannot."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import sys
from typing import TYPE_CHECKING

from chatglm3.cli.info import aligned

if TYPE_CHECKING:
    from chatglm3.tools.interpreter import Isolation

EPILOG = """\
Isolation is tried, not guessed: each wall around the code interpreter is put up once, as for a conversation.
One working kind is enough, and the first that works is used; docs/interpreter.md says what each keeps.

Exit code 1: something that is installed does not work here.

examples:
  chatglm3 doctor"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG


def run(args: argparse.Namespace) -> int:
    """Look at everything, and say it."""
    extras = _extras()
    isolated, walls = _interpreter(installed=not extras.get("interpreter"))
    sections = {
        "versions": _versions(),
        "devices": _devices(),
        "extras": [
            [name, "yes" if not missing else f"no: pip install 'chatglm3[{name}]' ({', '.join(missing)})"]
            for name, missing in extras.items()
        ],
        "code interpreter": walls,
    }
    print("\n\n".join(f"{title}\n{_indent(aligned(rows))}" for title, rows in sections.items()))
    return 0 if isolated else 1


def _versions() -> list[list[str]]:
    import torch

    from chatglm3 import __version__

    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return [
        ["chatglm3", __version__],
        ["python", f"{platform.python_version()} ({sys.executable})"],
        ["torch", torch.__version__],
        ["system", system],
    ]


def _devices() -> list[list[str]]:
    import torch

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    rows = [["cpu", f"{cores} cores, {torch.get_num_threads()} threads"]]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            rows.append([f"cuda:{number}", f"{found.name}, {found.total_memory / 1e9:.1f} GB"])
    else:
        built = f"none found (torch is built for CUDA {torch.version.cuda})"
        rows.append(["cuda", built if torch.version.cuda else "no: this torch is built without it"])
    if sys.platform == "darwin":
        rows.append(["mps", "yes" if torch.backends.mps.is_available() else "no"])
    return rows


def _extras() -> dict[str, list[str]]:
    """Extra -> the packages of it that are not installed."""
    metadata = importlib.metadata.metadata("chatglm3")
    extras = [name for name in metadata.get_all("Provides-Extra") or [] if name != "dev"]
    return {extra: sorted(_missing(_required(extra))) for extra in sorted(extras)}


def _required(extra: str) -> set[str]:
    """Names of the packages an extra asks for, those of the extras in it included."""
    found: set[str] = set()
    for requirement in importlib.metadata.requires("chatglm3") or []:
        wanted, _, condition = requirement.partition(";")
        if not re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", condition):
            continue
        name = re.match(r"[\w.-]+", wanted)
        inner = re.match(r"chatglm3\[(.+?)\]", wanted)
        if inner:
            found.update(*(_required(part.strip()) for part in inner[1].split(",")))
        elif name:
            found.add(name[0])
    return found


def _missing(names: set[str]) -> list[str]:
    missing = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def _interpreter(*, installed: bool) -> tuple[bool, list[list[str]]]:
    """Whether all is well with the interpreter, and the walls that this machine can put up."""
    from chatglm3.tools.interpreter import isolations

    found = isolations()
    rows = [row for isolation in found for row in _walls(isolation)]
    works = next((isolation.mode for isolation in found if isolation.works), None)
    if not installed:
        return True, [["verdict", "not installed"], *rows]
    if works is None:
        verdict = "refused, unless with --unsafe-interpreter: this machine cannot isolate it"
    else:
        verdict = f"isolated by {works}"
    return works is not None, [["verdict", verdict], *rows]


def _walls(isolation: Isolation) -> list[list[str]]:
    rows = [[isolation.mode, "works" if isolation.works else "does not work"]]
    return rows + [
        [f"  {layer.name}", f"{'yes' if layer.holds else 'no'}: {layer.detail}"] for layer in isolation.layers
    ]


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
