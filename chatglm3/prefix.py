"""A P-Tuning v2 prefix (arXiv:2110.07602): learnt keys and values in front of every sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chatglm3.attention import KVCache
from chatglm3.config import ModelConfig
from chatglm3.errors import CheckpointError
from chatglm3.model import Rotary, rotate


@dataclass(frozen=True, eq=False)
class Prefix:
    """Learnt keys and values of P cache entries that come before a sequence's first token.

    The positions of the tokens that follow start at 0, as in the published code, whose keys carry no rotary.
    """

    keys: Tensor
    """[num_layers, P, kv_heads, head_dim]"""
    values: Tensor
    """[num_layers, P, kv_heads, head_dim]"""

    def encoded(self) -> Tensor:
        """[P, width], as the `embedding.weight` of a prefix encoder without projection holds it."""
        return torch.stack((self.keys, self.values), dim=1).permute(2, 0, 1, 3, 4).flatten(1)

    @property
    def num_values(self) -> int:
        """Numbers that it holds."""
        return self.keys.numel() + self.values.numel()

    @property
    def length(self) -> int:
        """Cache entries that the prefix takes in each sequence."""
        return self.keys.shape[1]

    @classmethod
    def from_encoder(cls, encoder: Mapping[str, Tensor], config: ModelConfig) -> Prefix:
        """From the weights of a published prefix encoder, in float32.

        encoder: `embedding.weight` [P, width] with width = num_layers * 2 * kv_heads * head_dim, and for the
        kind with a projection `trans.0.weight|bias` to hidden_size and `trans.2.weight|bias` back to width,
        with tanh between them. Raises CheckpointError where a tensor is missing, unknown or misshapen.
        """
        width, hidden = config.kv_values_per_token, config.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (config.prefix_length, width)}
        if config.prefix_projection:
            shapes |= {
                "trans.0.weight": (hidden, width),
                "trans.0.bias": (hidden,),
                "trans.2.weight": (width, hidden),
                "trans.2.bias": (width,),
            }
        found = {name: tuple(tensor.shape) for name, tensor in encoder.items()}
        if found != shapes:
            raise CheckpointError(
                f"the prefix encoder's tensors are {_listed(found)}, but config.json (pre_seq_len, "
                f"prefix_projection, the network's sizes) makes them {_listed(shapes)}"
            )
        states = encoder["embedding.weight"].float()
        if config.prefix_projection:
            states = F.linear(
                states, encoder["trans.0.weight"].float(), encoder["trans.0.bias"].float()
            ).tanh()
            states = F.linear(states, encoder["trans.2.weight"].float(), encoder["trans.2.bias"].float())
        states = states.view(config.prefix_length, config.num_layers, 2, config.num_kv_heads, config.head_dim)
        keys, values = states.permute(2, 1, 0, 3, 4)
        return cls(keys.contiguous(), values.contiguous())

    @classmethod
    def from_peft(cls, embeddings: Tensor, config: ModelConfig) -> Prefix:
        """From the `prompt_embeddings` [P, width] of peft's prefix tuning, in float32.

        peft's keys carry no rotary either, but it counts the tokens that follow from P on. A score depends on
        the difference of two positions, so keys turned to position -P mean the same to tokens counted from 0.
        Raises CheckpointError where the width is not the network's.
        """
        width = config.kv_values_per_token
        if (
            embeddings.dim() != 2
            or embeddings.shape[1] != width
            or not 0 < len(embeddings) < config.max_seq_len
        ):
            raise CheckpointError(
                f"the prefix is {list(embeddings.shape)}, but this network's are [tokens, {width}] with "
                f"fewer than {config.max_seq_len} tokens; was it trained for another model?"
            )
        states = embeddings.float().view(-1, config.num_layers, 2, config.num_kv_heads, config.head_dim)
        keys, values = states.permute(2, 1, 0, 3, 4).contiguous()
        cos, sin = Rotary(config)(torch.tensor([len(embeddings)]))
        rotate(keys.flatten(0, 1), cos, -sin)
        return cls(keys, values)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Prefix:
        """The prefix on another device, in another dtype."""
        return Prefix(self.keys.to(device, dtype), self.values.to(device, dtype))


def write_prefix(cache: KVCache, slots: Tensor, prefix: Prefix) -> None:
    """Put the prefix into slots [P] (int64), which a sequence has as its first cache entries."""
    keys, values = prefix.keys.to(cache.dtype), prefix.values.to(cache.dtype)
    for layer in range(len(cache.keys)):
        cache.write(layer, slots, keys[layer], values[layer])


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
