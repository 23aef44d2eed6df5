"""Conversations as training examples, and examples as batches, through the renderer that inference uses.

The loss falls on what an assistant writes and on the token that ends its message (`Rendered.loss_mask`). A
small weight on all other tokens is possible: it shows a model that starts from nothing what text looks like.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm3.errors import PromptTooLongError
from chatglm3.prompt import Message, render
from chatglm3.tokenizer import Tokenizer


@dataclass(frozen=True)
class Example:
    """One training sequence."""

    ids: list[int]
    learnt: list[bool]
    """As long as `ids`: whether predicting this token from those before it is what is to be learnt."""


def encode(messages: Iterable[Message], tokenizer: Tokenizer, max_length: int) -> Example:
    """A finished conversation. Raises PromptTooLongError, since cutting would teach half an answer."""
    rendered = render(messages, tokenizer, add_generation_prompt=False)
    if len(rendered.ids) > max_length:
        raise PromptTooLongError(
            f"the conversation has {len(rendered.ids)} tokens and the limit is {max_length}; "
            "shorten it or raise the limit"
        )
    return Example(rendered.ids, rendered.loss_mask)


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right, which causal attention never looks at."""

    tokens: Tensor
    """[examples, length]"""
    weights: Tensor
    """[examples, length] fp32: the weight of predicting each token; 0 on padding and on the first token."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(self.tokens.to(device), self.weights.to(device))

    @property
    def labels(self) -> Tensor:
        """[examples, length]: the tokens to predict, -100 elsewhere, as transformers' losses take them."""
        return self.tokens.masked_fill(self.weights == 0, -100)


def collate(examples: Sequence[Example], pad_id: int, context_weight: float = 0.0) -> Batch:
    """Pad examples to the longest. context_weight: the loss weight of tokens that are not to be learnt."""
    length = max(len(e.ids) for e in examples)
    tokens = torch.full((len(examples), length), pad_id)
    weights = torch.zeros(len(examples), length)
    for row, example in enumerate(examples):
        n = len(example.ids)
        tokens[row, :n] = torch.tensor(example.ids)
        weights[row, :n] = torch.tensor(example.learnt, dtype=torch.float32).clamp(min=context_weight)
        weights[row, 0] = 0
    return Batch(tokens, weights)


def group_by_length(examples: Iterable[Example], tokens: int) -> list[list[Example]]:
    """Sort examples by length and cut them into groups that pad to at most about `tokens` tokens each."""
    groups: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda e: len(e.ids)):
        if groups[-1] and (len(groups[-1]) + 1) * len(example.ids) > tokens:
            groups.append([])
        groups[-1].append(example)
    return groups
