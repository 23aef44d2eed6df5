"""The model's own embedding of a text: its last hidden states, averaged."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from chatglm3.adapters import Adapter, Lora, Prefix, write_prefix
from chatglm3.attention import AttentionBatch, KVCache
from chatglm3.loading import LoadedModel
from chatglm3.lora import LoraBatch

SLICE = 512
"""Tokens that are computed at once, between two steps of the engine."""


def embed(
    loaded: LoadedModel, adapter: Adapter | None, ids: Sequence[int], skip: int
) -> Generator[None, None, list[float]]:
    """The mean of the final hidden states of ids[skip:], with length 1; a job for `between_steps`.

    skip: tokens at the beginning that say nothing about the text, such as `[gMASK] sop`.
    """
    first = adapter.length if isinstance(adapter, Prefix) else 0
    lora = LoraBatch([(adapter, slice(None))]) if isinstance(adapter, Lora) else None
    cache = KVCache(
        loaded.config, num_blocks=1, block_size=first + len(ids), dtype=loaded.dtype, device=loaded.device
    )
    if isinstance(adapter, Prefix):
        write_prefix(cache, torch.arange(first, device=loaded.device), adapter)
    total = torch.zeros(loaded.config.hidden_size, device=loaded.device)
    for start in range(0, len(ids), SLICE):
        part = ids[start : start + SLICE]
        batch = AttentionBatch.build(cache, [len(part)], [first + start + len(part)], [[0]])
        hidden = _hidden(loaded, part, start, batch, lora)
        total += hidden[max(skip - start, 0) :].float().sum(dim=0)
        yield
    result: list[float] = F.normalize(total, dim=0).tolist()
    return result


@torch.inference_mode()
def _hidden(
    loaded: LoadedModel, ids: Sequence[int], start: int, batch: AttentionBatch, lora: LoraBatch | None
) -> Tensor:
    tokens = torch.tensor(ids, device=loaded.device)
    positions = torch.arange(start, start + len(ids), device=loaded.device)
    hidden: Tensor = loaded.model(tokens, positions, batch, lora)
    return hidden
