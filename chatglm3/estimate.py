"""What a model will need, from its configuration alone: no weight is read, nothing is downloaded.

Sizes are counted on the network built on PyTorch's meta device, so they are those of the modules that will
run, not of a formula beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from chatglm3.attention import KVCache
from chatglm3.checkpoint import empty_model, stored_tensors
from chatglm3.config import ModelConfig
from chatglm3.quant import QuantConfig, packing_bytes, quantize_structure
from chatglm3.quant.kernels import native_kernels

FORMATS: dict[str, tuple[torch.dtype, str | None]] = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "float16": (torch.float16, None),
    "int8": (torch.bfloat16, "int8"),
    "int4": (torch.bfloat16, "int4"),
}
"""Name -> (dtype of activations and cache, quantization scheme of the weights)."""

STEP_TOKENS = {"cpu": 512, "mps": 512, "cuda": 2048}
"""Tokens that one engine step computes by default: enough for the device's matrix products at full speed."""

_RUNTIME_BYTES = {"cpu": 260 << 20, "mps": 300 << 20, "cuda": 600 << 20}
"""What Python and PyTorch take (on a CPU as measured), and for CUDA a usual context with its libraries."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a model takes on one device in one format, with a cache for `context` tokens."""

    format: str
    device: str
    context: int
    weights: int
    """As the device's kernels hold them."""
    cache: int
    """Keys and values of `context` tokens."""
    working: int
    """Activations of one step, and what Python, PyTorch and the device's libraries take."""

    @property
    def total(self) -> int:
        """Everything together."""
        return self.weights + self.cache + self.working


def parameter_count(config: ModelConfig) -> int:
    """Weights of the network, norms and biases included, however they are stored."""
    return sum(parameter.numel() for parameter in empty_model(_unquantized(config)).parameters())


def stored_bytes(config: ModelConfig) -> int:
    """Bytes of the checkpoint's tensors in the form that config.json names."""
    return sum(tensor.nbytes for tensor in empty_model(config).state_dict().values())


def disk_bytes(folder: str | Path) -> int:
    """Bytes of the files that hold the weights. Raises CheckpointError where they are missing or damaged."""
    paths = {tensor.path for tensor in stored_tensors(Path(folder)).values()}
    return sum(path.stat().st_size for path in paths)


def memory_need(
    config: ModelConfig, format: str, device: str, context: int, *, int8_cache: bool = False
) -> MemoryNeed:
    """What running the model takes at its peak; on a CPU measured to lie within 10 % of it.

    format: a key of `FORMATS`. device: "cpu", "cuda" or "mps". context: tokens of all running conversations
    together, a prompt that several share counted once. int8_cache: with keys and values in 8 bits.
    """
    dtype, scheme = FORMATS[format]
    model = empty_model(_unquantized(config)).to(dtype)
    packing = 0
    if scheme is not None:
        quantize_structure(model, _quantization(config, scheme))
        packing = packing_bytes(model, device)
    tensors = [*model.parameters(), *model.buffers()]
    if native_kernels(device):
        # Their buffers, float32: input, residual, its norm; queries, keys and values; feed-forward halves.
        per_token = (
            3 * config.hidden_size + config.query_size + 2 * config.kv_size + 2 * config.ffn_hidden_size
        )
        widest = STEP_TOKENS[device] * per_token * torch.float32.itemsize
    else:
        # The widest moment: both halves of the feed-forward network, their product, and the residual.
        widest = STEP_TOKENS[device] * (2 * config.hidden_size + 4 * config.ffn_hidden_size) * dtype.itemsize
    per_entry = KVCache.bytes_per_token(config, dtype, int8=int8_cache)
    return MemoryNeed(
        format=format,
        device=device,
        context=context,
        weights=sum(tensor.nbytes for tensor in tensors) + packing,
        cache=per_entry * (context + config.prefix_length),
        working=widest + _RUNTIME_BYTES[device],
    )


def _quantization(config: ModelConfig, scheme: str) -> QuantConfig:
    """How `scheme` is applied: as the checkpoint has it, where it is quantized so already."""
    if config.quantization and config.quantization["scheme"] == scheme:
        return QuantConfig.from_dict(config.quantization)
    if scheme == f"int{config.quantization_bit}":
        return QuantConfig.published(int(scheme.removeprefix("int")))
    return QuantConfig(scheme)


def _unquantized(config: ModelConfig) -> ModelConfig:
    return replace(config, quantization=None, quantization_bit=None)
