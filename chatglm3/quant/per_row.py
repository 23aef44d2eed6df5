"""The schemes of the published ChatGLM3 int8 and int4 checkpoints: one scale for each row.

Read from `weight` and `weight_scale` of such checkpoints, and produced for comparison (docs/quantization.md).

**Layout on disk.** W[r, c] = q[r, c] * scales[r], in the scale's dtype.

- `scales` (`weight_scale` in the checkpoint), the weight's dtype [rows]: max|w| / 127 or max|w| / 7.
- `qweight` (`weight`), int8: [rows, columns], or for int4 [rows, columns / 2] with column 2j in the high and
  column 2j + 1 in the low nibble of byte j, both two's complement in -7..7.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm3.errors import CheckpointError
from chatglm3.quant.scheme import Layout, PlainTensors, row_blocks

_BLOCK = 1 << 20


@dataclass(frozen=True)
class PerRow:
    """Symmetric integers of `bits` bits, one scale a row in the weight's own dtype."""

    bits: int

    @property
    def name(self) -> str:
        """`published-int4` or `published-int8`."""
        return f"published-int{self.bits}"

    def layout(self, rows: int, columns: int, dtype: torch.dtype) -> Layout:
        """See the module's description. Raises CheckpointError for int4 with an odd number of columns."""
        if self.bits == 4 and columns % 2:
            raise CheckpointError(f"the published int4 layout holds columns in pairs; {columns} is odd")
        return {"qweight": ((rows, columns * self.bits // 8), torch.int8), "scales": ((rows,), dtype)}

    def quantize(self, weight: Tensor) -> PlainTensors:
        """Codes and scales exactly as the published code has them. Raises CheckpointError on inf and nan."""
        rows, columns = weight.shape
        high = 2 ** (self.bits - 1) - 1
        plain = {
            name: torch.empty(shape, dtype=dtype, device=weight.device)
            for name, (shape, dtype) in self.layout(rows, columns, weight.dtype).items()
        }
        for block in row_blocks(rows, columns, _BLOCK):
            scales = weight[block].abs().amax(1) / high
            if not scales.isfinite().all():
                raise CheckpointError("a weight to be quantized holds inf or nan; the checkpoint is damaged")
            # A row of zeros divides 0 by 0 in the published code and ends as zeros. The clamp changes nothing
            # in float16; in bfloat16 a rounded scale would let 128 wrap around to -128.
            quotients = torch.round(weight[block] / scales[:, None]).nan_to_num_(0)
            codes = quotients.clamp_(-high, high).to(torch.int8)
            plain["qweight"][block] = codes if self.bits == 8 else codes[:, ::2] << 4 | codes[:, 1::2] & 15
            plain["scales"][block] = scales
        return plain

    def dequantize(self, tensors: PlainTensors, columns: int) -> Tensor:
        """The weight [rows, columns] in the scale's dtype."""
        qweight, scales = tensors["qweight"], tensors["scales"]
        if self.bits == 4:
            # Arithmetic shifts of int8 carry the sign of each nibble.
            qweight = torch.stack((qweight >> 4, qweight << 4 >> 4), dim=2).flatten(1)
        return qweight.to(scales.dtype) * scales[:, None]
