"""Beam search, as transformers' `generate(num_beams=...)` defines it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatglm3.adapters import Prefix, write_prefix
from chatglm3.attention import AttentionBatch, KVCache
from chatglm3.model import ChatGLMModel


@dataclass
class _Finished:
    """The best `size` finished hypotheses: (score, generated ids, stop id included)."""

    size: int
    best: list[tuple[float, list[int]]] = field(default_factory=list)

    def add(self, score: float, ids: list[int]) -> None:
        self.best = sorted([*self.best, (score, ids)], key=lambda scored: -scored[0])[: self.size]

    def beats(self, attainable: float) -> bool:
        """Whether no running beam can still come in, none of which will score above `attainable`."""
        return len(self.best) == self.size and self.best[-1][0] >= attainable


class _Beams:
    """The running beams of one prompt: one cache block each, so that a beam's past is copied as a block."""

    def __init__(
        self, model: ChatGLMModel, prefix: Prefix | None, prompt: list[int], count: int, max_new: int
    ):
        weights = next(model.layers.parameters())  # of a norm, which no scheme quantizes
        self.model, self.device = model, weights.device
        self.offset = prefix.length if prefix else 0
        size = self.offset + len(prompt) + max_new
        self.cache = KVCache(model.config, count, size, dtype=weights.dtype, device=self.device)
        if prefix:
            write_prefix(self.cache, torch.arange(self.offset, device=self.device), prefix)
        self.length = 0
        self.log_probs = self._step([prompt])  # [1, vocab]: one beam until the first token is chosen

    def advance(self, parents: list[int], tokens: list[int]) -> None:
        """Let beam i continue beam parents[i] with tokens[i]."""
        for pool in (*self.cache.keys, *self.cache.values):
            pool[: len(parents)] = pool[parents]
        self.log_probs = self._step([[token] for token in tokens])

    def _step(self, rows: list[list[int]]) -> Tensor:
        new = len(rows[0])
        positions = torch.arange(self.length, self.length + new, device=self.device).repeat(len(rows))
        self.length += new
        contexts = [self.offset + self.length] * len(rows)
        batch = AttentionBatch.build(self.cache, [new] * len(rows), contexts, [[i] for i in range(len(rows))])
        hidden = self.model(torch.tensor(rows, device=self.device).flatten(), positions, batch)
        return self.model.logits(hidden[new - 1 :: new]).log_softmax(dim=-1)


def beam_search(
    model: ChatGLMModel,
    prefix: Prefix | None,
    prompt: list[int],
    *,
    num_beams: int,
    max_new_tokens: int,
    stop_ids: Collection[int],
    length_penalty: float = 1.0,
    early_stopping: bool = False,
) -> list[list[int]]:
    """The `num_beams` best continuations found, best first, each with the stop id that ended it.

    A hypothesis scores its summed log-probability / length ** length_penalty, where the length counts the
    prompt (transformers 4.33, which ChatGLM3 was published with; later versions count new tokens only).
    """
    beams = _Beams(model, prefix, prompt, num_beams, max_new_tokens)
    finished = _Finished(num_beams)
    texts: list[list[int]] = [[]]  # what each running beam has generated
    totals = torch.zeros(1, device=beams.device)  # and its summed log-probability
    # Enough candidates that num_beams remain when every stop id of every beam is among them.
    candidates = num_beams * max(2, 1 + len(stop_ids))
    for new in range(1, max_new_tokens + 1):
        scores = totals[:, None] + beams.log_probs
        vocab = scores.shape[1]
        top = scores.flatten().topk(min(candidates, scores.numel()))
        chosen: list[tuple[int, int, float]] = []  # parent, token, total
        for rank, (index, total) in enumerate(zip(top.indices.tolist(), top.values.tolist())):
            parent, token = divmod(index, vocab)
            if token not in stop_ids:
                chosen.append((parent, token, total))
            elif rank < num_beams:  # a stop that a better beam crowds out does not count
                finished.add(total / (len(prompt) + new - 1) ** length_penalty, [*texts[parent], token])
            if len(chosen) == num_beams:
                break
        parents, tokens, kept = zip(*chosen)
        texts = [[*texts[parent], token] for parent, token in zip(parents, tokens)]
        totals = torch.tensor(kept, device=beams.device)
        attainable = top.values[0].item() / (len(prompt) + new) ** length_penalty
        if finished.beats(-torch.inf if early_stopping else attainable):
            break
        if new < max_new_tokens:
            beams.advance(list(parents), list(tokens))
    else:
        for text, total in zip(texts, totals.tolist()):
            finished.add(total / (len(prompt) + len(text)) ** length_penalty, text)
    return [ids for _, ids in finished.best]
