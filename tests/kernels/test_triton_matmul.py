"""int4 and int8 products in Triton against the plain dequantized weight."""

from __future__ import annotations

import pytest
import torch

from chatglm3.quant.groupwise import Groupwise, pack_nibbles
from tests.kernels.triton_device import DEVICE, DTYPES, assert_close

from chatglm3.kernels.triton.matmul import TritonWeight  # isort: skip  (after the check for Triton)

SHAPES = [(24, 200), (130, 64)]
"""[rows, columns]: no multiples of the tiles, and short last groups."""


def quantized(bits, group_size, rows, columns):
    torch.manual_seed(rows + columns + bits + group_size)
    scheme = Groupwise(bits, group_size)
    weight = torch.randn(rows, columns, device=DEVICE)
    weight[rows // 2] = 0
    plain = scheme.quantize(weight)
    return plain, scheme.dequantize(plain, columns), TritonWeight(bits, group_size, **plain, columns=columns)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_unpacking_gives_back_every_bit(bits, group_size, shape):
    plain, _, packed = quantized(bits, group_size, *shape)
    unpacked = packed.unpack()
    assert {name: (t.dtype, t.shape) for name, t in unpacked.items()} == {
        name: (t.dtype, t.shape) for name, t in plain.items()
    }
    assert all(torch.equal(unpacked[name], plain[name]) for name in plain)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_group_size_and_shape(bits, group_size, shape):
    _, weight, packed = quantized(bits, group_size, *shape)
    for tokens in (1, 3):
        x = torch.randn(tokens, shape[1], device=DEVICE)
        y = packed.matmul(x)
        assert y.shape == (tokens, shape[0])
        assert_close(y, x @ weight.t())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("tokens", [1, 3, 256])
def test_in_16_bits(bits, dtype, tokens):
    _, weight, packed = quantized(bits, 32, 40, 96)
    x = torch.randn(tokens, 96, device=DEVICE).to(dtype)
    y = packed.matmul(x)
    assert y.dtype == dtype
    assert_close(y, x.float() @ weight.t())


@pytest.mark.parametrize("bits", [4, 8])
def test_every_number_of_tokens_up_to_20_and_many(bits):
    _, weight, packed = quantized(bits, 32, 24, 96)
    for tokens in [*range(21), 70, 256, 300]:
        x = torch.randn(tokens, 96, device=DEVICE)
        y = packed.matmul(x)
        assert y.shape == (tokens, 24)
        if tokens:
            assert_close(y, x @ weight.t())


def test_activations_need_not_be_contiguous():
    _, weight, packed = quantized(4, 32, 40, 96)
    x = torch.randn(96, 2, device=DEVICE).t()
    assert_close(packed.matmul(x), x @ weight.t())


@pytest.mark.parametrize("bits", [4, 8])
def test_every_code_is_exact(bits):
    low, high = (-8, 7) if bits == 4 else (-127, 127)
    codes = torch.arange(low, high + 1, device=DEVICE)[:, None].expand(-1, 32).float()
    qweight = pack_nibbles(codes) if bits == 4 else codes.to(torch.int8)
    packed = TritonWeight(bits, 32, qweight, torch.ones_like(codes[:, :1]).bfloat16(), columns=32)
    identity = torch.eye(32, device=DEVICE)
    assert torch.equal(packed.matmul(identity[:1]), codes.t()[:1])
    assert torch.equal(packed.matmul(identity), codes.t())
