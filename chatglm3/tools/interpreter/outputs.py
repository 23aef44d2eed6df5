"""What a cell gives back, and how the model reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

OutputKind = Literal["stdout", "stderr", "result", "image", "error", "notice"]
KINDS: tuple[str, ...] = get_args(OutputKind)

Status = Literal["ok", "timeout", "interrupted", "died", "memory", "disk", "stuck"]
STATUSES: tuple[str, ...] = get_args(Status)

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LOST = "The interpreter was restarted: variables are gone, files are still there"


@dataclass(frozen=True)
class Output:
    """One output of a cell."""

    kind: OutputKind
    """result: the value of the last line; error: a traceback; notice: a remark of the interpreter."""
    text: str = ""
    data: bytes = field(default=b"", repr=False)
    """Of an image: PNG."""


@dataclass(frozen=True)
class Execution:
    """A cell that has been run."""

    outputs: list[Output]
    """In the order in which they came; neighbours of one kind are put together."""
    status: Status
    """"ok" also for code that raised an error."""
    restarted: bool
    """Whether the kernel had to be ended: variables are gone."""
    files_lost: bool
    """Whether the workspace is gone as well."""
    seconds: float

    @property
    def is_error(self) -> bool:
        """Whether the code raised an error, or did not come to its end."""
        return self.status != "ok" or any(output.kind == "error" for output in self.outputs)

    @property
    def images(self) -> list[bytes]:
        """All pictures, as PNG."""
        return [output.data for output in self.outputs if output.kind == "image"]

    def text(self, kind: OutputKind) -> str:
        """All text of one kind."""
        return "".join(output.text for output in self.outputs if output.kind == kind)


def observation(execution: Execution) -> str:
    """What the model is told: the text of all outputs in order, and `[Image]` for each picture."""
    parts = []
    for output in execution.outputs:
        match output.kind:
            case "image":
                parts.append("[Image]")
            case "notice":
                parts.append(f"[{output.text}]")
            case _:
                parts.append(output.text.rstrip("\n"))
    return "\n".join(part for part in parts if part)


def remark(status: Status, *, restarted: bool, files_lost: bool, timeout: float) -> str | None:
    """What has to be said about how a cell ended."""
    said = {
        "ok": None,
        "timeout": f"The code was stopped after {timeout:g} seconds",
        "interrupted": "The user stopped the code",
        "died": "The Python process ended while it ran the code",
        "memory": "The code used more memory than there is for it",
        "disk": "The code wrote more than there is room for, and its newest files were removed",
        "stuck": "The interpreter did not start in time",
    }[status]
    lost = _LOST if restarted and not files_lost else None
    if files_lost:
        lost = "The interpreter was started anew: variables and files are gone"
    return ". ".join(part for part in (said, lost) if part) or None


def clean(text: str) -> str:
    """Text without colours and other control characters; what a progress bar overwrote is left out."""
    text = _ESCAPES.sub("", text).replace("\r\n", "\n")
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return _CONTROLS.sub("", text).encode("utf-8", errors="replace").decode()


def join(outputs: list[Output]) -> list[Output]:
    """Put neighbouring texts of one kind together, and clean them."""
    joined: list[Output] = []
    for output in outputs:
        if joined and output.kind in ("stdout", "stderr") and joined[-1].kind == output.kind:
            joined[-1] = Output(output.kind, joined[-1].text + output.text)
        else:
            joined.append(output)
    return [Output(output.kind, clean(output.text), output.data) for output in joined]
