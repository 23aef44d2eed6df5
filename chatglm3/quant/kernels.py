"""How a quantized weight is multiplied: the PyTorch reference, packed forms, and the choice between them.

A packed form is what a device's kernel wants to read. It is made from the plain tensors at load and gives
them back exactly, so the plain ones need not be kept.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from chatglm3.kernels import Native, choose, triton
from chatglm3.kernels.matrix import PackedMatrix, packed_bytes
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
    if isinstance(scheme, Groupwise):
        device = tensors["qweight"].device.type
        if native := native_kernels(device):
            return PackedMatrix(native, scheme.bits, scheme.group_size, **tensors, columns=columns)
        if triton.available(tensors["qweight"].device):
            from chatglm3.kernels.triton.matmul import TritonWeight

            return TritonWeight(scheme.bits, scheme.group_size, **tensors, columns=columns)
        if _fits_int4pack(scheme, tensors, device, dtype):
            return Int4PackCPU(scheme, tensors, columns)
    return None


def packed_overhead(scheme: Scheme, tensors: PlainTensors, device: str, dtype: torch.dtype) -> int:
    """Bytes that `pack` on `device` ("cpu", "cuda", "mps") needs beyond those of the plain tensors."""
    if not isinstance(scheme, Groupwise):
        return 0
    if native_kernels(device):
        qweight, scales = tensors["qweight"], tensors["scales"]
        return packed_bytes(qweight, scales) - qweight.nbytes - scales.nbytes
    # PyTorch's kernel reads a zero point beside each scale.
    return tensors["scales"].nbytes if _fits_int4pack(scheme, tensors, device, dtype) else 0


def native_kernels(device: str) -> Native | None:
    """The kernels of `chatglm3.kernels`, where they run on this device and machine."""
    return choose().native if device == "cpu" else None


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
        self.weight = self._pack(qweight)
        self.scales_and_zeros = (
            torch.stack((scales, torch.zeros_like(scales)), dim=2).transpose(0, 1).contiguous()
        )

    def matmul(self, x: Tensor) -> Tensor:
        """x [tokens, columns] bfloat16 to [tokens, rows]."""
        if self.padding:
            x = F.pad(x, (0, self.padding))
        return self._multiply(x.contiguous(), self.weight, self.scales_and_zeros)

    def unpack(self) -> PlainTensors:
        """The codes, read back through the kernel itself: the identity times W, with all scales 1."""
        qweight = self._read_codes(by_group=True)
        if not torch.equal(self._pack(qweight), self.weight):
            qweight = self._read_codes(by_group=False)
        return {"qweight": qweight, "scales": self.scales_and_zeros[..., 0].t().contiguous()}

    def _pack(self, qweight: Tensor) -> Tensor:
        parts = [
            torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack_nibbles(part).to(torch.int32), 1)
            for part in qweight.split(self._ROWS_AT_ONCE)
        ]
        return torch.cat(parts)

    def _read_codes(self, by_group: bool) -> Tensor:
        """The plain `qweight`; exact, for codes and scale 1 are exact in bfloat16.

        by_group: take W apart by groups of columns first, which costs columns / group_size times less. It
        relies on the layout [rows / block, columns, block / 2] that the kernel has on most CPUs.
        """
        groups, rows, _ = self.scales_and_zeros.shape
        size, width = self.group_size, groups * self.group_size
        block = 64 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 32
        whole_blocks = rows - rows % block if by_group else rows
        qweight = torch.empty((rows, width // 2), dtype=torch.uint8)
        for part in (slice(0, whole_blocks), slice(whole_blocks, rows)):
            count = part.stop - part.start
            if count == 0:
                continue
            packed = self.weight[part].view(-1, width, min(block, count) // 2) if by_group else self.weight
            for start in range(0, width, size):
                columns = slice(start, start + size)
                if by_group:
                    piece, identity = packed[:, columns].reshape(count, size // 2), torch.eye(size)
                else:
                    piece, identity = packed, torch.zeros(size, width)
                    identity[:, columns].fill_diagonal_(1)
                ones = torch.zeros(identity.shape[1] // size, count, 2, dtype=torch.bfloat16)
                ones[..., 0] = 1
                codes = self._multiply(identity.bfloat16(), piece, ones).t()
                qweight[part, start // 2 : (start + size) // 2] = pack_nibbles(codes)
        return qweight

    def _multiply(self, x: Tensor, weight: Tensor, scales_and_zeros: Tensor) -> Tensor:
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, weight, self.group_size, scales_and_zeros
        )
        return product
