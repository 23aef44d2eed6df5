"""Kernels for CUDA, written in Triton: what decoding and prompts spend their time in.

`available` says whether they run on a device. Nothing here imports `triton` before one of the other modules
is imported, for it comes with PyTorch's CUDA builds only.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch


@functools.cache
def available(device: torch.device) -> bool:
    """Whether the kernels run there: CUDA from compute capability 8.0 on, with Triton, not switched off.

    `CHATGLM3_KERNELS=off` leaves everything to PyTorch, as on a CPU.
    """
    return (
        device.type == "cuda"
        and os.environ.get("CHATGLM3_KERNELS") != "off"
        and importlib.util.find_spec("triton") is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )
