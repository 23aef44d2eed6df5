"""How much a box may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of one conversation's box, all of its processes together."""

    memory_bytes: int = 2 << 30
    """Beyond it the kernel is ended and started anew. Files are not part of it."""
    disk_bytes: int = 512 << 20
    """All files, those in temporary folders included."""
    processes: int = 64
    """Threads count as well."""
    cpu_seconds: int = 3600
    """Of one process."""
    idle_seconds: float = 1800.0
    """After so long without a cell the kernel is ended; files stay, variables are gone."""
    output_chars: int = 20_000
    """Text of one cell; what is beyond it is dropped, visibly."""
    images: int = 16
    """Pictures of one cell."""
    image_bytes: int = 8 << 20
    """Of one picture."""
