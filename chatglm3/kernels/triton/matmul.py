"""Activations times int4 or int8 weights: y = x W^T, with W dequantized on the way into the registers.

**Packed layout.** Plain codes [rows, columns] (`chatglm3.quant.groupwise`) become `words`, int32
[columns / V, rows], of V = 8 (int4) or 4 (int8) codes each, stored unsigned (code + 8 or + 128). Neighbouring
threads read neighbouring rows of W, 16 bytes each, and share one activation. Four words in a row hold 4 V
consecutive columns; value i of word j of such a *quad* is column 4 i + j of it, so that the activations which
meet value i of consecutive words lie four by four beside each other. `scales` is bfloat16 [groups, rows].

Three kernels share the layout and `_codes`: `_vector` for one token, whose cost is the reading of W; `_tile`
for a few, on tensor cores; and `_dequantize` for many, where cuBLAS on the whole weight is faster.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from chatglm3.kernels.triton.tuning import tuned

_DENSE_TOKENS = 256
"""From here on dequantizing W once costs less than what cuBLAS gains over `_tile`."""

_DENSE_WEIGHTS = 1 << 26
"""Weights dequantized at a time: 128 MiB in 16 bits, and enough to keep a GPU busy."""


@triton.jit
def _codes(words, i: tl.constexpr, BITS: tl.constexpr):
    """Value i of each word as the signed code in float32, exactly, in three instructions.

    Left where it is in its half of the word, and with the exponent of 2**23 put in front of it, a value is
    the float 2**23 + value * 2**SHIFT; one multiplication and addition make the code of it.
    """
    SHIFT: tl.constexpr = BITS * (i % (16 // BITS))
    MASK: tl.constexpr = (2**BITS - 1) << SHIFT
    half = words if i < 16 // BITS else words >> 16
    bits = (half & MASK) | 0x4B000000
    return bits.to(tl.float32, bitcast=True) * 2.0**-SHIFT - (2.0 ** (23 - SHIFT) + 2.0 ** (BITS - 1))


@triton.jit
def _columns(word, i: tl.constexpr, VALUES: tl.constexpr):
    """The column that value i of each word belongs to."""
    return word // 4 * (4 * VALUES) + 4 * i + word % 4


@triton.jit
def _load(words, scales, word, row, rows, GROUP_WORDS: tl.constexpr, inside):
    """Words and their scales [WORDS, ROWS]; past the end codes of 0 or scales of 0."""
    packed = tl.load(words + word[:, None] * rows + row[None, :], mask=inside, other=0)
    scale = tl.load(scales + (word // GROUP_WORDS)[:, None] * rows + row[None, :], mask=inside, other=0)
    return packed, scale.to(tl.float32)


@tuned(
    [(128, 32, 4, 1), (64, 64, 8, 1), (32, 128, 8, 1), (32, 64, 4, 1), (16, 128, 8, 1)],
    names=("ROWS", "WORDS"),
    key=("rows", "columns", "BITS"),
)
@triton.jit
def _vector(
    x, words, scales, out, rows, columns, groups,
    BITS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """One token: x [columns] to out [rows]; a program computes ROWS of them. Sums and scales in float32."""
    VALUES: tl.constexpr = 32 // BITS
    GROUP_WORDS: tl.constexpr = GROUP // VALUES
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    count = groups * GROUP_WORDS
    total = tl.zeros([WORDS, ROWS], tl.float32)
    for first in range(0, count, WORDS):
        word = first + tl.arange(0, WORDS)
        inside = (word < count)[:, None] & (row < rows)[None, :]
        packed, scale = _load(words, scales, word, row, rows, GROUP_WORDS, inside)
        product = tl.zeros([WORDS, ROWS], tl.float32)
        for i in tl.static_range(VALUES):
            column = _columns(word, i, VALUES)
            value = tl.load(x + column, mask=column < columns, other=0).to(tl.float32)
            product += _codes(packed, i, BITS) * value[:, None]
        total += product * scale
    tl.store(out + row, tl.sum(total, 0).to(out.dtype.element_ty), mask=row < rows)


@tuned(
    [(128, 32, 8, 3), (128, 16, 8, 4), (64, 32, 4, 4), (64, 16, 4, 5), (32, 32, 4, 4)],
    names=("ROWS", "WORDS"),
    key=("rows", "columns", "BITS", "TOKENS"),
)
@triton.jit
def _tile(
    x, words, scales, out, tokens, rows, columns, groups,
    BITS: tl.constexpr, GROUP: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """x [tokens, columns] to out [tokens, rows]; a program computes TOKENS x ROWS of them.

    Weights are rounded to the activations' dtype, as the reference does it; sums are float32.
    """
    VALUES: tl.constexpr = 32 // BITS
    GROUP_WORDS: tl.constexpr = GROUP // VALUES
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    count = groups * GROUP_WORDS
    total = tl.zeros([TOKENS, ROWS], tl.float32)
    for first in range(0, count, WORDS):
        word = first + tl.arange(0, WORDS)
        inside = (word < count)[:, None] & (row < rows)[None, :]
        packed, scale = _load(words, scales, word, row, rows, GROUP_WORDS, inside)
        for i in tl.static_range(VALUES):
            column = _columns(word, i, VALUES)
            wanted = (token < tokens)[:, None] & (column < columns)[None, :]
            values = tl.load(x + token[:, None] * columns + column[None, :], mask=wanted, other=0)
            weights = (_codes(packed, i, BITS) * scale).to(x.dtype.element_ty)
            total = tl.dot(values, weights, total, input_precision="ieee")
    tl.store(
        out + token[:, None] * rows + row[None, :],
        total.to(out.dtype.element_ty),
        mask=(token < tokens)[:, None] & (row < rows)[None, :],
    )


@triton.jit
def _dequantize(
    words, scales, out, first_row, rows, part_rows, columns,
    BITS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """Rows first_row : first_row + part_rows of W to out [columns, part_rows], in out's dtype."""
    VALUES: tl.constexpr = 32 // BITS
    GROUP_WORDS: tl.constexpr = GROUP // VALUES
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    inside = (_columns(word, 0, VALUES) < columns)[:, None] & (row < part_rows)[None, :]
    packed, scale = _load(words, scales, word, first_row + row, rows, GROUP_WORDS, inside)
    for i in tl.static_range(VALUES):
        column = _columns(word, i, VALUES)
        weights = (_codes(packed, i, BITS) * scale).to(out.dtype.element_ty)
        wanted = (column < columns)[:, None] & (row < part_rows)[None, :]
        tl.store(out + column[:, None].to(tl.int64) * part_rows + row[None, :], weights, mask=wanted)


class TritonWeight:
    """A group-wise quantized weight [rows, columns] in the packed layout, on one CUDA device."""

    def __init__(self, bits: int, group_size: int, qweight: Tensor, scales: Tensor, columns: int) -> None:
        """qweight, scales: the plain tensors of `chatglm3.quant.groupwise`; not kept."""
        self.bits = bits
        self.group_size = group_size
        self.columns = columns
        self.words = _pack(qweight, bits)
        self.scales = scales.t().contiguous()

    def matmul(self, x: Tensor) -> Tensor:
        """x [tokens, columns] to [tokens, rows], in the dtype of x."""
        with torch.cuda.device_of(x):
            return self._dense(x) if len(x) >= _DENSE_TOKENS else self._multiply(x.contiguous())

    def unpack(self) -> dict[str, Tensor]:
        """The plain tensors it was made from, bit for bit."""
        return {"qweight": _unpack(self.words, self.bits), "scales": self.scales.t().contiguous()}

    def _multiply(self, x: Tensor) -> Tensor:
        tokens, rows = len(x), self.words.shape[1]
        out = x.new_empty(tokens, rows)
        sizes = (rows, self.columns, len(self.scales))
        if tokens == 1:
            _vector[lambda chosen: (triton.cdiv(rows, chosen["ROWS"]),)](
                x, self.words, self.scales, out, *sizes, BITS=self.bits, GROUP=self.group_size
            )
        elif tokens:
            per_program = max(16, min(64, triton.next_power_of_2(tokens)))
            _tile[lambda chosen: (triton.cdiv(rows, chosen["ROWS"]), triton.cdiv(tokens, per_program))](
                x, self.words, self.scales, out, tokens, *sizes,
                BITS=self.bits, GROUP=self.group_size, TOKENS=per_program,
            )  # fmt: skip
        return out

    def _dense(self, x: Tensor) -> Tensor:
        rows = self.words.shape[1]
        step = max(1, _DENSE_WEIGHTS // self.columns)
        parts = []
        for first in range(0, rows, step):
            count = min(step, rows - first)
            weight = x.new_empty(self.columns, count)
            _dequantize[(triton.cdiv(count, 128), triton.cdiv(len(self.words), 16))](
                self.words, self.scales, weight, first, rows, count, self.columns,
                BITS=self.bits, GROUP=self.group_size, ROWS=128, WORDS=16,
            )  # fmt: skip
            parts.append(F.linear(x, weight.t()))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _pack(qweight: Tensor, bits: int) -> Tensor:
    """Plain codes to words [columns / V, rows]; in parts, for the codes are held in 32 bits meanwhile."""
    rows, values = len(qweight), 32 // bits
    words = torch.empty(
        qweight.shape[1] * qweight.itemsize * 8 // 32, rows, dtype=torch.int32, device=qweight.device
    )
    step = max(1, _DENSE_WEIGHTS // (len(words) * values))
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=qweight.device)
    for first in range(0, rows, step):
        part = qweight[first : first + step]
        codes = torch.stack((part & 15, part >> 4), dim=2).int() if bits == 4 else part.int() + 128
        quads = codes.view(len(part), -1, values, 4) << shifts[:, None]
        # The values of a word share no bit, so their sum is their union; it wraps around into the sign bit.
        words[:, first : first + step] = quads.sum(2, dtype=torch.int32).flatten(1).t()
    return words


def _unpack(words: Tensor, bits: int) -> Tensor:
    """Words [columns / V, rows] to the plain codes."""
    quads = words.t().unflatten(1, (-1, 1, 4))
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    codes = (quads >> shifts[:, None] & (2**bits - 1)).flatten(1)
    if bits == 8:
        return (codes - 128).to(torch.int8)
    return (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
