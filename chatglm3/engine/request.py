"""What a caller asks of the engine: how tokens are chosen and where an answer ends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chatglm3.engine.constraint import Grammar
from chatglm3.errors import InvalidParameterError

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: dividing by them would only overflow."""


def _number(name: str, value: Any, least: float, most: float, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameterError(f"{name} is {value!r}, which is not a number; {remedy}")
    if not math.isfinite(value) or not least <= value <= most:
        span = (
            f"from {least:g} to {most:g}" if math.isfinite(most) else f"a finite number, at least {least:g}"
        )
        span = "a finite number" if least == -math.inf else span
        raise InvalidParameterError(f"{name} is {value!r}, but must be {span}; {remedy}")


def _integer(name: str, value: Any, least: int, remedy: str, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParameterError(f"{name} is {value!r}, which is not an integer; {remedy}")
    if value < least or (most is not None and value > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidParameterError(f"{name} is {value!r}, but must be {limit}; {remedy}")


@dataclass(frozen=True)
class SamplingParams:
    """How one request wants its tokens chosen.

    Logits are edited in this order, and truncated after the temperature, in HF's order:
    repetition_penalty, presence and frequency penalty and logit_bias, temperature, top_k, top_p, min_p.
    Raises InvalidParameterError, naming the value and the remedy, for anything out of range.
    """

    temperature: float = 0.8
    """0 is greedy: always the most likely token."""
    top_p: float = 0.8
    """Keep the fewest most likely tokens whose probabilities (after top_k, renormalised) reach this sum."""
    top_k: int = 0
    """Keep this many most likely tokens; 0 keeps all. Ties go to the smaller id."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one."""
    repetition_penalty: float = 1.0
    """Over prompt and answer (HF): divides positive logits of ids that occurred, multiplies others."""
    presence_penalty: float = 0.0
    """Over the answer only (OpenAI): subtracted once from the logit of each id that occurred."""
    frequency_penalty: float = 0.0
    """Over the answer only (OpenAI): subtracted for every time the id occurred."""
    seed: int | None = None
    """The same seed gives the same answer, whatever else is in the batch; None draws fresh entropy."""
    max_tokens: int | None = None
    """Longest answer; None goes on until the context is full, 0 only scores the prompt."""
    n: int = 1
    """Independent answers to the prompt, which share its cache blocks."""
    stop_ids: frozenset[int] = frozenset()
    """Ids that end the answer. The stop id itself is the answer's last token. Any iterable of ids will do."""
    logprobs: int | None = None
    """Report each token's log-probability and this many alternatives (0: the token alone), as vLLM does:
    of the model's own distribution, before penalties, bias, temperature and truncation."""
    prompt_logprobs: int | None = None
    """The same for every prompt token but the first. Such a prompt is computed without prefix reuse."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Added to the logits of these ids."""
    grammar: Grammar | None = None
    """What the answer has to be; it ends, with "stop", where its grammar does. See `chatglm3.grammar`."""
    adapter: str | None = None
    """Name of the adapter that answers; None: the engine's default one, if it has one, or the model alone."""

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0, math.inf, "0 is greedy, 0.8 the usual choice")
        _number(
            "top_p", self.top_p, 0, 1, "1 turns it off; for the most likely token only, set temperature=0"
        )
        if self.top_p == 0:
            raise InvalidParameterError(
                "top_p is 0, which keeps no token; for greedy decoding set temperature=0"
            )
        _integer("top_k", self.top_k, 0, "0 turns it off")
        _number("min_p", self.min_p, 0, 1, "0 turns it off")
        _number("repetition_penalty", self.repetition_penalty, 0, math.inf, "1 turns it off")
        if self.repetition_penalty == 0:
            raise InvalidParameterError(
                "repetition_penalty is 0, but logits are divided by it; 1 turns it off"
            )
        _number("presence_penalty", self.presence_penalty, -2, 2, "0 turns it off")
        _number("frequency_penalty", self.frequency_penalty, -2, 2, "0 turns it off")
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), "None draws a fresh one", most=2**64 - 1)
        for name in ("max_tokens", "logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), 0, "None leaves it open")
        _integer("n", self.n, 1, "it counts the answers")
        if isinstance(self.stop_ids, (str, bytes)) or not isinstance(self.stop_ids, Iterable):
            raise InvalidParameterError(f"stop_ids is {self.stop_ids!r}; give a collection of token ids")
        stop_ids = list(self.stop_ids)
        for stop_id in stop_ids:
            _integer("a stop id", stop_id, 0, "give token ids; text is encoded by the tokenizer")
        if not isinstance(self.logit_bias, Mapping):
            raise InvalidParameterError(
                f"logit_bias is {self.logit_bias!r}; give a mapping from token id to number"
            )
        for token, bias in self.logit_bias.items():
            _integer("a logit_bias key", token, 0, "keys are token ids")
            _number(
                f"logit_bias[{token}]", bias, -math.inf, math.inf, "-100 bans an id, 100 all but forces it"
            )
        if self.adapter is not None and not isinstance(self.adapter, str):
            raise InvalidParameterError(f"adapter is {self.adapter!r}; give an adapter's name, or None")
        # Own copies: what the caller does to its collections later must not change a running request.
        object.__setattr__(self, "stop_ids", frozenset(stop_ids))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))

    def replace(self, **changes: Any) -> SamplingParams:
        """A copy with some fields changed. Raises InvalidParameterError also for an unknown name."""
        known = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise InvalidParameterError(
                    f"there is no sampling parameter {name!r}; there are {', '.join(known)}"
                )
        return dataclasses.replace(self, **changes)

    def check_vocabulary(self, vocab_size: int, valid_vocab: int) -> None:
        """Raise InvalidParameterError for ids that a model with such an output layer does not have.

        vocab_size: its rows; valid_vocab: how many of them, from the first, may be sampled.
        """
        for token in self.stop_ids:
            if token >= vocab_size:
                raise InvalidParameterError(
                    f"stop id {token} is outside the vocabulary: ids end at {vocab_size - 1}"
                )
        for token in self.logit_bias:
            if token >= valid_vocab:
                raise InvalidParameterError(
                    f"logit_bias names id {token}, but ids that can be sampled end at {valid_vocab - 1}"
                )
        if self.grammar is not None and self.grammar.vocab_size > valid_vocab:
            raise InvalidParameterError(
                f"the grammar is made for {self.grammar.vocab_size} ids, but ids that can be sampled end at "
                f"{valid_vocab - 1}; compile it with the model's own tokenizer"
            )
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(self, name)
            if count is not None and count > valid_vocab:
                raise InvalidParameterError(
                    f"{name} is {count}, but there are only {valid_vocab} ids to list"
                )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < GREEDY_BELOW


GREEDY = SamplingParams(temperature=0)
