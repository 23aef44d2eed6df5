"""Where the tests of Triton's kernels run: on a GPU if there is one, else in its interpreter on the CPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed; it comes with PyTorch's CUDA builds")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# The interpreter keeps bfloat16 as plain 16-bit integers, and its matrix products go wrong on them.
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (DEVICE.type == "cuda")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Of the largest value of the reference, which is computed in float32."""


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to the rounding of the dtype of `actual`."""
    error = (actual.float() - expected.float()).abs().max().item()
    assert error <= TOLERANCE[actual.dtype] * max(1e-6, expected.float().abs().max().item())
