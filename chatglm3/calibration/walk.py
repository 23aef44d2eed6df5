"""Through the network, layer by layer: each linear is quantized for what the quantized ones before it give.

The model is never in memory as a whole, but one layer in float32, the hidden states of the samples, and a few
matrices of the size of one linear's second moment: for the 6B model 0.8 GB, up to 0.6 GB, and up to 3 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from chatglm3.attention import AttentionBatch, packed_batch
from chatglm3.checkpoint import Checkpoint, save_model
from chatglm3.config import ModelConfig
from chatglm3.errors import CheckpointError, DeviceError, InvalidParameterError
from chatglm3.model import Layer, Rotary
from chatglm3.quant import QuantConfig, Scheme, quantize_embedding, quantize_linear
from chatglm3.quant.gptq import quantize_for
from chatglm3.quant.groupwise import Groupwise

_PACK_TOKENS = 2048
"""Samples are computed together up to this many tokens."""

Progress = Callable[[int, int], None]
"""Told (layers done, layers)."""


@dataclass
class _Pack:
    """Some samples on their way through the network."""

    hidden: Tensor
    """[N, hidden_size]: what the next layer is given."""
    cos: Tensor
    sin: Tensor
    batch: AttentionBatch


def write_calibrated(
    folder: str | Path,
    output: str | Path,
    quant: QuantConfig,
    samples: Sequence[Sequence[int]],
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> None:
    """Write the model in `folder` to `output` in int4, its linears quantized for what `samples` give them.

    samples: token ids of each. device: "cpu" or "cuda", for the computation. Raises CheckpointError where the
    model is quantized already or not finite on these samples, and as `save_model` and `Checkpoint` do.
    """
    config = ModelConfig.from_folder(folder)
    if config.quantization or config.quantization_bit:
        raise CheckpointError(f"{folder} is quantized already; give the original weights")
    checkpoint = Checkpoint(folder, config)
    weights = calibrated_weights(checkpoint, config, quant, samples, device=device, progress=progress)
    save_model(weights, replace(config, quantization=quant.to_dict()), output)


def calibrated_weights(
    checkpoint: Checkpoint,
    config: ModelConfig,
    quant: QuantConfig,
    samples: Sequence[Sequence[int]],
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor) of every tensor of the quantized model, in the order of the network, on the CPU."""
    device = torch.device(device)
    _check(config, quant, samples, device)
    return _walk(checkpoint, config, quant, _packs(checkpoint, config, samples, device), progress)


def _walk(
    checkpoint: Checkpoint,
    config: ModelConfig,
    quant: QuantConfig,
    packs: list[_Pack],
    progress: Progress | None,
) -> Iterator[tuple[str, Tensor]]:
    yield from _as_scheme(checkpoint, "embedding", quant.scheme_for("embedding"))
    for index in range(config.num_layers):
        for name, tensor in _layer(checkpoint, config, index, quant, packs):
            yield f"layers.{index}.{name}", tensor.cpu()
        if progress is not None:
            progress(index + 1, config.num_layers)
    for leaf in checkpoint.modules.get("final_norm", []):
        yield f"final_norm.{leaf}", checkpoint.read(f"final_norm.{leaf}")
    yield from _as_scheme(checkpoint, "output", quant.scheme_for("output"))


def _check(
    config: ModelConfig, quant: QuantConfig, samples: Sequence[Sequence[int]], device: torch.device
) -> None:
    if quant.scheme != "int4":
        raise InvalidParameterError(
            f"calibration is for int4; {quant.scheme} loses next to nothing without it, so leave it out"
        )
    if not samples or not all(samples):
        raise InvalidParameterError("there is no calibration sample, or an empty one; give some text")
    if (largest := max(map(max, samples))) >= config.vocab_size:
        raise InvalidParameterError(
            f"a calibration sample has the id {largest}, and the model knows {config.vocab_size}; take the "
            "model's own tokenizer"
        )
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"calibration runs on cpu and cuda, not on {device}; use device='cpu'")


def _as_scheme(checkpoint: Checkpoint, name: str, scheme: Scheme | None) -> Iterator[tuple[str, Tensor]]:
    """The embedding's or the output layer's tensors; these are not calibrated."""
    weight = checkpoint.read(f"{name}.weight")
    if scheme is None:
        yield f"{name}.weight", weight
        return
    module = (
        quantize_embedding(weight, scheme) if name == "embedding" else quantize_linear(weight, None, scheme)
    )
    for part, tensor in module.plain().items():
        yield f"{name}.{part}", tensor


def _packs(
    checkpoint: Checkpoint, config: ModelConfig, samples: Sequence[Sequence[int]], device: torch.device
) -> list[_Pack]:
    """The samples as the first layer is given them."""
    embedding = checkpoint.map("embedding.weight")
    rotary = Rotary(config).to(device)
    one_layer = replace(config, num_layers=1)
    packs = []
    for group in _grouped(samples):
        lengths = [len(ids) for ids in group]
        hidden = embedding[torch.tensor([i for ids in group for i in ids])].to(device, torch.float32)
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])
        batch = packed_batch(one_layer, lengths, device=device)
        cos, sin = rotary(positions)
        packs.append(_Pack(hidden, cos, sin, batch))
    return packs


def _grouped(samples: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    group: list[Sequence[int]] = []
    for ids in sorted(samples, key=len):  # of like lengths: each takes a cache block of the longest one
        if group and len(ids) + sum(map(len, group)) > _PACK_TOKENS:
            yield group
            group = []
        group.append(ids)
    yield group


def _layer(
    checkpoint: Checkpoint, config: ModelConfig, index: int, quant: QuantConfig, packs: list[_Pack]
) -> Iterator[tuple[str, Tensor]]:
    """Quantize one layer, and take the samples through it. Gives its tensors by their names in the layer."""
    with torch.device("meta"):
        layer = Layer(config, 0)  # its cache is that of one layer
    for name, _ in list(layer.named_parameters()):
        tensor = checkpoint.read(f"layers.{index}.{name}", packs[0].hidden.device, torch.float32)
        module, _, leaf = name.rpartition(".")
        setattr(layer.get_submodule(module), leaf, nn.Parameter(tensor, requires_grad=False))
        if leaf == "bias" or "norm" in module:
            yield name, checkpoint.read(f"layers.{index}.{name}")

    def attention(pack: _Pack) -> Tensor:
        normed = layer.attention_norm(pack.hidden)
        residual: Tensor = normed if layer.residual_after_norm else pack.hidden
        return residual + layer.attention(normed, pack.cos, pack.sin, pack.batch, None)

    def feed_forward(pack: _Pack) -> Tensor:
        normed = layer.ffn_norm(pack.hidden)
        residual: Tensor = normed if layer.residual_after_norm else pack.hidden
        return residual + layer.feed_forward(normed, None)

    halves = (
        (attention, layer.attention_norm, "qkv", "attention_out"),
        (feed_forward, layer.ffn_norm, "gate_up", "down"),
    )
    for half, norm, first, second in halves:
        normed = (norm(pack.hidden) for pack in packs)
        yield from _quantized(layer, first, f"layers.{index}.{first}", quant, normed)
        between = _given_to(layer.get_submodule(second), half, packs)
        yield from _quantized(layer, second, f"layers.{index}.{second}", quant, between)
        for pack in packs:
            pack.hidden = half(pack)


def _given_to(linear: nn.Module, run: Callable[[_Pack], Tensor], packs: Iterable[_Pack]) -> Iterator[Tensor]:
    """What a linear is given in each run."""
    caught: list[Tensor] = []
    hook = linear.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    try:
        for pack in packs:
            run(pack)
            yield caught.pop()
    finally:
        hook.remove()


def _quantized(
    layer: Layer, name: str, full_name: str, quant: QuantConfig, inputs: Iterable[Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Quantize one linear of the layer for these inputs [N, columns]; from here on it computes as it will."""
    scheme = quant.scheme_for(full_name)
    assert isinstance(scheme, Groupwise)
    linear = layer.get_submodule(name)
    weight = linear.get_parameter("weight")
    columns = weight.shape[1]
    moment, count = torch.zeros((columns, columns), device=weight.device), 0
    for x in inputs:
        moment.addmm_(x.T, x)
        count += len(x)
    if not moment.isfinite().all():
        raise CheckpointError(f"the samples give inf or nan to {full_name}; the checkpoint is damaged")
    plain = quantize_for(scheme, weight, moment.div_(count))
    linear.weight = nn.Parameter(scheme.dequantize(plain, columns), requires_grad=False)
    for part, tensor in plain.items():
        yield f"{name}.{part}", tensor
