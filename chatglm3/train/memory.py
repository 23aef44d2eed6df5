"""What a run will need of a device's memory, before it starts.

Counted: weights, what is trained (in fp32, with its gradient and Adam's two moments), activations of one
micro-batch, and the logits of the tokens learnt at a time. Activations are an estimate, held against what
autograd keeps (tests/train/test_memory.py); all else is arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from chatglm3.config import ModelConfig
from chatglm3.estimate import parameter_count
from chatglm3.train.config import FinetuneConfig

_BYTES = {"float32": 4, "bfloat16": 2}
_QUANTIZED_BYTES = {"nf4": 0.5 + 4 / 64, "int4": 0.5 + 2 / 32, "int8": 1 + 2 / 32}
"""Of a weight, scales included."""
_LOSS_TOKENS = 1024
_RUNTIME = {"cpu": 600 << 20, "cuda": 1200 << 20}
"""Python, PyTorch, transformers and peft; for CUDA its context and libraries."""


@dataclass(frozen=True)
class TrainingNeed:
    """Bytes on one device."""

    weights: int
    trained: int
    """Gradients and optimizer state of what is trained, and its fp32 weights where they are extra."""
    activations: int
    loss: int
    runtime: int

    @property
    def total(self) -> int:
        """Everything together."""
        return self.weights + self.trained + self.activations + self.loss + self.runtime


def training_need(
    base: ModelConfig, config: FinetuneConfig, *, device: str, dtype: str, longest: int, processes: int = 1
) -> TrainingNeed:
    """What `config` needs for each device, with samples of up to `longest` tokens."""
    plain = replace(base, quantization=None, quantization_bit=None)
    count = parameter_count(plain)
    linears = (
        plain.num_layers
        * plain.hidden_size
        * (2 * plain.query_size + 2 * plain.kv_size + 3 * plain.ffn_hidden_size)
    )
    full = config.method == "full"
    size = _BYTES["float32"] if full else _BYTES[dtype]
    weights = count * size
    if full and dtype == "bfloat16":
        weights += count * _BYTES[dtype]  # autocast keeps a copy of each from forward to backward
    if config.method == "qlora":
        weights = int((count - linears) * size + linears * _QUANTIZED_BYTES[config.qlora.base])
    adapter = _adapter_parameters(plain, config)
    trained = count * 12 if full else adapter * 16
    if config.fsdp or config.deepspeed:
        weights, trained = weights // processes, trained // processes
    tokens = longest * config.micro_batch_size * (2 if config.task == "dpo" else 1)
    return TrainingNeed(
        weights=weights,
        trained=trained,
        activations=_activations(plain, config, tokens, _BYTES[dtype]),
        loss=min(tokens, _LOSS_TOKENS) * plain.vocab_size * (4 + 4 + _BYTES[dtype]),
        runtime=_RUNTIME[device],
    )


def _adapter_parameters(base: ModelConfig, config: FinetuneConfig) -> int:
    hidden, ffn = base.hidden_size, base.ffn_hidden_size
    if config.method == "full":
        return 0
    if config.method == "ptuning":
        width, length = base.kv_values_per_token, config.ptuning.length
        if not config.ptuning.projection:
            return length * width
        return length * base.kv_size + hidden * (base.kv_size + 1) + width * (hidden + 1)
    sides = {
        "q_proj": hidden + base.query_size, "k_proj": hidden + base.kv_size, "v_proj": hidden + base.kv_size,
        "o_proj": base.query_size + hidden, "gate_up_proj": hidden + 2 * ffn, "down_proj": ffn + hidden,
    }  # fmt: skip
    return base.num_layers * config.lora.rank * sum(sides[name] for name in config.lora.targets)


def _activations(base: ModelConfig, config: FinetuneConfig, tokens: int, size: int) -> int:
    """What the backward pass keeps: all layers, or with checkpointing one and the borders of the others."""
    hidden, ffn = base.hidden_size, base.ffn_hidden_size
    layer = 6 * hidden + 2 * base.query_size + 2 * base.kv_size + 4 * ffn
    if config.method == "full":
        layer += 2 * hidden + base.query_size + ffn  # the inputs of weights that take a gradient
    elif config.method != "ptuning":
        # Each update keeps its input, and with dropout what is left of it and which was dropped.
        inputs = {"o_proj": base.query_size, "down_proj": ffn}
        kept = sum(inputs.get(name, hidden) for name in config.lora.targets)
        layer += int(kept * (1 if config.lora.dropout == 0 else 2.5))
    layers = 1 if config.gradient_checkpointing else base.num_layers
    borders = base.num_layers * hidden * 2
    return tokens * size * (layers * layer + borders)
