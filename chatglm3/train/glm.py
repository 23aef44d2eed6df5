"""The network as transformers' `GlmForCausalLM`, on which training runs, and the way back to checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, GlmConfig, GlmForCausalLM

from chatglm3.checkpoint import NameTable, empty_model
from chatglm3.config import ModelConfig
from chatglm3.train.encode import Batch


def new_glm(config: ModelConfig, *, tied: bool = False) -> GlmForCausalLM:
    """A network with random weights.

    tied: one matrix serves as embedding and output layer while training. A checkpoint holds two copies of it
    in the end, since this architecture has two matrices.
    """
    glm_config = GlmConfig(**config.to_dict("glm") | {"tie_word_embeddings": tied, "dtype": "float32"})
    model = GlmForCausalLM(glm_config)
    model.set_attn_implementation("chatglm3_plain")
    return model


def _plain_attention(  # noqa: PLR0917 (the signature is transformers')
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention over rows padded on the right, as two matrix products per group of heads.

    query: [batch, heads, length, head_dim]; key, value: [batch, groups, length, head_dim]. On a CPU, in bf16,
    with short sequences, this takes a half to a quarter of the time of torch's fused attention.
    """
    batch, heads, length, head_dim = query.shape
    groups = key.shape[1]
    rows = query.reshape(batch, groups, heads // groups * length, head_dim) * scaling
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    hidden = query.new_zeros(length, length).masked_fill_(future, -1e4).repeat(heads // groups, 1)
    weights = torch.softmax(rows @ key.transpose(-1, -2) + hidden, dim=-1)
    mixed = (weights @ value).view(batch, heads, length, head_dim)
    return mixed.transpose(1, 2), None


AttentionInterface.register("chatglm3_plain", _plain_attention)


def glm_weights(model: GlmForCausalLM, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Its weights under our names, as `chatglm3.checkpoint.save_model` takes them."""
    table, stored = NameTable(config, "glm"), model.state_dict()
    for name in empty_model(config).state_dict():
        tensor = table.merge(name, stored).detach()
        yield (
            name,
            tensor.clone() if name == "output.weight" else tensor,
        )  # which may be tied to the embedding


def batch_loss(model: GlmForCausalLM, batch: Batch) -> Tensor:
    """The sum over tokens of weight x cross-entropy; the output layer runs where a weight is not zero."""
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state[:, :-1]
    weights = batch.weights[:, 1:]
    chosen = weights > 0
    logits = model.lm_head(hidden[chosen]).float()
    losses = torch.nn.functional.cross_entropy(logits, batch.tokens[:, 1:][chosen], reduction="none")
    return (losses * weights[chosen]).sum()
