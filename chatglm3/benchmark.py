"""What a model reaches on a machine, and what the machine could reach: the arithmetic of `chatglm3 bench`."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from chatglm3.checkpoint import empty_model
from chatglm3.config import ModelConfig
from chatglm3.engine import GREEDY, Engine
from chatglm3.model import ChatGLMModel
from chatglm3.quant import QuantConfig, QuantizedWeight, quantize_embedding, quantize_linear

SHAPES = {
    "6b": ModelConfig(28, 4096, 32, 2, 128, 13696, 65024, 8192),
    "nano": ModelConfig(8, 192, 6, 2, 32, 512, 4096, 1024, dtype="float32"),
}
"""Networks of known sizes, by the names that --shape takes."""


@dataclass(frozen=True)
class Rate:
    """How fast something went."""

    tokens_per_second: float
    steps_per_second: float
    context: int
    """Cache entries that a step reads, over all its sequences; the mean over the steps."""


@dataclass(frozen=True)
class Limits:
    """What the machine does at best, measured."""

    bytes_per_second: float
    """Reading memory."""
    operations_per_second: float
    """Multiplying matrices; a multiplication and an addition are two operations."""
    operands: str
    """What was multiplied."""


def random_model(
    config: ModelConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantize: str | None = None,
) -> ChatGLMModel:
    """A network with random weights of a trained one's size, quantized weight by weight where wanted."""
    scheme = None if quantize is None else QuantConfig(quantize)
    generator = torch.Generator(device).manual_seed(0)
    model = empty_model(config)
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear | nn.Embedding):
            for own, parameter in module.named_parameters(recurse=False):
                ones = torch.ones(parameter.shape, dtype=dtype, device=device)
                setattr(module, own, nn.Parameter(ones, requires_grad=False))
            continue
        weight = torch.empty(module.weight.shape, dtype=dtype, device=device)
        weight.normal_(std=0.02, generator=generator)
        chosen = None if scheme is None else scheme.scheme_for(name)
        bias = getattr(module, "bias", None)
        if bias is not None:
            bias = nn.Parameter(torch.zeros(bias.shape, dtype=dtype, device=device), requires_grad=False)
        if chosen is None:
            module.weight = nn.Parameter(weight, requires_grad=False)
            if bias is not None:
                module.bias = bias
        elif isinstance(module, nn.Linear):
            linear = quantize_linear(weight, bias, chosen)
            linear.prepare()
            model.set_submodule(name, linear)
        else:
            model.set_submodule(name, quantize_embedding(weight, chosen))
    model.rotary.fill(torch.device(device))
    return model.eval()


def prefill(engine: Engine, length: int, repeats: int) -> Rate:
    """Prompts of `length` tokens, none of which is in the cache."""
    vocab = engine.valid_vocab
    prompts = iter([[(7 * i + 31 * turn + 1) % vocab for i in range(length)] for turn in range(repeats + 1)])

    def once() -> None:
        engine.generate([next(prompts)], GREEDY.replace(max_tokens=0, prompt_logprobs=None))

    once()
    seconds = statistics.median(_seconds(once) for _ in range(repeats))
    return Rate(length / seconds, 1 / seconds, length)


def decode(engine: Engine, batch: int, context: int, tokens: int, repeats: int) -> Rate:
    """`batch` answers of `tokens` tokens each, behind prompts of `context` tokens; those are not counted.

    The prompts are alike but for their last tokens, so that each is computed once.
    """
    vocab = engine.valid_vocab
    shared = [(11 * i + 3) % vocab for i in range(max(1, context - 1))]
    rates = []
    for _ in range(repeats):
        for row in range(batch):
            engine.submit([*shared, row % vocab], GREEDY.replace(max_tokens=tokens + 1))
        while engine.stats.generated_tokens % (batch * (tokens + 1)) < batch and engine.has_work:
            engine.step()
        steps, start = 0, time.perf_counter()
        while engine.has_work:
            engine.step()
            steps += 1
        rates.append((time.perf_counter() - start) / max(1, steps))
    seconds = statistics.median(rates)
    return Rate(batch / seconds, 1 / seconds, batch * (context + tokens // 2))


def measure_limits(device: torch.device) -> Limits:
    """Read bandwidth and the rate of matrix products, each the best of several tries."""
    big = torch.empty(1 << (27 if device.type == "cpu" else 32), dtype=torch.int8, device=device).fill_(1)
    words = big.view(torch.int64)
    seconds = min(_seconds(words.sum, device) for _ in range(5))
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        rate, operands = _int8_rate(), "int8"
    else:
        size = 1024 if device.type == "cpu" else 8192
        half = torch.float16 if device.type == "mps" else torch.bfloat16
        a, b = torch.randn(2, size, size, device=device).to(half)
        rate = 2 * size**3 / min(_seconds(lambda: a @ b, device) for _ in range(5))
        operands = str(half).removeprefix("torch.")
    return Limits(big.nbytes / seconds, rate, operands)


def _int8_rate() -> float:
    """oneDNN's int8 product: the nearest to the machine's peak that PyTorch has."""
    rows, size = 512, 4096
    x = torch.randint(0, 255, (rows, size), dtype=torch.uint8)
    weight = torch.randint(-127, 127, (size, size), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [rows, size])
    scales, zeros = torch.ones(size), torch.zeros(size, dtype=torch.int64)

    def product() -> None:
        torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return float(2 * rows * size * size / min(_seconds(product) for _ in range(5)))


def read_bytes(model: ChatGLMModel, rate: Rate) -> float:
    """What one step reads: all weights but the embedding, and the cache entries of its sequences."""
    weights = sum(_held(module) for name, module in model.named_modules() if name != "embedding")
    return weights + rate.context * model.config.kv_values_per_token * model.dtype.itemsize


def operations_per_token(model: ChatGLMModel) -> float:
    """Of the matrix products: two for each weight but those of the embedding."""
    shapes = [
        (module.rows * module.columns) if isinstance(module, QuantizedWeight) else module.weight.numel()
        for name, module in model.named_modules()
        if name != "embedding" and isinstance(module, nn.Linear | QuantizedWeight)
    ]
    return 2.0 * sum(shapes)


def _held(module: nn.Module) -> int:
    if isinstance(module, QuantizedWeight):
        layout = module.scheme.layout(module.rows, module.columns, module.dtype)
        return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in layout.values())
    return sum(tensor.nbytes for tensor in module.parameters(recurse=False))


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held: on a GPU there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # where getrusage counts what the parent held before this program began
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _seconds(work: Callable[[], object], device: torch.device | None = None) -> float:
    start = time.perf_counter()
    work()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
