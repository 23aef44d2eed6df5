"""Quantization: shared tests over the table of schemes, our layout, packing, and published checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from chatglm3.errors import CheckpointError, ConfigError, InvalidParameterError
from chatglm3.quant import (
    SCHEMES,
    QuantConfig,
    QuantEmbedding,
    QuantLinear,
    is_quantized,
    quantize_embedding,
    quantize_linear,
    quantize_model,
    quantize_structure,
)
from chatglm3.quant.groupwise import GROUP_SIZES, Groupwise
from chatglm3.quant.kernels import Int4PackCPU
from chatglm3.quant.per_row import PerRow

ALL = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
OURS = [Groupwise(bits, size) for bits in (8, 4) for size in GROUP_SIZES]
PUBLISHED = pytest.mark.parametrize("bits", [8, 4])


def random_weight(rows: int = 48, columns: int = 96, seed: int = 0) -> torch.Tensor:
    """Normal weights with one outlier column, and a row and a few groups of zeros."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02
    weight[:, 5] *= 8
    weight[3] = 0
    weight[7, :64] = 0
    return weight


def relative_error(weight: torch.Tensor, other: torch.Tensor) -> float:
    return float((weight - other).square().sum() / weight.square().sum())


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_at_most_half_a_step(scheme, dtype):
    weight = random_weight().to(dtype)
    tensors = scheme.quantize(weight)
    restored = scheme.dequantize(tensors, weight.shape[1]).float()
    if isinstance(scheme, PerRow):
        steps = tensors["scales"].float().abs()[:, None].expand_as(weight)
        slack = 0.5 + 200 * torch.finfo(dtype).eps  # scale, quotient and product are rounded to the dtype
    else:
        steps = tensors["scales"].float().abs().repeat_interleave(scheme.group_size, dim=1)
        slack = 0.75 if scheme.bits == 8 else 2.0  # the outer codes of int4 may be clipped
    assert ((weight.float() - restored).abs() <= slack * steps + 1e-9).all()


@ALL
def test_layout_says_what_quantize_gives(scheme):
    weight = random_weight(20, 70).bfloat16()
    tensors = scheme.quantize(weight)
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    assert found == scheme.layout(20, 70, torch.bfloat16)


@ALL
def test_rows_are_independent(scheme):
    """What lets weights be quantized in blocks, and embeddings be looked up."""
    weight = random_weight()
    whole = scheme.quantize(weight)
    rows = torch.tensor([7, 3, 0])
    part = scheme.quantize(weight[rows])
    assert all(torch.equal(part[name], whole[name][rows]) for name in whole)


@ALL
def test_zeros_stay_zeros(scheme):
    weight = random_weight()
    restored = scheme.dequantize(scheme.quantize(weight), 96)
    assert (restored[weight == 0] == 0).all()
    assert (scheme.dequantize(scheme.quantize(torch.zeros(4, 64)), 64) == 0).all()


@ALL
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30])
def test_extreme_sizes_stay_finite(scheme, scale):
    weight = random_weight() / 0.02 * scale
    restored = scheme.dequantize(scheme.quantize(weight), 96)
    assert restored.isfinite().all()
    assert scale < 1e-40 or relative_error(weight.double(), restored.double()) < 0.1


@ALL
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_damaged_weights_are_refused(scheme, bad):
    weight = random_weight()
    weight[11, 17] = bad
    with pytest.raises(CheckpointError, match="inf or nan"):
        scheme.quantize(weight)


@pytest.mark.parametrize("scheme", OURS, ids=str)
@pytest.mark.parametrize("columns", [1, 31, 33, 70, 96, 300])
def test_short_last_groups(scheme, columns):
    weight = random_weight(16, 300)[:, :columns].contiguous()
    padded = F.pad(weight, (0, -columns % scheme.group_size))
    short, full = scheme.quantize(weight), scheme.quantize(padded)
    assert all(torch.equal(short[name], full[name]) for name in full)
    assert scheme.dequantize(short, columns).shape == weight.shape


def test_int4_layout_byte_by_byte():
    """Scale 1 and codes -8..7 in order: the nibbles of the documented layout."""
    codes = torch.arange(-8, 8).repeat(2).float()[None]
    tensors = Groupwise(4).quantize(codes)
    assert tensors["scales"].tolist() == [[1.0]]
    expected = [low | (low + 1) << 4 for low in range(0, 16, 2)] * 2
    assert tensors["qweight"].tolist() == [expected]
    assert torch.equal(Groupwise(4).dequantize(tensors, 32), codes)


def test_int8_layout_byte_by_byte():
    codes = torch.tensor([[-127.0, 0, 1, 127] * 8])
    tensors = Groupwise(8).quantize(codes)
    assert tensors["scales"].tolist() == [[1.0]]
    assert tensors["qweight"].tolist() == codes.tolist()


def test_int4_gives_the_largest_weight_the_extra_code():
    for sign in (1, -1):
        weight = torch.full((1, 32), 0.1)
        weight[0, 0] = sign * 0.8
        tensors = Groupwise(4).quantize(weight)
        assert tensors["qweight"][0, 0] & 15 == 0  # code -8
        assert torch.sign(tensors["scales"]) == -sign


@pytest.mark.parametrize("outliers", [False, True])
def test_int4_has_less_than_half_the_error_of_the_published_scheme(outliers):
    weight = torch.randn(256, 4096, generator=torch.Generator().manual_seed(0)) * 0.02
    if outliers:
        weight[:, ::400] *= 10
    error = {
        scheme: relative_error(weight, scheme.dequantize(scheme.quantize(weight), 4096))
        for scheme in (Groupwise(4), Groupwise(4, 128), PerRow(4), Groupwise(8), PerRow(8))
    }
    assert error[Groupwise(4)] < 0.3 * error[PerRow(4)]
    assert error[Groupwise(4, 128)] < 0.5 * error[PerRow(4)]
    assert error[Groupwise(8)] < 0.5 * error[PerRow(8)]
    if not outliers:
        assert error[Groupwise(4)] < 0.0069  # 0.0094 by max/7, 0.0074 by max/8 without the search


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("columns", "rows"), [(64, 48), (70, 32), (50, 20), (512, 1040)])
def test_linear_is_the_dequantized_weight(scheme, dtype, columns, rows):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    bias = torch.randn(rows, generator=generator).to(dtype)
    linear = quantize_linear(weight, bias, scheme)
    x = torch.randn(2, 3, columns, generator=generator).to(dtype)
    expected = F.linear(x.double(), linear.dequantize().double(), bias.double())
    exact = {torch.float32: 1e-6, torch.bfloat16: 0.02}[dtype]
    plain = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    for bound in (
        exact,
        max(exact, 0.02),
    ):  # the reference, then packed: native kernels round activations too
        assert linear(x).dtype == dtype
        assert (linear(x).double() - expected).abs().max() <= bound * expected.abs().max()
        linear.prepare()
    assert linear.state_dict().keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in linear.state_dict().items())


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_packing_drops_the_plain_tensors_and_gives_them_back(group_size):
    scheme = Groupwise(4, group_size)
    linear = quantize_linear(random_weight(1040, 600).bfloat16(), None, scheme)
    before = linear.plain()
    linear.prepare()
    assert not list(linear.buffers())
    assert all(torch.equal(tensor, before[name]) for name, tensor in linear.plain().items())


@pytest.mark.parametrize("rows", [16, 48, 64, 80, 160])
def test_both_ways_of_unpacking_agree(rows):
    generator = torch.Generator().manual_seed(rows)
    qweight = torch.randint(0, 256, (rows, 64), dtype=torch.uint8, generator=generator)
    scales = torch.randn(rows, 4, generator=generator).bfloat16()
    packed = Int4PackCPU(Groupwise(4), {"qweight": qweight, "scales": scales}, 128)
    assert torch.equal(packed._read_codes(by_group=False), qweight)
    assert torch.equal(packed.unpack()["qweight"], qweight)


def test_scales_keep_their_dtype_where_activations_change():
    linear = quantize_linear(random_weight(), torch.zeros(48), Groupwise(4))
    before = {name: tensor.clone() for name, tensor in linear.plain().items()}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        linear.to(dtype)
        linear.prepare()
        assert linear(torch.ones(1, 96, dtype=dtype)).dtype == dtype
    after = linear.plain()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_gradients_reach_the_input():
    linear = quantize_linear(random_weight(), None, Groupwise(4))
    x = torch.ones(2, 96, requires_grad=True)
    linear(x).sum().backward()
    assert torch.allclose(x.grad[0], linear.dequantize().sum(0), atol=1e-6)


@ALL
def test_embedding_looks_rows_up(scheme):
    embedding = quantize_embedding(random_weight(), scheme)
    ids = torch.tensor([[0, 47], [5, 5]])
    assert torch.equal(embedding(ids), embedding.dequantize()[ids])


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 48)
        self.layers = nn.ModuleList([nn.ModuleDict({"qkv": nn.Linear(48, 96), "norm": nn.RMSNorm(48)})])
        self.output = nn.Linear(48, 64, bias=False)
        self.requires_grad_(False)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (QuantConfig("int4", group_size=64), (Groupwise(8, 64), Groupwise(4, 64), Groupwise(8, 64))),
        (QuantConfig("int8", embedding=None), (None, Groupwise(8), Groupwise(8))),
        (QuantConfig.published(4), (None, PerRow(4), None)),
    ],
)
def test_the_config_says_which_modules_and_how(config, expected):
    network = Network()
    quantize_model(network, config)
    modules = (network.embedding, network.layers[0]["qkv"], network.output)
    assert tuple(getattr(module, "scheme", None) for module in modules) == expected
    assert is_quantized(network)
    assert not is_quantized(Network())
    assert isinstance(network.layers[0]["norm"], nn.RMSNorm)
    assert QuantConfig.from_dict(config.to_dict()) == config


def test_structure_on_meta_takes_a_saved_state():
    network = Network()
    quantize_model(network.bfloat16(), QuantConfig("int4"))
    with torch.device("meta"):
        empty = Network().bfloat16()
    quantize_structure(empty, QuantConfig("int4"))
    assert isinstance(empty.embedding, QuantEmbedding)
    assert isinstance(empty.output, QuantLinear)
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in empty.state_dict().items()} == shapes
    empty.load_state_dict(network.state_dict(), assign=True)
    x = torch.ones(3, 48, dtype=torch.bfloat16)
    assert torch.allclose(empty.output(x), network.output(x), atol=0.02)


def test_bad_settings_name_themselves():
    with pytest.raises(
        InvalidParameterError, match=r"'int3' is no quantization scheme; there are int8, int4"
    ):
        QuantConfig("int3")
    with pytest.raises(InvalidParameterError, match=r"group_size is 48; it can be one of \(32"):
        QuantConfig("int4", group_size=48)
    bad = ({"desc_act": True}, {"scheme": "int3"}, {"scheme": 4}, {"scheme": []}, {"group_size": "32"})
    for data in [{"group_size": 32}, *({"scheme": "int4"} | wrong for wrong in bad)]:
        with pytest.raises(ConfigError, match="quantization_config"):
            QuantConfig.from_dict(data)
    with pytest.raises(CheckpointError, match="in pairs; 33 is odd"):
        PerRow(4).layout(8, 33, torch.float16)
    with pytest.raises(ValueError, match="was given for"):
        QuantLinear(8, 4, Groupwise(4), bias=False, dtype=torch.float32).quantize_(torch.zeros(4, 9))


@PUBLISHED
def test_published_scheme_by_hand(bits):
    """Worked out from the scheme's definition: scale max/7 or max/127, ties to even, high nibble first."""
    high = 2 ** (bits - 1) - 1
    weight = torch.tensor([[float(high), -1.0, 0.5, 1.5], [0, 0, 0, 0]])
    tensors = PerRow(bits).quantize(weight)
    assert tensors["scales"].tolist() == [1.0, 0.0]
    bytes_of = {8: [127, -1, 0, 2], 4: [0x7F, 0x02]}
    assert tensors["qweight"].tolist() == [bytes_of[bits], [0] * (4 * bits // 8)]
    assert PerRow(bits).dequantize(tensors, 4).tolist() == [[high, -1, 0, 2], [0, 0, 0, 0]]


@PUBLISHED
def test_published_scheme_parity(fixtures_dir: Path, bits: int):
    """Every case of the fixtures, bit for bit; the output within 2e-5."""
    scheme, seen = PerRow(bits), 0
    for path in sorted(fixtures_dir.glob("*/quant/linear.safetensors")):
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            for name in sorted(names):
                case, _, leaf = name.rpartition("/")
                if leaf != "weight":
                    continue
                matrix, result = case.rpartition("/")[0], f"{case}/int{bits}"
                weight, x = file.get_tensor(name), file.get_tensor(f"{matrix}/x")
                tensors = scheme.quantize(weight)
                assert torch.equal(tensors["qweight"], file.get_tensor(f"{result}/qweight")), result
                assert torch.equal(tensors["scales"], file.get_tensor(f"{result}/scale")), result
                restored = scheme.dequantize(tensors, weight.shape[1])
                assert torch.equal(restored, file.get_tensor(f"{result}/dequant")), result
                bias = file.get_tensor(f"{case}/bias") if f"{case}/bias" in names else None
                linear = quantize_linear(weight, bias, scheme).float()
                expected = file.get_tensor(f"{result}/linear_out_fp32")
                assert (linear(x) - expected).abs().max() <= 2e-5, result
                seen += 1
    assert seen > 0


def test_group_sizes_are_part_of_the_config():
    assert QuantConfig("int4", group_size=128).scheme_for("layers.3.down") == Groupwise(4, 128)
    assert replace(Groupwise(4), group_size=64).name == "int4"
