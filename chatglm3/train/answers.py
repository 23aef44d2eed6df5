"""Answers of a network under training: greedy decoding of several prompts at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import nn
from transformers import DynamicCache


@torch.no_grad()
def greedy_answers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    stop_ids: Collection[int],
    max_tokens: int,
    pad_id: int,
) -> list[list[int]]:
    """The likeliest continuation of each prompt, without the token that ends it.

    Prompts are padded on the left, and positions count from each one's own first token. In a group of
    processes that share a network, all have to ask the same.
    """
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    tokens = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    cache, answers = DynamicCache(), [list[int]() for _ in prompts]
    open_rows = set(range(len(prompts)))
    for _ in range(max_tokens):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        logits = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        tokens = logits[:, -1].argmax(1, keepdim=True)
        mask = torch.cat((mask, torch.ones_like(tokens)), dim=1)
        for row in sorted(open_rows):
            token = int(tokens[row])
            if token in stop_ids:
                open_rows.remove(row)
            else:
                answers[row].append(token)
        if not open_rows:
            break
    return answers
