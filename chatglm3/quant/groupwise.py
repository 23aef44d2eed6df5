"""Our schemes `int8` and `int4`: symmetric integers with one scale for every group of columns.

**Layout on disk.** A weight W [rows, columns] is cut along its columns into G = ceil(columns / group_size)
groups; a short last group is filled up with zeros. W[r, c] = q[r, c] * scales[r, c // group_size].

- `scales`, bfloat16 [rows, G]. May be negative (int4) and is 0 where the whole group is 0.
- `qweight` of int8, int8 [rows, G * group_size]: q in -127..127.
- `qweight` of int4, uint8 [rows, G * group_size / 2]: byte j of a row holds column 2j in its low and column
  2j + 1 in its high nibble; a nibble holds q + 8, with q in -8..7.

All tensors are row-major. Codes are plain integers around zero, so a kernel multiplies them with integer
activations and needs one scale a group: sum_g scales[r, g] * (dot(u, x) - 8 * sum(x)), u = q + 8 unsigned.
bfloat16 has the range of float32: no group overflows or falls into subnormal numbers, as float16 scales do.

**Scales.** int8 takes max|w| / 127. For int4 the largest weight of a group is given the code -8 (there are
eight negative codes and seven positive ones, so the scale takes the sign that this needs), as llama.cpp's
Q4_0 does; then a few ranges around that one are tried, each with its least-squares scale
s = <w, q> / <q, q>, and the one with the smallest squared error stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chatglm3.errors import CheckpointError, InvalidParameterError
from chatglm3.quant.scheme import Layout, PlainTensors, row_blocks

GROUP_SIZES = (32, 64, 128, 256)

_INT4_RANGES = (7.4, 8.1, 8.8)
"""Codes that the largest weight of a group would get before clipping; more ranges gain less than 2 %."""

_BLOCK = 1 << 19
"""Weights quantized at a time: float32 temporaries of 2 MiB stay in the caches of two cores."""

_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Groupwise:
    """Symmetric integers of `bits` bits, one bfloat16 scale for `group_size` columns of a row."""

    bits: int
    group_size: int = 32

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise InvalidParameterError(f"group-wise quantization has 4 or 8 bits, not {self.bits}")
        if self.group_size not in GROUP_SIZES:
            raise InvalidParameterError(f"group_size is {self.group_size}; it can be one of {GROUP_SIZES}")

    @property
    def name(self) -> str:
        """`int4` or `int8`."""
        return f"int{self.bits}"

    def groups(self, columns: int) -> int:
        """Groups in a row; the last one may be short."""
        return -(-columns // self.group_size)

    def layout(self, rows: int, columns: int, dtype: torch.dtype) -> Layout:
        """See the module's description; the same for every `dtype`."""
        groups = self.groups(columns)
        width = groups * self.group_size
        qweight = ((rows, width), torch.int8) if self.bits == 8 else ((rows, width // 2), torch.uint8)
        return {"qweight": qweight, "scales": ((rows, groups), torch.bfloat16)}

    def quantize(self, weight: Tensor) -> PlainTensors:
        """Nearest codes and scales of weight [rows, columns]. Raises CheckpointError on inf and nan."""
        rows, columns = weight.shape
        plain = {
            name: torch.empty(shape, dtype=dtype, device=weight.device)
            for name, (shape, dtype) in self.layout(rows, columns, weight.dtype).items()
        }
        padding = self.groups(columns) * self.group_size - columns
        for block in row_blocks(rows, columns, _BLOCK if weight.device.type == "cpu" else _BLOCK << 8):
            grouped = F.pad(weight[block].float(), (0, padding)).unflatten(1, (-1, self.group_size))
            scales = (_int8_scales if self.bits == 8 else _int4_scales)(grouped)
            if not scales.isfinite().all():
                raise CheckpointError("a weight to be quantized holds inf or nan; the checkpoint is damaged")
            # Codes are chosen for the scale as it is stored, so its rounding costs nothing.
            codes = nearest_codes(grouped, scales, self.bits).flatten(1)
            plain["qweight"][block] = codes.to(torch.int8) if self.bits == 8 else pack_nibbles(codes)
            plain["scales"][block] = scales.squeeze(2)
        return plain

    def dequantize(self, tensors: PlainTensors, columns: int) -> Tensor:
        """The float32 weight [rows, columns]; every product q * scale is exact."""
        qweight, scales = tensors["qweight"], tensors["scales"]
        codes = qweight.float() if self.bits == 8 else unpack_nibbles(qweight).sub_(8)
        grouped = codes.unflatten(1, (-1, self.group_size))
        return grouped.mul_(scales.float().unsqueeze(2)).flatten(1)[:, :columns]


def pack_nibbles(codes: Tensor) -> Tensor:
    """Float codes -8..7 [rows, width] to uint8 [rows, width / 2]: q + 8, even column in the low nibble."""
    unsigned = (codes + 8).to(torch.uint8)
    return unsigned[:, ::2] | unsigned[:, 1::2] << 4


def unpack_nibbles(packed: Tensor) -> Tensor:
    """uint8 [rows, width / 2] to float32 codes 0..15 [rows, width]."""
    return torch.stack((packed & 15, packed >> 4), dim=2).flatten(1).float()


def nearest_codes(grouped: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Nearest codes of groups [rows, groups, group_size] at scales [rows, groups, 1]; 0 at scale 0."""
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    inverse = torch.where(scales == 0, 0, scales.float().reciprocal())
    return (grouped * inverse).round_().clamp_(low, high)


def stored_scales(scales: Tensor) -> Tensor:
    """Scales as they are stored. One too small to be inverted becomes 0, and so does its group."""
    return torch.where(scales.abs() < _SMALLEST_SCALE, 0, scales).bfloat16()


def _int8_scales(grouped: Tensor) -> Tensor:
    return stored_scales(grouped.abs().amax(2, keepdim=True) / 127)


def _int4_scales(grouped: Tensor) -> Tensor:
    high, low = grouped.amax(2, keepdim=True), grouped.amin(2, keepdim=True)
    largest = torch.where(high > -low, high, low)
    # With q fixed, the best scale removes <w, q>^2 / <q, q> of the squared error: the larger, the better.
    best_gain = torch.full_like(largest, -1)
    best_scale = torch.zeros_like(largest)
    for span in _INT4_RANGES:
        codes = nearest_codes(grouped, stored_scales(largest / -span), bits=4)
        squares = codes.square().sum(2, keepdim=True)
        product = (grouped * codes).sum(2, keepdim=True)
        scale = torch.where(squares == 0, 0, product / squares)
        gain = product * scale
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best_scale = torch.where(better, scale, best_scale)
    # A nan or inf among the weights reaches `largest` and, through this sum, the caller's check.
    return stored_scales(best_scale + 0 * largest)
