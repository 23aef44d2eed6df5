"""What isolation this machine can give, found out by trying it."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass

from chatglm3.tools.interpreter.box.limits import Limits
from chatglm3.tools.interpreter.box.walls import Layer
from chatglm3.tools.interpreter.starter import Box, WallsError

MODES = {"linux": ("namespaces", "landlock"), "darwin": ("seatbelt",)}
"""By platform, from the stronger to the weaker; each is isolation. See box/walls.py."""


@dataclass(frozen=True)
class Isolation:
    """A way to isolate, and whether it works here."""

    mode: str
    works: bool
    layers: list[Layer]
    """As far as it came: the first that does not hold says why it does not work."""

    @property
    def reason(self) -> str:
        """Why it does not work."""
        return "; ".join(f"{layer.name}: {layer.detail}" for layer in self.layers if not layer.holds)


@functools.cache
def isolations() -> tuple[Isolation, ...]:
    """Every way to isolate that this system knows, tried here; 0.2 seconds each, once per program."""
    return tuple(map(_try, MODES.get(sys.platform, ())))


def best_isolation() -> Isolation | None:
    """The strongest way that works here."""
    return next((found for found in isolations() if found.works), None)


def _try(mode: str) -> Isolation:
    try:
        box = Box(mode, Limits(), probe=True)
    except WallsError as error:
        return Isolation(mode, False, error.layers)
    box.close()
    return Isolation(mode, True, box.layers)
