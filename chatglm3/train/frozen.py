"""Quantized weights under training: frozen, dequantized for each product and its gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatglm3.errors import DeviceError
from chatglm3.quant import SCHEMES, QuantEmbedding, Scheme


class FrozenLinear(nn.Linear):
    """A linear over a quantized weight that passes gradients through and takes none itself."""

    def __init__(self, rows: int, columns: int, scheme: Scheme, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.in_features, self.out_features, self.scheme = columns, rows, scheme
        self.register_parameter("bias", bias)
        self.qweight: Tensor
        self.scales: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out_features, in_features], dequantized anew each time."""
        return self.scheme.dequantize({"qweight": self.qweight, "scales": self.scales}, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] to [..., out_features]."""
        y: Tensor = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    """x times the weight, of which the graph keeps the quantized form only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


def frozen_part(model: nn.Module, name: str, tensors: dict[str, Tensor], scheme: Scheme | None) -> None:
    """Put quantized tensors (`qweight`, `scales`, perhaps `bias`) in the place of the module `name`."""
    assert scheme is not None
    module = model.get_submodule(name)
    frozen: nn.Module
    if isinstance(module, nn.Embedding):
        rows, columns = module.weight.shape
        frozen = QuantEmbedding(rows, columns, scheme, dtype=module.weight.dtype, device="meta")
    else:
        assert isinstance(module, nn.Linear)
        bias = tensors.get("bias")
        frozen = FrozenLinear(
            module.out_features, module.in_features, scheme, None if bias is None else nn.Parameter(bias)
        )
    for leaf in ("qweight", "scales"):
        frozen.register_buffer(leaf, tensors[leaf])
    model.set_submodule(name, frozen)


def quantized_part(model: nn.Module, name: str, tensors: dict[str, Tensor], form: str) -> None:
    """Quantize `weight` (and keep `bias`) in the place of the linear `name`: "int4", "int8" or "nf4"."""
    if form != "nf4":
        plain = SCHEMES[form].quantize(tensors.pop("weight"))
        frozen_part(model, name, tensors | plain, SCHEMES[form])
        return
    try:
        import bitsandbytes
    except ModuleNotFoundError:
        raise DeviceError(
            "nf4 needs bitsandbytes: pip install bitsandbytes; or set qlora.base=int4"
        ) from None
    weight, bias = tensors["weight"], tensors.get("bias")
    linear = bitsandbytes.nn.Linear4bit(
        weight.shape[1], weight.shape[0], bias=bias is not None, compute_dtype=weight.dtype, quant_type="nf4",
        device="meta",
    )  # fmt: skip
    linear.weight = bitsandbytes.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4")
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    model.set_submodule(name, linear.to(weight.device))  # on its way there it is quantized
