"""P-Tuning v2 as peft's prefix tuning, trained where peft's own forward pass cannot be.

peft hands the prefix over as a cache that holds P positions already. Gradient checkpointing drops that cache
without a word, packed rows cannot use it, and rows padded on the left get wrong positions. Here the prefix
goes to the attention of each layer as keys and values that stand before the others: no cache, the same
numbers. Like peft's, the tokens' positions begin at P (in the published P-Tuning v2 at 0), and what is saved
is what peft saves and loads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModelForCausalLM
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "chatglm3_prefix"


class PrefixTunedGlm(PeftModelForCausalLM):
    """A TrainableGlm with a learnt prefix."""

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, position_ids: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """As TrainableGlm's; position_ids count from 0 in each sequence."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        prefix = self.prefix()
        position_ids = position_ids + prefix.shape[3]
        return self.base_model(input_ids=input_ids, position_ids=position_ids, prefix=prefix, **kwargs)

    def prefix(self) -> Tensor:
        """[layers, 2 (keys, values), kv_heads, P, head_dim] in fp32, from what is learnt."""
        config, adapter = self.active_peft_config, self.active_adapter
        numbers = torch.arange(config.num_virtual_tokens, device=self.device)
        states = self.prompt_encoder[adapter](numbers)
        heads = config.num_attention_heads
        return states.view(len(states), config.num_layers, 2, heads, -1).permute(1, 2, 3, 0, 4)


def _attention(  # noqa: PLR0917 (the signature is transformers')
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    *,
    prefix: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over the prefix and what the mask shows of the rest.

    query: [batch, heads, length, head_dim]; key, value: [batch, kv_heads, cached + length, head_dim];
    attention_mask: [batch or 1, 1, length, cached + length] bool, True where it may look; None is causal.
    """
    batch, heads, length = query.shape[:3]
    own: Tensor = prefix[module.layer_idx].to(key.dtype)  # type: ignore[index]
    keys, values = (
        torch.cat((side[None].expand(batch, -1, -1, -1), rest), dim=2)
        for side, rest in zip(own, (key, value), strict=True)
    )
    if attention_mask is None:
        total = key.shape[2]
        attention_mask = torch.ones(length, total, dtype=torch.bool, device=key.device).tril(total - length)
    mask = F.pad(attention_mask, (own.shape[2], 0), value=True)
    groups = heads // key.shape[1]
    mixed = F.scaled_dot_product_attention(
        query, keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1), mask, scale=scaling
    )
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
