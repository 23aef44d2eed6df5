"""Logits to tokens: the whole batch in a few tensor operations, each answer by its own parameters.

Every choice is a pure function of the answer's own logits, parameters, seed and position. Draws are
inverse-CDF with one uniform number from a counter-based generator, and ties between logits always go to the
smaller id, so neither torch's global generator nor the other rows of the batch can change an answer.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from chatglm3.engine.constraint import TokenMask
from chatglm3.engine.output import TokenLogprob
from chatglm3.engine.request import SamplingParams
from chatglm3.errors import GenerationError

NOT_NUMBERS = "the model's logits are not finite numbers; the weights are damaged or overflow in this dtype"


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
        self._factor: Tensor | None = None
        if params.logit_bias or params.presence_penalty or params.frequency_penalty:
            self._bias = torch.zeros(vocab_size, device=device)
            for token, bias in params.logit_bias.items():
                self._bias[token] = bias
        if params.repetition_penalty != 1:
            self._factor = torch.ones(vocab_size, device=device)
            self._factor[[token for token in set(prompt) if token < vocab_size]] = params.repetition_penalty
            self._scratch = torch.empty(vocab_size, device=device)

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
        if self._factor is not None:
            self._factor[token] = self._params.repetition_penalty
        if self._bias is not None:
            presence = 0.0 if token in self._answered else self._params.presence_penalty
            self._answered.add(token)
            self._bias[token] -= presence + self._params.frequency_penalty

    def apply(self, row: Tensor) -> None:
        """Edit the logits [vocab] of the next token in place."""
        if self._factor is not None:
            # Of x / f and x * f, a factor above 1 takes the smaller one, whatever the sign of x.
            torch.mul(row, self._factor, out=self._scratch)
            row /= self._factor
            choose = torch.minimum if self._params.repetition_penalty > 1 else torch.maximum
            choose(row, self._scratch, out=row)
        if self._bias is not None:
            row += self._bias


class SamplingState:
    """What the sampler remembers of one answer between its tokens."""

    __slots__ = ("_draws", "_edits", "_make_edits", "_mask", "_seed", "_stream", "_vocab_size", "params")

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
        self._edits: LogitEdits | None = None
        self._make_edits = partial(LogitEdits, params, prompt, vocab_size, device)
        self._mask: TokenMask | None = None
        self._vocab_size = vocab_size
        self._seed = secrets.randbits(64) if params.seed is None else params.seed
        self._stream = stream
        self._draws = 0

    @property
    def edits(self) -> LogitEdits | None:
        """The answer's penalties and biases, if any. Made when first wanted: requests that wait hold none."""
        if self._edits is None and LogitEdits.wanted(self.params):
            self._edits = self._make_edits()
        return self._edits

    @property
    def mask(self) -> TokenMask | None:
        """What the answer's grammar forbids, if it has one. Made when first wanted, as the edits are."""
        if self._mask is None and self.params.grammar is not None:
            self._mask = TokenMask(self.params.grammar, self._vocab_size)
        return self._mask

    def uniform(self) -> float:
        """The number that decides the next token."""
        return uniform(self._seed, self._stream, self._draws)

    def observe(self, token: int) -> bool:
        """Take note of the chosen token. Returns whether the answer's grammar ends with it."""
        self._draws += 1
        if (edits := self.edits) is not None:
            edits.observe(token)
        return (mask := self.mask) is not None and mask.accept(token)


class Sampled(NamedTuple):
    """The sampler's choice for one row."""

    token: int | None
    """None where nothing can be chosen."""
    logprob: TokenLogprob | None
    error: str | None = None
    """Why nothing can be chosen: the logits hold NaN or infinity, or the grammar is stuck."""


class Sampler:
    """Chooses one token for each row of logits."""

    def __init__(self, valid_vocab: int, device: torch.device) -> None:
        """valid_vocab: ids from here on exist in the padded output layer but are never sampled."""
        self.valid_vocab = valid_vocab
        # Sums of 65k probabilities want float64, which MPS does not have.
        self.device = torch.device("cpu") if device.type == "mps" else device
        self._plan = _Plan([], valid_vocab, self.device)
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="grammar")

    def prepare(self, states: list[SamplingState]) -> None:
        """Begin to compute the masks of answers that have a grammar; `sample` will wait for them."""
        for state in states:
            if state.params.grammar is not None and (mask := state.mask) is not None:
                mask.prepare(self._pool)

    def sample(self, logits: Tensor, states: list[SamplingState]) -> list[Sampled]:
        """Choose a token for each row. logits: [rows, vocab], fp32, edited in place; states: [rows].

        The states must have been prepared.
        """
        if self._plan.states != states:
            self._plan = _Plan(states, self.valid_vocab, self.device)
        plan = self._plan
        logits = logits.to(self.device)
        valid = logits[:, : self.valid_vocab]
        raw = None
        if plan.reported:  # taken before the edits, which are made in place
            untouched = not plan.edited and not plan.masked and len(plan.reported) == len(states)
            raw = logits if untouched else logits[plan.reported]
        for row in plan.edited:
            edits = states[row].edits
            assert edits is not None
            edits.apply(valid[row])
        errors = self._forbid(valid, plan)

        peak = valid.amax(dim=-1, keepdim=True)
        if len(plan.drawn) < len(states):
            tokens = _argmax(valid)
        if plan.drawn:
            draws = [states[row].uniform() for row in plan.drawn]
            uniforms = torch.tensor(draws, dtype=torch.float64).to(self.device)[:, None]
            if len(plan.drawn) == len(states):
                tokens = plan.draw(valid, peak, uniforms)
            else:
                tokens[plan.index] = plan.draw(valid[plan.index], peak[plan.index], uniforms)

        for row, value in enumerate(peak[:, 0].tolist()):
            if not math.isfinite(value):  # amax() passes NaN on
                errors.setdefault(row, NOT_NUMBERS)
        scores: dict[int, TokenLogprob] = {}
        if raw is not None:
            scores = dict(zip(plan.reported, score(raw, tokens[plan.reported], plan.top, self.valid_vocab)))
        return [
            Sampled(None, None, errors[row]) if row in errors else Sampled(token, scores.get(row))
            for row, token in enumerate(tokens.tolist())
        ]

    def _forbid(self, valid: Tensor, plan: _Plan) -> dict[int, str]:
        """Rule out what grammars forbid, in place. Returns the rows whose grammar is stuck, and why."""
        errors = {}
        for row in plan.masked:
            mask = plan.states[row].mask
            assert mask is not None
            try:
                valid[row] += torch.from_numpy(mask.take()).to(self.device)
            except GenerationError as error:
                errors[row] = str(error)
        return errors


def score(logits: Tensor, tokens: Tensor, top: Sequence[int], valid_vocab: int) -> list[TokenLogprob]:
    """Log-probabilities of given tokens under softmax(logits), as reported to callers.

    logits: [rows, vocab], fp32; tokens: [rows]; top: how many of the most likely ids to list for each row.
    The softmax runs over the whole padded output layer, as in transformers and vLLM, but only ids below
    valid_vocab are listed.
    """
    total = logits.logsumexp(dim=-1, keepdim=True)
    chosen = (logits.gather(1, tokens[:, None]) - total)[:, 0].tolist()
    best = logits[:, :valid_vocab].topk(max(top, default=0))
    best_logprobs = (best.values - total).tolist()
    return [
        TokenLogprob(token, logprob, list(zip(ids[:count], numbers[:count])))
        for token, logprob, count, ids, numbers in zip(
            tokens.tolist(), chosen, top, best.indices.tolist(), best_logprobs
        )
    ]


class _Plan:
    """How a batch of answers is sampled; built once and kept while the batch stays the same."""

    def __init__(self, states: list[SamplingState], valid_vocab: int, device: torch.device) -> None:
        self.states = list(states)
        self.edited = [row for row, state in enumerate(states) if state.edits is not None]
        self.masked = [row for row, state in enumerate(states) if state.mask is not None]
        self.reported = [row for row, state in enumerate(states) if state.params.logprobs is not None]
        self.top = [states[row].params.logprobs or 0 for row in self.reported]
        self.drawn = [row for row, state in enumerate(states) if not state.params.greedy]
        self.index = torch.tensor(self.drawn, dtype=torch.int64).to(device)

        def column(values: list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype).to(device)[:, None]

        params = [states[row].params for row in self.drawn]
        self._temperature = column([p.temperature for p in params], torch.float32)
        self._top_k = column([min(p.top_k or valid_vocab, valid_vocab) for p in params], torch.int64)
        # As infinity, top_p = 1 keeps even tokens whose probability is lost in the rounding of a sum.
        self._top_p = column([p.top_p if p.top_p < 1 else math.inf for p in params], torch.float64)
        farthest = [-math.log(p.min_p) if p.min_p else math.inf for p in params]
        self._farthest = column(farthest, torch.float32) if any(p.min_p for p in params) else None

    def draw(self, logits: Tensor, peak: Tensor, uniforms: Tensor) -> Tensor:
        """Draw for the rows `drawn`: logits [rows, vocab]; peak [rows, 1], their maxima; uniforms [rows, 1].

        Tokens are ranked by their distance from the most likely one, ties by id. Each restriction keeps the
        first so many of the ranking, of which one is drawn by inverse CDF. Only distances are sorted, not ids
        with them: the id is looked up for the one distance that was drawn.
        """
        distance = (peak - logits) / self._temperature  # weight = exp(-distance), at most 1
        ranking = _sort(distance)
        cumulative = ranking.neg().exp_().cumsum(dim=-1, dtype=torch.float64)
        total = cumulative.gather(1, self._top_k - 1)
        kept = torch.searchsorted(cumulative, self._top_p * total) + 1
        kept = kept.minimum(self._top_k)
        if self._farthest is not None:
            kept = kept.minimum(torch.searchsorted(ranking, self._farthest, right=True))
        target = uniforms * cumulative.gather(1, kept - 1)
        rank = torch.searchsorted(cumulative, target, right=True).minimum(kept - 1)
        drawn = ranking.gather(1, rank)
        ties_before = rank - torch.searchsorted(ranking, drawn)
        return _argmax((distance == drawn).cumsum(dim=-1) > ties_before)


def _argmax(values: Tensor) -> Tensor:
    """The index of the first largest value of each row, [rows]. numpy's is ten times faster on a CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy().argmax(axis=-1))
    return (values.to(torch.uint8) if values.dtype == torch.bool else values).argmax(dim=-1)


def _sort(values: Tensor) -> Tensor:
    """Each row in ascending order. numpy's sort of plain numbers is thirty times faster on a CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values
