"""How a quantized weight is multiplied: the PyTorch reference, packed forms, and the choice between them.

A packed form is what a device's kernel wants to read. It is made from the plain tensors at load and gives
them back exactly, so the plain ones need not be kept.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from chatglm3.quant.groupwise import Groupwise, pack_nibbles, unpack_nibbles
from chatglm3.quant.scheme import PlainTensors, Scheme, row_blocks

_CPU_BLOCK = 1 << 20
_DEVICE_BLOCK = 1 << 26
"""Weights dequantized at a time by the reference: what a cache holds, and what keeps a GPU busy (128 MiB)."""


class PackedWeight(Protocol):
    """A weight in the form that one kernel reads."""

    def matmul(self, x: Tensor) -> Tensor:
        """x [tokens, columns] to [tokens, rows], in the dtype of x."""

    def unpack(self) -> PlainTensors:
        """The plain tensors it was made from, bit for bit."""


def pack(scheme: Scheme, tensors: PlainTensors, columns: int, dtype: torch.dtype) -> PackedWeight | None:
    """Pack for the fastest kernel at hand for these tensors' device and activations in `dtype`.

    None where that is the reference, which reads the plain tensors.
    """
    if isinstance(scheme, Groupwise) and _fits_int4pack(
        scheme, tensors, tensors["qweight"].device.type, dtype
    ):
        return Int4PackCPU(scheme, tensors, columns)
    return None


def packed_overhead(scheme: Scheme, tensors: PlainTensors, device: str, dtype: torch.dtype) -> int:
    """Bytes that `pack` on `device` ("cpu", "cuda", "mps") needs beyond those of the plain tensors."""
    # PyTorch's kernel reads a zero point beside each scale.
    packs = isinstance(scheme, Groupwise) and _fits_int4pack(scheme, tensors, device, dtype)
    return tensors["scales"].nbytes if packs else 0


def _fits_int4pack(scheme: Groupwise, tensors: PlainTensors, device: str, dtype: torch.dtype) -> bool:
    return (
        scheme.bits == 4
        and device == "cpu"
        and dtype == torch.bfloat16
        and len(tensors["qweight"]) % Int4PackCPU.ROW_MULTIPLE == 0
    )


def reference_matmul(x: Tensor, scheme: Scheme, tensors: PlainTensors, columns: int) -> Tensor:
    """x [tokens, columns] times the dequantized weight, transposed: [tokens, rows], in the dtype of x.

    Rows are dequantized block by block, so that no full weight is ever held.
    """
    rows = len(tensors["qweight"])
    blocks = row_blocks(rows, columns, _CPU_BLOCK if x.device.type == "cpu" else _DEVICE_BLOCK)
    parts = []
    for block in blocks:
        weight = scheme.dequantize({name: tensor[block] for name, tensor in tensors.items()}, columns)
        parts.append(F.linear(x, weight.to(x.dtype)))
    return torch.cat(parts, dim=1)


class Int4PackCPU:
    """Our int4 for PyTorch's CPU kernel: bfloat16 activations, W = (u - 8) * scale + zero with zero = 0."""

    ROW_MULTIPLE = 16
    _ROWS_AT_ONCE = 512  # a multiple of the kernel's own blocks of 64 rows, so that parts concatenate

    def __init__(self, scheme: Groupwise, tensors: PlainTensors, columns: int) -> None:
        self.group_size = scheme.group_size
        qweight, scales = tensors["qweight"], tensors["scales"]
        self.padding = 2 * qweight.shape[1] - columns
        self.weight = torch.cat([
            torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack_nibbles(part).to(torch.int32), 1)
            for part in qweight.split(self._ROWS_AT_ONCE)
        ])  # fmt: skip
        self.scales_and_zeros = (
            torch.stack((scales, torch.zeros_like(scales)), dim=2).transpose(0, 1).contiguous()
        )

    def matmul(self, x: Tensor) -> Tensor:
        """x [tokens, columns] bfloat16 to [tokens, rows]."""
        if self.padding:
            x = F.pad(x, (0, self.padding))
        return self._matmul(x.contiguous(), self.scales_and_zeros)

    def unpack(self) -> PlainTensors:
        """Codes read back through the kernel itself: the identity times W with all scales 1."""
        groups, rows, _ = self.scales_and_zeros.shape
        ones = torch.zeros_like(self.scales_and_zeros)
        ones[..., 0] = 1
        width = groups * self.group_size
        qweight = torch.empty((rows, width // 2), dtype=torch.uint8)
        for start in range(0, width, self.group_size):
            identity = torch.zeros((self.group_size, width), dtype=torch.bfloat16)
            identity[:, start : start + self.group_size].fill_diagonal_(1)
            codes = self._matmul(identity, ones).t()
            qweight[:, start // 2 : (start + self.group_size) // 2] = pack_nibbles(codes)
        return {"qweight": qweight, "scales": self.scales_and_zeros[..., 0].t().contiguous()}

    def _matmul(self, x: Tensor, scales_and_zeros: Tensor) -> Tensor:
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, self.weight, self.group_size, scales_and_zeros
        )
        return product
