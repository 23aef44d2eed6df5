"""Which weights of a model are quantized, and how: `quantization_config` of config.json, and applying it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor, nn

from chatglm3.errors import ConfigError, InvalidParameterError
from chatglm3.quant.groupwise import Groupwise
from chatglm3.quant.kernels import packed_overhead
from chatglm3.quant.modules import QuantEmbedding, QuantizedWeight, QuantLinear
from chatglm3.quant.per_row import PerRow
from chatglm3.quant.scheme import Scheme

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme for scheme in (Groupwise(8), Groupwise(4), PerRow(8), PerRow(4))
}
"""Every scheme by name. A new one: a file with a class like `Groupwise`, and an entry here."""


@dataclass(frozen=True)
class QuantConfig:
    """What `quantization_config` says. Norms and biases are never quantized."""

    scheme: str
    """Key in `SCHEMES` for the linears inside the layers."""
    group_size: int = 32
    """Columns that share a scale (`int8` and `int4`)."""
    embedding: str | None = "int8"
    """Scheme of the embedding; None keeps it as it is."""
    output: str | None = "int8"
    """Scheme of the output layer; None keeps it as it is."""

    def __post_init__(self) -> None:
        for name in (self.scheme, self.embedding, self.output):
            if name is not None and name not in SCHEMES:
                raise InvalidParameterError(
                    f"{name!r} is no quantization scheme; there are {', '.join(SCHEMES)}"
                )
        Groupwise(4, self.group_size)  # a wrong size is refused here, before any weight is read

    @classmethod
    def published(cls, bits: int) -> QuantConfig:
        """Of a published checkpoint with `quantization_bit`: the linears of the layers, nothing else."""
        return cls(f"published-int{bits}", embedding=None, output=None)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QuantConfig:
        """From `ModelConfig.quantization`. Raises ConfigError on an unknown key or value."""
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown or "scheme" not in data:
            raise ConfigError(
                f"quantization_config has {sorted(data)}; this version reads "
                f"{[field.name for field in fields(cls)]}; quantize the original weights again"
            )
        try:
            return cls(**data)
        except (InvalidParameterError, TypeError) as error:
            raise ConfigError(f"quantization_config: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """For `ModelConfig.quantization`."""
        return asdict(self)

    def scheme_for(self, module: str) -> Scheme | None:
        """Scheme of the linear or embedding with this name in the model; None where it stays as it is."""
        name = {"embedding": self.embedding, "output": self.output}.get(module, self.scheme)
        if name is None:
            return None
        scheme = SCHEMES[name]
        return Groupwise(scheme.bits, self.group_size) if isinstance(scheme, Groupwise) else scheme


def quantize_linear(weight: Tensor, bias: Tensor | None, scheme: Scheme) -> QuantLinear:
    """A linear over `weight` [out, in], quantized; the bias is kept."""
    rows, columns = weight.shape
    linear = QuantLinear(columns, rows, scheme, bias=bias is not None, dtype=weight.dtype, device="meta")
    linear.quantize_(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def quantize_embedding(weight: Tensor, scheme: Scheme) -> QuantEmbedding:
    """An embedding over `weight` [ids, columns], quantized."""
    rows, columns = weight.shape
    embedding = QuantEmbedding(rows, columns, scheme, dtype=weight.dtype, device="meta")
    embedding.quantize_(weight)
    return embedding


def quantize_structure(model: nn.Module, config: QuantConfig) -> None:
    """Put empty quantized modules where the config wants them; no weight is read, so `model` can be on meta.

    Each then takes a weight by `quantize_`, or its plain tensors by `load_state_dict(..., assign=True)`.
    """
    for name, scheme in _targets(model, config):
        module = model.get_submodule(name)
        weight = module.get_parameter("weight")
        (rows, columns), dtype, device = weight.shape, weight.dtype, weight.device
        if isinstance(module, nn.Linear):
            has_bias = module.bias is not None
            linear = QuantLinear(columns, rows, scheme, bias=has_bias, dtype=dtype, device=device)
            model.set_submodule(name, linear)
        else:
            model.set_submodule(name, QuantEmbedding(rows, columns, scheme, dtype=dtype, device=device))


def quantize_model(model: nn.Module, config: QuantConfig) -> None:
    """Quantize a loaded model in place, one module at a time, and pack it for its device."""
    for name, scheme in _targets(model, config):
        module = model.get_submodule(name)
        weight = module.get_parameter("weight").detach()
        if isinstance(module, nn.Linear):
            bias = None if module.bias is None else module.bias.detach()
            model.set_submodule(name, quantize_linear(weight, bias, scheme))
        else:
            model.set_submodule(name, quantize_embedding(weight, scheme))
    prepare_model(model)


def _targets(model: nn.Module, config: QuantConfig) -> list[tuple[str, Scheme]]:
    # Names, not modules: a list of modules would keep every weight alive until the last one is replaced.
    return [
        (name, scheme)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
        if (scheme := config.scheme_for(name)) is not None
    ]


def prepare_model(model: nn.Module) -> None:
    """Pack every quantized linear for the device where it lies."""
    for module in model.modules():
        if isinstance(module, QuantLinear):
            module.prepare()


def packing_bytes(model: nn.Module, device: str) -> int:
    """What packing the model's weights for `device` adds to their plain size."""
    linears = [module for module in model.modules() if isinstance(module, QuantLinear)]
    return sum(packed_overhead(linear.scheme, linear.plain(), device, linear.dtype) for linear in linears)


def is_quantized(model: nn.Module) -> bool:
    """Whether any weight of the model is quantized."""
    return any(isinstance(module, QuantizedWeight) for module in model.modules())
