"""Quantized products: the native kernels against the same arithmetic in PyTorch and the reference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chatglm3.kernels import Native
from chatglm3.kernels.matrix import PackedMatrix, packed_bytes
from chatglm3.quant.groupwise import GROUP_SIZES, Groupwise

SCHEMES = [Groupwise(bits, size) for bits in (4, 8) for size in GROUP_SIZES]
SHAPES = [(16, 32), (48, 160), (33, 70), (100, 300), (7, 1), (272, 449)]  # rows, columns


def make(native: Native, scheme: Groupwise, rows: int, columns: int) -> tuple[PackedMatrix, Tensor]:
    """A packed random weight, and what it stands for."""
    generator = torch.Generator().manual_seed(rows + columns)
    weight = torch.randn(rows, columns, generator=generator)
    weight[:, columns // 2] *= 20
    tensors = scheme.quantize(weight)
    packed = PackedMatrix(native, scheme.bits, scheme.group_size, **tensors, columns=columns)
    return packed, scheme.dequantize(tensors, columns)


def activations(tokens: int, columns: int) -> Tensor:
    x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(tokens))
    x[:, ::37] *= 30
    x[-1, : columns // 2] = 0
    return x


def rounded(x: Tensor, group_size: int) -> Tensor:
    """Activations as the kernels see them: int8 with the scale max / 127 for each group, in float32 steps."""
    groups = F.pad(x, (0, -x.shape[1] % group_size)).unflatten(1, (-1, group_size))
    most = groups.abs().amax(2, keepdim=True)
    codes = torch.where(most > 1e-30, groups * (127 / most), 0).round()
    return (codes.double() * (most / 127).double()).flatten(1)[:, : x.shape[1]]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.name}-g{scheme.group_size}")
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_products_are_exact_but_for_the_rounding_of_activations(
    native: Native, scheme: Groupwise, rows: int, columns: int
) -> None:
    packed, weight = make(native, scheme, rows, columns)
    for tokens in (1, 2, 5, 13):
        x = activations(tokens, columns)
        expected = rounded(x, scheme.group_size) @ weight.double().T

        slack = 1e-6 * (x.double().abs() @ weight.double().abs().T) + 1e-9
        assert ((packed.matmul(x).double() - expected).abs() <= slack).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", range(1, 21))
def test_every_number_of_tokens(native: Native, bits: int, tokens: int) -> None:
    packed, weight = make(native, Groupwise(bits), 80, 96)
    x = activations(tokens, 96)
    out = packed.matmul(x)
    alone = torch.cat([packed.matmul(row[None]) for row in x])
    assert torch.equal(out, alone)  # a token's result does not depend on its neighbours
    # Against the unrounded reference: each activation is off by at most half a step of its group.
    steps = x.unflatten(1, (-1, 32)).abs().amax(2).repeat_interleave(32, 1).double() / 127
    bound = 0.5001 * steps @ weight.double().abs().T + 1e-5
    assert ((out.double() - x.double() @ weight.double().T).abs() <= bound).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_do_not_change_the_result(native: Native, threads: int) -> None:
    packed, _ = make(native, Groupwise(4), 2048, 512)
    x = activations(9, 512)
    expected = packed.matmul(x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert all(torch.equal(packed.matmul(x), expected) for _ in range(20))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.name}-g{scheme.group_size}")
def test_unpacking_gives_the_plain_tensors_back(native: Native, scheme: Groupwise) -> None:
    for rows, columns in SHAPES:
        tensors = scheme.quantize(torch.randn(rows, columns))
        packed = PackedMatrix(native, scheme.bits, scheme.group_size, **tensors, columns=columns)
        plain = packed.unpack()
        assert all(torch.equal(plain[name], tensors[name]) for name in tensors)
        assert packed.weight.nbytes + packed.scales.nbytes == packed_bytes(**tensors)


def test_extreme_activations(native: Native) -> None:
    packed, weight = make(native, Groupwise(4), 32, 64)
    for scale in (1e-38, 1e-20, 1e30):
        x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * scale
        expected = x.double() @ weight.double().T
        error = (packed.matmul(x).double() - expected).abs().max()
        assert error <= (0.02 * expected.abs().max() if scale > 1e-30 else 1e-30)
    assert torch.equal(packed.matmul(torch.zeros(2, 64)), torch.zeros(2, 32))
    assert packed.matmul(torch.zeros(0, 64)).shape == (0, 32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_taken_for_one(native: Native, bits: int, value: float) -> None:
    """Codes know no nan: were it lost here, the sampler would choose among logits that mean nothing."""
    packed, _ = make(native, Groupwise(bits), 48, 70)
    expected = packed.matmul(activations(3, 70))
    for column in (0, 15, 17, 40, 69):
        x = activations(3, 70)
        x[1, column] = value
        out = packed.matmul(x)
        assert not out[1].isfinite().any()
        assert torch.equal(out[::2], expected[::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_result_has_the_dtype_of_the_activations(native: Native, dtype: torch.dtype) -> None:
    packed, _ = make(native, Groupwise(8), 32, 64)
    x = torch.randn(3, 64).to(dtype)
    assert packed.matmul(x).dtype == dtype
    assert torch.equal(packed.matmul(x), packed.matmul(x.float()).to(dtype))
