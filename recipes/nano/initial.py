"""Where nano's training starts: heads that look one token back, and heads that look for equal tokens.

From small random weights a network of this size needs many millions of tokens before it finds out that
answers can be looked up in the prompt: the heads that do it work in pairs, of which neither helps without
the other, and their biases start at zero, where a head that goes by position has no gradient. So the pairs
are put there as a start (induction heads: Olsson et al. 2022; such initial weights: Trockman and Kolter
2023), and training makes of them what it needs.
"""

from __future__ import annotations

import torch
from transformers import GlmForCausalLM

from chatglm3.config import ModelConfig

_BACK = (1.0, 1.0, 2.0)
"""How many tokens back the heads of a group look, in turn."""
_PULL = (49.0, 30.0, 20.0, 10.0)
"""How strongly each rotary frequency, from the fastest, draws them there (as products of query and key)."""


@torch.no_grad()
def wire(model: GlmForCausalLM, config: ModelConfig, embedding_std: float = 0.1) -> None:
    """Overwrite a new network's embeddings and attention weights.

    In layers 0, 2, ... the heads of the first key/value group look back and pass on the token that they see,
    turned into directions of its own; in layers 1, 3, ... they look for what was turned like that: a place
    whose predecessor equals the present token. The second group looks for equal tokens in every layer, and
    copies.
    """
    heads, groups, dim, width = config.num_heads, config.num_kv_heads, config.head_dim, config.hidden_size
    share = heads // groups
    turned = torch.linalg.qr(torch.randn(width, width))[0]
    rotary = dim // 2  # of a head's dimensions; the others know no position
    frequencies = 10000.0 ** (-torch.arange(0, rotary, 2) / rotary)
    model.model.embed_tokens.weight.normal_(0, embedding_std)

    def spread(*shape: int) -> torch.Tensor:
        return torch.randn(*shape) / width**0.5

    for index, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        keys, values = spread(groups, dim, width), spread(groups, dim, width)
        queries = keys.clone()
        query_bias, key_bias = torch.zeros(heads, dim), torch.zeros(groups, dim)
        passed_on = torch.eye(width).repeat(groups, 1, 1)
        if index % 2 == 0:
            queries[0] *= 0.1
            keys[0] *= 0.1
            passed_on[0] = turned
            for pair, pull in enumerate(_PULL):
                key_bias[0, 2 * pair] = pull**0.5
                for head in range(share):
                    angle = frequencies[pair] * _BACK[head % len(_BACK)]
                    query_bias[head, 2 * pair] = pull**0.5 * torch.cos(angle)
                    query_bias[head, 2 * pair + 1] = -(pull**0.5) * torch.sin(angle)
        else:
            keys[0] = keys[0] @ turned.T
        written = (
            0.5 / share * (width / dim) ** 0.5 * passed_on @ values.transpose(1, 2)
        )  # [groups, width, dim]
        attention.k_proj.weight.copy_(keys.flatten(0, 1))
        attention.v_proj.weight.copy_(values.flatten(0, 1))
        attention.q_proj.weight.copy_(
            queries.repeat_interleave(share, 0).flatten(0, 1) + 0.1 * spread(heads * dim, width)
        )
        attention.o_proj.weight.copy_(written.repeat_interleave(share, 0).permute(1, 0, 2).flatten(1))
        attention.o_proj.weight.add_(torch.randn(width, heads * dim), alpha=0.02)
        attention.q_proj.bias.copy_(query_bias.flatten())
        attention.k_proj.bias.copy_(key_bias.flatten())
        attention.v_proj.bias.zero_()
        layer.mlp.down_proj.weight.mul_(0.5)
