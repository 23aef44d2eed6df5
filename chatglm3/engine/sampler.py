"""Logits to tokens: the whole batch in a few tensor operations, each answer by its own parameters.

Every choice is a pure function of the answer's own logits, parameters, seed and position. Draws are
inverse-CDF with one uniform number from a counter-based generator, and ties between logits always go to the
smaller id, so neither torch's global generator nor the other rows of the batch can change an answer.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from chatglm3.engine.output import TokenLogprob
from chatglm3.engine.request import SamplingParams

CANDIDATES = 128
"""Top-p first looks at so many most likely tokens; only rows whose nucleus is wider are sorted whole."""


def uniform(seed: int, stream: int, counter: int) -> float:
    """A number in [0, 1), the same for the same arguments: 52 bits of a hash, as a counter-based generator.

    seed: any 64-bit integer, signed or not; stream: which of n answers; counter: which draw of that answer.
    """
    words = struct.pack("<QQQ", seed % 2**64, stream, counter)
    digest = hashlib.blake2b(words, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) * 2.0**-52


class LogitEdits:
    """Penalties and biases of one answer: O(1) for each new token, O(vocabulary) to apply."""

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], vocab_size: int, device: torch.device
    ) -> None:
        self._params = params
        self._answered: set[int] = set()
        self._bias: Tensor | None = None
        self._seen: Tensor | None = None
        if params.logit_bias or params.presence_penalty or params.frequency_penalty:
            self._bias = torch.zeros(vocab_size, device=device)
            for token, bias in params.logit_bias.items():
                self._bias[token] = bias
        if params.repetition_penalty != 1:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[[token for token in set(prompt) if token < vocab_size]] = True

    @staticmethod
    def wanted(params: SamplingParams) -> bool:
        """Whether these parameters edit logits at all."""
        return bool(
            params.logit_bias
            or params.presence_penalty
            or params.frequency_penalty
            or params.repetition_penalty != 1
        )  # fmt: skip

    def observe(self, token: int) -> None:
        """Count a token of the answer."""
        if self._seen is not None:
            self._seen[token] = True
        if self._bias is not None:
            presence = 0.0 if token in self._answered else self._params.presence_penalty
            self._answered.add(token)
            self._bias[token] -= presence + self._params.frequency_penalty

    def apply(self, row: Tensor) -> None:
        """Edit the logits [vocab] of the next token in place."""
        if self._seen is not None:
            penalty = self._params.repetition_penalty
            penalized = torch.where(row > 0, row / penalty, row * penalty)
            torch.where(self._seen, penalized, row, out=row)
        if self._bias is not None:
            row += self._bias


class SamplingState:
    """What the sampler remembers of one answer between its tokens."""

    __slots__ = ("_draws", "_seed", "_stream", "edits", "params")

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        stream: int,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        """stream: which of the request's n answers; vocab_size: ids that may be sampled."""
        self.params = params
        self.edits = LogitEdits(params, prompt, vocab_size, device) if LogitEdits.wanted(params) else None
        self._seed = secrets.randbits(64) if params.seed is None else params.seed
        self._stream = stream
        self._draws = 0

    def uniform(self) -> float:
        """The number that decides the next token."""
        return uniform(self._seed, self._stream, self._draws)

    def observe(self, token: int) -> None:
        """Take note of the chosen token."""
        self._draws += 1
        if self.edits is not None:
            self.edits.observe(token)


class Sampled(NamedTuple):
    """The sampler's choice for one row."""

    token: int | None
    """None where the logits hold NaN or infinity, so that nothing can be chosen."""
    logprob: TokenLogprob | None


class Sampler:
    """Chooses one token for each row of logits."""

    def __init__(self, valid_vocab: int, device: torch.device) -> None:
        """valid_vocab: ids from here on exist in the padded output layer but are never sampled."""
        self.valid_vocab = valid_vocab
        self.device = device
        self._plan = _Plan([], device)

    def sample(self, logits: Tensor, states: list[SamplingState]) -> list[Sampled]:
        """Choose a token for each row. logits: [rows, vocab], fp32, edited in place; states: [rows]."""
        if self._plan.states != states:
            self._plan = _Plan(states, self.device)
        plan = self._plan
        valid = logits[:, : self.valid_vocab]
        raw = logits[plan.reported] if plan.reported else None  # a copy, taken before the edits
        for row in plan.edited:
            edits = states[row].edits
            assert edits is not None
            edits.apply(valid[row])

        peak, tokens = valid.max(dim=-1)
        for group in (plan.plain, plan.truncated):
            if group is None:
                continue
            draws = torch.tensor([states[row].uniform() for row in group.rows], dtype=torch.float64).to(
                self.device
            )
            everyone = len(group.rows) == len(states)
            scaled = valid - peak[:, None] if everyone else valid[group.index] - peak[group.index, None]
            scaled /= group.temperature
            chosen = (
                _draw_truncated(scaled, group, draws)
                if group.truncates
                else _draw_plain(scaled, group, draws)
            )
            tokens = chosen if everyone else tokens.index_copy(0, group.index, chosen)

        chosen_ids: list[int | None] = tokens.tolist()
        for row, value in enumerate(peak.tolist()):
            if not math.isfinite(value):  # max() passes NaN on
                chosen_ids[row] = None
        if raw is None:
            return [Sampled(token, None) for token in chosen_ids]
        scores = score(raw, tokens[plan.reported], plan.top, self.valid_vocab)
        by_row = dict(zip(plan.reported, scores))
        return [Sampled(token, by_row.get(row)) for row, token in enumerate(chosen_ids)]


def score(logits: Tensor, tokens: Tensor, top: Sequence[int], valid_vocab: int) -> list[TokenLogprob]:
    """Log-probabilities of given tokens under softmax(logits), as reported to callers.

    logits: [rows, vocab], fp32; tokens: [rows]; top: how many of the most likely ids to list for each row.
    The softmax runs over the whole padded output layer, as in transformers and vLLM, but only ids below
    valid_vocab are listed.
    """
    logprobs = logits - logits.logsumexp(dim=-1, keepdim=True)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
    most = max(top, default=0)
    best = _ranked(logprobs[:, :valid_vocab], most) if most else None
    values = best.values.tolist() if best else [[]] * len(chosen)
    indices = best.indices.tolist() if best else [[]] * len(chosen)
    return [
        TokenLogprob(token, logprob, list(zip(ids[:count], numbers[:count])))
        for token, logprob, count, ids, numbers in zip(tokens.tolist(), chosen, top, indices, values)
    ]


class _Group:
    """Rows of a batch that are drawn by the same steps, their parameters as columns [rows, 1]."""

    def __init__(
        self, rows: list[int], states: list[SamplingState], *, truncates: bool, device: torch.device
    ) -> None:
        def column(values: list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype).to(device)[:, None]

        params = [states[row].params for row in rows]
        self.rows = rows
        self.truncates = truncates
        self.index = torch.tensor(rows).to(device)
        self.temperature = column([p.temperature for p in params], torch.float32)
        self.min_p = (
            column([p.min_p for p in params], torch.float64) if any(p.min_p for p in params) else None
        )
        # As infinity, top_p = 1 keeps even tokens whose probability is lost in the rounding of a sum.
        self.top_p = column([p.top_p if p.top_p < 1 else math.inf for p in params], torch.float64)
        self.widest_top_k = max(p.top_k for p in params)
        self.top_k = column([p.top_k or 2**31 for p in params], torch.int64) if self.widest_top_k else None

    def take(self, index: Tensor) -> _Group:
        """The same for some of its rows (positions within the group)."""
        group = object.__new__(_Group)
        group.__dict__.update(self.__dict__)
        for name in ("temperature", "min_p", "top_p", "top_k"):
            column = getattr(self, name)
            setattr(group, name, None if column is None else column[index])
        return group


class _Plan:
    """How a batch of answers is sampled; built once and kept while the batch stays the same."""

    def __init__(self, states: list[SamplingState], device: torch.device) -> None:
        self.states = list(states)
        self.edited = [row for row, state in enumerate(states) if state.edits is not None]
        self.reported = [row for row, state in enumerate(states) if state.params.logprobs is not None]
        self.top = [states[row].params.logprobs or 0 for row in self.reported]
        drawn = [row for row, state in enumerate(states) if not state.params.greedy]
        truncated = [row for row in drawn if states[row].params.top_k or states[row].params.top_p < 1]
        plain = [row for row in drawn if not (states[row].params.top_k or states[row].params.top_p < 1)]
        self.truncated = _Group(truncated, states, truncates=True, device=device) if truncated else None
        self.plain = _Group(plain, states, truncates=False, device=device) if plain else None


@dataclass
class _Ranking:
    values: Tensor
    indices: Tensor


def _ranked(values: Tensor, width: int) -> _Ranking:
    """The `width` largest of each row, largest first, ties by smaller index.

    Which of the values that equal the last one are among them is arbitrary, unless all values are.
    """
    size = values.shape[-1]
    if 4 * width >= size:
        order = values.sort(dim=-1, descending=True, stable=True)
        return _Ranking(order.values[:, :width], order.indices[:, :width])
    ids = values.topk(width, sorted=False).indices.sort(dim=-1).values
    order = values.gather(1, ids).sort(dim=-1, descending=True, stable=True)
    return _Ranking(order.values, ids.gather(1, order.indices))


def _pick(weights: Tensor, draws: Tensor) -> Tensor:
    """Inverse CDF. weights: [rows, n], fp64, any sum; draws: [rows] in [0, 1) -> indices [rows, 1]."""
    cumulative = weights.cumsum(dim=-1)
    target = draws[:, None] * cumulative[:, -1:]
    # Asking for a positive weight as well keeps a rounding of the sums from choosing a dropped token.
    return ((cumulative > target) & (weights > 0)).to(torch.uint8).argmax(dim=-1, keepdim=True)


def _draw_plain(scaled: Tensor, group: _Group, draws: Tensor) -> Tensor:
    """Draw from whole rows. scaled: [rows, vocab], logits over temperature with a maximum of 0."""
    weights = scaled.double().exp_()
    if group.min_p is not None:
        weights *= weights >= group.min_p
    return _pick(weights, draws)[:, 0]


def _draw_truncated(scaled: Tensor, group: _Group, draws: Tensor, *, whole: bool = False) -> Tensor:
    """Draw from the most likely tokens. scaled: as for `_draw_plain`; whole: rank all tokens at once."""
    size = scaled.shape[-1]
    width = size if whole else min(size, max(CANDIDATES, 2 * group.widest_top_k))
    ranking = _ranked(scaled, width)
    weights = ranking.values.double().exp_()
    if group.top_k is None:
        total = scaled.exp().sum(dim=-1, keepdim=True, dtype=torch.float64)
        cumulative = weights.cumsum(dim=-1)
    else:
        limited = torch.arange(width, device=scaled.device) < group.top_k
        weights *= limited
        cumulative = weights.cumsum(dim=-1)
        everything = scaled.exp().sum(dim=-1, keepdim=True, dtype=torch.float64)
        total = torch.where(group.top_k < 2**31, cumulative[:, -1:], everything)
    kept = cumulative - weights < group.top_p * total
    if group.top_k is not None:
        kept &= limited
    if group.min_p is not None:
        kept &= weights >= group.min_p
    chosen = ranking.indices.gather(1, _pick(weights * kept, draws))[:, 0]
    if width < size:
        # A row whose last candidate was kept, or tied with a kept one, may lack tokens: rank all of it.
        last = ranking.values[:, -1:]
        wide = (kept & (ranking.values <= last)).any(dim=-1).nonzero()[:, 0]
        if len(wide):
            chosen[wide] = _draw_truncated(scaled[wide], group.take(wide), draws[wide], whole=True)
    return chosen
