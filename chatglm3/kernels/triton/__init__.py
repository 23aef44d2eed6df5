"""Kernels for CUDA, written in Triton: what decoding and prompts spend their time in.

`available` says whether they run on a device. Nothing here imports `triton` before one of the other modules
is imported, for it comes with PyTorch's CUDA builds only.
"""

from __future__ import annotations

import functools
import os
from importlib import metadata

import torch


@functools.cache
def available(device: torch.device) -> bool:
    """Whether the kernels run there: CUDA from compute capability 8.0 on, with Triton 3.4 or newer.

    `CHATGLM3_KERNELS=off` leaves everything to PyTorch, as on a CPU.
    """
    return (
        device.type == "cuda"
        and os.environ.get("CHATGLM3_KERNELS") != "off"
        and _triton_version() >= (3, 4)
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _triton_version() -> tuple[int, ...]:
    """(major, minor); (0,) without Triton."""
    try:
        return tuple(int(part) for part in metadata.version("triton").split(".")[:2])
    except metadata.PackageNotFoundError:
        return (0,)


def fits(head_dim: int) -> bool:
    """Whether the attention kernel takes heads of this size."""
    return head_dim >= 16 and head_dim & (head_dim - 1) == 0
