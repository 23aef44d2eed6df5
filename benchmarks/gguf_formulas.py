"""llama.cpp's formulas for weights in few bits, written anew for comparison: what a weight is after them.

`restore` takes a float32 weight [rows, columns] and returns what its GGUF form stands for. Blocks run along
the columns, as there; a short last block is filled up with zeros (llama.cpp itself takes another format for
rows that are no multiple of 256).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BITS = {"Q4_0": 4.5, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625, "Q8_0": 8.5}
"""Bits a weight, scales included."""


def restore(weight: Tensor, form: str) -> Tensor:
    """The weight after the formula `form`, a key of BITS."""
    size = 32 if form in ("Q4_0", "Q8_0") else 256
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % size))
    restored = _FORMULAS[form](padded.reshape(-1, size))
    return restored.reshape(rows, -1)[:, :columns]


def q4_k_m(name: str, layers: int) -> str:
    """The format that the mixture Q4_K_M has for a weight of our network, by its name in it."""
    if name == "output":
        return "Q6_K"
    if name.endswith(".qkv"):
        return "Q5_K"
    if name.endswith(".down"):
        layer = int(name.split(".")[1])
        eighth = layers // 8
        more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
        return "Q6_K" if more else "Q4_K"
    return "Q4_K"


def _q4_0(x: Tensor) -> Tensor:
    """x: [blocks, 32]. The value of the largest magnitude gets the code -8."""
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    scale = torch.where(high > -low, high, low) / -8
    codes = (x * _inverse(scale) + 8.5).floor().clamp(0, 15) - 8
    return codes * scale.half().float()


def _q8_0(x: Tensor) -> Tensor:
    scale = x.abs().amax(1, keepdim=True) / 127
    return (x * _inverse(scale)).round() * scale.half().float()


def _k_quant(x: Tensor, most: int) -> Tensor:
    """Q4_K (most = 15) and Q5_K (31): x [blocks, 256], eight parts with a 6-bit scale and a 6-bit minimum."""
    parts = x.view(-1, 8, 32)
    scale, minimum = _scale_and_minimum(parts, most)
    scale, minimum = _in_63_steps(scale), _in_63_steps(minimum)
    codes = ((parts + minimum) * _inverse(scale)).round().clamp(0, most)
    return torch.where(scale == 0, -minimum, codes * scale - minimum).flatten(1)


def _scale_and_minimum(x: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """For x [blocks, 8, 32]: x is about code * scale - minimum, both [blocks, 8, 1] and not negative.

    The range is tried in 21 widths, with the weighted least-squares scale and minimum for each.
    """
    weight = x.square().mean(2, keepdim=True).sqrt() + x.abs()
    low, high = x.amin(2, keepdim=True).clamp(max=0), x.amax(2, keepdim=True)
    span = high - low
    best_scale, best_low = span / most, low
    codes = ((x - low) * _inverse(best_scale)).round().clamp(0, most)
    best_error = (weight * (best_scale * codes + low - x).square()).sum(2, keepdim=True)
    total, of_x = weight.sum(2, keepdim=True), (weight * x).sum(2, keepdim=True)
    # Q4_K tries 15 - 1 to 15 + 1 steps, Q5_K 31 - 0.5 to 31 + 1.
    first = -1.0 if most == 15 else -0.5
    for trial in range(21 if most == 15 else 16):
        inverse = (first + 0.1 * trial + most) * _inverse(span)
        codes = (inverse * (x - low)).round().clamp(0, most)
        of_codes, of_squares = (
            (weight * codes).sum(2, keepdim=True),
            (weight * codes * codes).sum(2, keepdim=True),
        )
        of_both = (weight * x * codes).sum(2, keepdim=True)
        determinant = total * of_squares - of_codes.square()
        scale = (total * of_both - of_x * of_codes) / determinant
        minimum = (of_squares * of_x - of_codes * of_both) / determinant
        scale = torch.where(minimum > 0, of_both / of_squares, scale)
        minimum = minimum.clamp(max=0)
        error = (weight * (scale * codes + minimum - x).square()).sum(2, keepdim=True)
        better = (determinant > 0) & (error < best_error)
        best_error = torch.where(better, error, best_error)
        best_scale, best_low = torch.where(better, scale, best_scale), torch.where(better, minimum, best_low)
    return best_scale, -best_low


def _in_63_steps(values: Tensor) -> Tensor:
    """Values [blocks, 8, 1], not negative, as 6-bit multiples of one float16 number a block."""
    unit = values.amax(1, keepdim=True) / 63
    return (values * _inverse(unit)).round().clamp(0, 63) * unit.half().float()


def _q6_k(x: Tensor) -> Tensor:
    """x: [blocks, 256], sixteen parts with an 8-bit scale each."""
    parts = x.view(-1, 16, 16)
    high, low = parts.amax(2, keepdim=True), parts.amin(2, keepdim=True)
    largest = torch.where(high > -low, high, low)
    weight = parts.square()
    best, best_scale = torch.full_like(largest, -1), torch.zeros_like(largest)
    for trial in [0, *range(-9, 0), *range(1, 10)]:
        codes = (parts * -(32 + 0.1 * trial) * _inverse(largest)).round().clamp(-32, 31)
        of_both = (weight * parts * codes).sum(2, keepdim=True)
        of_squares = (weight * codes * codes).sum(2, keepdim=True)
        scale = torch.where(of_squares > 0, of_both / of_squares, 0)
        better = of_both * scale > best
        best, best_scale = torch.where(better, of_both * scale, best), torch.where(better, scale, best_scale)
    high, low = best_scale.amax(1, keepdim=True), best_scale.amin(1, keepdim=True)
    unit = torch.where(high > -low, high, low) / -128
    scale = (best_scale * _inverse(unit)).round().clamp(max=127) * unit.half().float()
    codes = (parts * _inverse(scale)).round().clamp(-32, 31)
    return (codes * scale).flatten(1)


def _inverse(x: Tensor) -> Tensor:
    return torch.where(x == 0, 0, 1 / x)


_FORMULAS = {
    "Q4_0": _q4_0,
    "Q8_0": _q8_0,
    "Q4_K": lambda x: _k_quant(x, 15),
    "Q5_K": lambda x: _k_quant(x, 31),
    "Q6_K": _q6_k,
}
