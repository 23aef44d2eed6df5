"""`model(input_ids, ...)`: logits and loss of a batch whose mask may have padding or holes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chatglm3.adapters import Prefix, write_prefix
from chatglm3.attention import packed_batch
from chatglm3.errors import InvalidParameterError, PromptTooLongError
from chatglm3.model import ChatGLMModel

IGNORED = -100
"""A label that is not scored."""


@dataclass
class CausalLMOutput:
    """What a forward call returns."""

    logits: Tensor
    """[batch, length, vocab_size], float32; 0 where the attention mask is 0."""
    loss: Tensor | None = None
    """Mean negative log-likelihood of the labels, where labels were given."""


def score(
    model: ChatGLMModel,
    prefix: Prefix | None,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
) -> Tensor:
    """Logits [B, L, vocab_size] of tokens [B, L].

    A token whose attention_mask is 0 is invisible to the others and has no logits of its own (zeros). Without
    position_ids the columns are counted, masked ones too, as the published model does.
    """
    if input_ids.dim() != 2:
        raise InvalidParameterError(
            f"input_ids has shape {tuple(input_ids.shape)}; it must be [batch, length]"
        )
    batch, length = input_ids.shape
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if position_ids is None:
        position_ids = torch.arange(length, device=input_ids.device).expand(batch, length)
    for name, given in (("attention_mask", mask), ("position_ids", position_ids)):
        if given.shape != input_ids.shape:
            raise InvalidParameterError(
                f"{name} has shape {tuple(given.shape)}, but input_ids has {tuple(input_ids.shape)}"
            )
    seen = mask != 0
    tokens, positions = input_ids[seen], position_ids[seen]
    _check(model, tokens, positions)
    weights = next(model.layers.parameters())  # of a norm, which no scheme quantizes
    logits = torch.zeros(batch, length, model.config.vocab_size, device=weights.device)
    rows = [n for n in seen.sum(dim=1).tolist() if n]
    if not rows:
        return logits
    offset = prefix.length if prefix else 0
    packed = packed_batch(
        model.config, rows, prefix_length=offset, dtype=weights.dtype, device=weights.device
    )
    if prefix:
        for row in range(len(rows)):
            start = row * packed.cache.block_size
            write_prefix(packed.cache, torch.arange(start, start + offset, device=weights.device), prefix)
    hidden = model(tokens.to(weights.device), positions.to(weights.device), packed)
    logits[seen.to(weights.device)] = model.logits(hidden)
    return logits


def loss_of(logits: Tensor, labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Mean negative log-likelihood of labels [B, L], each predicted from the tokens before it.

    Not scored are labels of -100 and those that follow a masked token, which predicts nothing (the published
    code let padding predict the first token). Where no label is left the loss is 0 (there: NaN).
    """
    if labels.shape != logits.shape[:2]:
        raise InvalidParameterError(
            f"labels has shape {tuple(labels.shape)}, but input_ids has {tuple(logits.shape[:2])}"
        )
    targets = labels[:, 1:]
    if attention_mask is not None:
        targets = targets.masked_fill(attention_mask[:, :-1] == 0, IGNORED)
    targets = targets.to(logits.device).flatten()
    total = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


def _check(model: ChatGLMModel, tokens: Tensor, positions: Tensor) -> None:
    config = model.config
    if tokens.numel() == 0:
        return
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        raise InvalidParameterError(
            f"input_ids runs from {int(tokens.min())} to {int(tokens.max())}, but ids are from 0 to "
            f"{config.vocab_size - 1}"
        )
    if positions.min() < 0 or positions.max() >= config.max_seq_len:
        raise PromptTooLongError(
            f"positions run from {int(positions.min())} to {int(positions.max())}, but the model has 0 to "
            f"{config.max_seq_len - 1}; shorten the input"
        )
