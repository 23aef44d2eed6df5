"""The one table of weight names: ours, the ChatGLM layout's, and the Glm layout's, in both directions.

The *ChatGLM* layout is that of the published checkpoints; the *Glm* layout is that of transformers'
`GlmForCausalLM`. They hold the same numbers: Glm keeps query, key and value apart, and everything else is
only named differently. A name is a module's name and a tensor's (`weight`, `bias`, or a part of a quantized
weight, whose first axis is the weight's rows too), so the table lists modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from chatglm3.config import Layout, ModelConfig

_MODULES = {  # ours: (ChatGLM, Glm)
    "embedding": ("transformer.embedding.word_embeddings", "model.embed_tokens"),
    "final_norm": ("transformer.encoder.final_layernorm", "model.norm"),
    "output": ("transformer.output_layer", "lm_head"),
}

_LAYER_MODULES = {  # ours: (ChatGLM, Glm), inside layer i
    "attention_norm": ("input_layernorm", "input_layernorm"),
    "qkv": ("self_attention.query_key_value", ""),  # Glm: three modules, see _QKV
    "attention_out": ("self_attention.dense", "self_attn.o_proj"),
    "ffn_norm": ("post_attention_layernorm", "post_attention_layernorm"),
    "gate_up": ("mlp.dense_h_to_4h", "mlp.gate_up_proj"),
    "down": ("mlp.dense_4h_to_h", "mlp.down_proj"),
}

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

_PUBLISHED_QUANTIZED = {"qweight": "weight", "scales": "weight_scale"}

IGNORED = frozenset({"transformer.rotary_pos_emb.inv_freq"})
"""Stored in published checkpoints, and computed from the config here."""

PREFIX_ENCODER = "transformer.prefix_encoder."
"""Names of a P-Tuning v2 prefix begin so; prefix.py reads them."""


class Part(NamedTuple):
    """A stored tensor and the rows of ours that it holds."""

    name: str
    rows: slice = slice(None)


class NameTable:
    """Where one layout keeps each tensor of a network."""

    def __init__(self, config: ModelConfig, layout: Layout) -> None:
        self.config = config
        self.layout = layout
        side = 0 if layout == "chatglm" else 1
        self._modules: dict[str, tuple[Part, ...]] = {
            ours: (Part(names[side]),) for ours, names in _MODULES.items()
        }
        for i in range(config.num_layers):
            stem = f"transformer.encoder.layers.{i}" if layout == "chatglm" else f"model.layers.{i}"
            for ours, names in _LAYER_MODULES.items():
                self._modules[f"layers.{i}.{ours}"] = (Part(f"{stem}.{names[side]}"),)
            if layout == "glm":
                queries, keys = config.query_size, config.query_size + config.kv_size
                rows = (slice(0, queries), slice(queries, keys), slice(keys, keys + config.kv_size))
                self._modules[f"layers.{i}.qkv"] = tuple(
                    Part(f"{stem}.{name}", span) for name, span in zip(_QKV, rows, strict=True)
                )

    def parts(self, name: str) -> tuple[Part, ...]:
        """The stored tensors that make up our tensor `name`, in the order of its rows."""
        module, _, leaf = name.rpartition(".")
        if self.config.quantization_bit:
            leaf = _PUBLISHED_QUANTIZED.get(leaf, leaf)
        return tuple(Part(f"{part.name}.{leaf}", part.rows) for part in self._modules[module])

    def split(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Our tensor as the layout stores it: (stored name, tensor), contiguous."""
        if self._per_head(name):
            tensor = tensor.unflatten(0, (3, self.config.num_heads, -1)).transpose(0, 1).flatten(0, 2)
        for part in self.parts(name):
            yield part.name, tensor[part.rows].contiguous()

    def merge(self, name: str, stored: Mapping[str, Tensor]) -> Tensor:
        """Our tensor, from the stored ones by name."""
        parts = [stored[part.name] for part in self.parts(name)]
        return self.in_our_order(name, parts[0] if len(parts) == 1 else torch.cat(parts))

    def in_our_order(self, name: str, tensor: Tensor) -> Tensor:
        """Rows of all queries, then of all keys, then of all values, where they are stored head by head."""
        if self._per_head(name):
            return tensor.unflatten(0, (self.config.num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        return tensor

    def _per_head(self, name: str) -> bool:
        return self.layout == "chatglm" and self.config.qkv_per_head and ".qkv." in name
