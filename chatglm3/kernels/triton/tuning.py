"""Sizes of a kernel's tiles: measured on the device for each shape, and remembered on disk by Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import triton


def tuned(
    sizes: Sequence[tuple[int, ...]], *, names: tuple[str, ...], key: tuple[str, ...]
) -> Callable[[Any], Any]:
    """Decorate a kernel that is tried with each of `sizes` when a new `key` is first met.

    sizes: values of the constants `names`, then warps and stages. key: arguments that make a new choice. In
    Triton's interpreter, where time means nothing, the first one is taken.
    """
    configs = [
        triton.Config(dict(zip(names, chosen)), num_warps=chosen[-2], num_stages=chosen[-1])
        for chosen in sizes
    ]
    if triton.knobs.runtime.interpret:
        configs = configs[:1]
    return triton.autotune(configs, key=list(key), cache_results=True)
