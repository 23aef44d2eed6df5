"""The parity fixtures that this folder's tests run over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def halves(fixtures: Path, pattern: str) -> list[Path]:
    """Every file or folder `dev/<pattern>` (and of the held-out half, where it is there)."""
    found = sorted(fixtures.glob(f"*/{pattern}"))
    assert found, f"no {pattern} in {fixtures}"
    return found


def jsonl(fixtures: Path, name: str) -> Iterator[dict[str, Any]]:
    """Every case of `<half>/<name>.jsonl`."""
    for path in halves(fixtures, f"{name}.jsonl"):
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
