"""A model with an adapter in it: written tensor by tensor, never whole in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from chatglm3.adapters.load import read_adapter
from chatglm3.adapters.stored import StoredLora
from chatglm3.checkpoint import Checkpoint, empty_model, save_model
from chatglm3.config import Layout, ModelConfig
from chatglm3.errors import CheckpointError
from chatglm3.prefix import Prefix
from chatglm3.quant import QuantConfig, quantize_embedding, quantize_linear


def merge(
    base: str | Path,
    adapter: str | Path,
    output: str | Path,
    *,
    layout: Layout = "chatglm",
    quantize: str | None = None,
) -> None:
    """Write the model in the folder `base` with an adapter: a LoRA in its weights, a prefix beside them.

    Sums are made in float32 and written in the base's own dtype. quantize: "int8" or "int4", to bring each
    weight into few bits once the adapter is in it. Raises CheckpointError where base and adapter do not
    belong together, or the base is quantized or has a prefix already; ConfigError for a prefix in the Glm
    layout, which has no place for it.
    """
    config = ModelConfig.from_folder(base)
    if config.quantization or config.quantization_bit:
        raise CheckpointError(
            f"{base} is quantized, and what is added to its weights would be rounded again; merge into the "
            "original weights, and quantize with the same command (--quantize)"
        )
    if config.prefix_length:
        raise CheckpointError(f"{base} has a P-Tuning prefix of its own; give the model that it was made for")
    stored = read_adapter(adapter, base, config)
    prefix = stored if isinstance(stored, Prefix) else None
    weights = iter(Checkpoint(base, config))
    if isinstance(stored, StoredLora):
        weights = _summed(weights, stored)
    if quantize is not None:
        scheme = QuantConfig(quantize)
        weights = _quantized(weights, config, scheme)
        config = replace(config, quantization=scheme.to_dict())
    save_model(weights, config, output, layout=layout, prefix=prefix)


def _summed(weights: Iterator[tuple[str, Tensor]], lora: StoredLora) -> Iterator[tuple[str, Tensor]]:
    return ((name, lora.weight(name, tensor)) for name, tensor in weights)


def _quantized(
    weights: Iterator[tuple[str, Tensor]], config: ModelConfig, scheme: QuantConfig
) -> Iterator[tuple[str, Tensor]]:
    """The same weights with those that the scheme takes in its form."""
    model = empty_model(config)
    for name, tensor in weights:
        module, _, leaf = name.rpartition(".")
        kind = model.get_submodule(module)
        to_scheme = scheme.scheme_for(module) if isinstance(kind, nn.Linear | nn.Embedding) else None
        if to_scheme is None or leaf != "weight":
            yield name, tensor
        else:
            linear = isinstance(kind, nn.Linear)
            quantized = (
                quantize_linear(tensor, None, to_scheme) if linear else quantize_embedding(tensor, to_scheme)
            )
            yield from ((f"{module}.{part}", plain) for part, plain in quantized.plain().items())
