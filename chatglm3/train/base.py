"""The network that is trained: transformers' `GlmForCausalLM` over the weights of a checkpoint folder.

Weights go tensor by tensor from the files into the network, so the peak is the network's own size and one
tensor. The loss is computed where there is something to learn, a thousand tokens at a time: the logits of a
whole batch of a 65,024-word vocabulary would be larger than all else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GlmConfig, GlmForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding

from chatglm3.checkpoint import Checkpoint, NameTable
from chatglm3.config import ModelConfig
from chatglm3.errors import CheckpointError
from chatglm3.quant import QuantConfig
from chatglm3.train.frozen import frozen_part, quantized_part

_LOSS_TOKENS = 1024
"""Tokens whose logits are held at a time."""


class TrainableGlm(GlmForCausalLM):
    """GlmForCausalLM that takes packed rows, a prefix, and labels of which most are -100."""

    accepts_loss_kwargs = True  # Trainer then gives num_items_in_batch

    def forward(self, input_ids: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any) -> Any:
        """Without labels, GlmForCausalLM's own forward.

        input_ids, labels: [rows, length]; position_ids: the same, where rows are packed. num_items_in_batch:
        by what the sum of the losses is divided; the number of labels by default. Returns `loss` only.
        """
        if labels is None:
            return super().forward(input_ids=input_ids, **kwargs)
        count = kwargs.pop("num_items_in_batch", None)
        hidden = self.model(input_ids=input_ids, use_cache=False, **kwargs).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        chosen = targets != -100
        total = self._loss_sum(hidden[chosen], targets[chosen])
        return CausalLMOutputWithPast(loss=total / (chosen.sum().clamp(min=1) if count is None else count))

    def _loss_sum(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Sum of the cross-entropies of targets [tokens] after hidden [tokens, hidden_size]."""
        total = hidden.sum() * 0  # so that a batch without labels has a gradient too: zero
        for part, ids in zip(hidden.split(_LOSS_TOKENS), targets.split(_LOSS_TOKENS), strict=True):
            total = total + checkpoint(self._part_loss, part, ids, use_reentrant=False)
        return total

    def _part_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.lm_head(hidden).float(), targets, reduction="sum")


def load_base(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantize: str | None = None,
) -> TrainableGlm:
    """The network of a folder in either layout, its weights frozen.

    quantize: "int4" or "int8" (ours) or "nf4" (bitsandbytes, CUDA) brings each linear inside the layers into
        that form as it arrives; a folder that holds quantized weights keeps its own.
    Raises CheckpointError and ConfigError as loading for inference does.
    """
    config = ModelConfig.from_folder(folder)
    if config.prefix_length:
        raise CheckpointError(f"{folder} has a P-Tuning prefix; fine-tune its base model instead")
    stored = Checkpoint(folder, config)
    plain = replace(config, quantization=None, quantization_bit=None)
    model, table = _empty(plain, dtype), NameTable(plain, "glm")
    own = _own_scheme(config)
    for module, leaves in stored.modules.items():
        parts: dict[str, dict[str, Tensor]] = {}
        for leaf in leaves:
            # What belongs to a quantized weight keeps its dtype.
            kept = "qweight" in leaves and leaf != "bias"
            tensor = stored.read(f"{module}.{leaf}", device, None if kept else dtype)
            for name, part in table.split(f"{module}.{leaf}", tensor):
                target, _, last = name.rpartition(".")
                parts.setdefault(target, {})[last] = part
        for target, tensors in parts.items():
            if "qweight" in tensors:
                assert own is not None
                frozen_part(model, target, tensors, own.scheme_for(module))
            elif quantize and module.startswith("layers.") and "norm" not in module:
                quantized_part(model, target, tensors, quantize)
            else:
                for leaf, tensor in tensors.items():
                    setattr(model.get_submodule(target), leaf, nn.Parameter(tensor))
    model.model.rotary_emb = GlmRotaryEmbedding(model.config).to(device)
    if quantize == "nf4":
        model.is_loaded_in_4bit = True  # type: ignore[assignment]  # by which peft knows bitsandbytes' linears
    return model.requires_grad_(False)


def _empty(config: ModelConfig, dtype: torch.dtype) -> TrainableGlm:
    """The network on the meta device."""
    options = {"dtype": str(dtype).removeprefix("torch."), "attn_implementation": "sdpa"}
    with torch.device("meta"):
        return TrainableGlm(GlmConfig(**config.to_dict("glm") | options))


def _own_scheme(config: ModelConfig) -> QuantConfig | None:
    if config.quantization_bit:
        return QuantConfig.published(config.quantization_bit)
    return QuantConfig.from_dict(config.quantization) if config.quantization else None
