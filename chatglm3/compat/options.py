"""The keywords of transformers' `generate`, read into our `SamplingParams`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from chatglm3.engine import SamplingParams
from chatglm3.errors import InvalidParameterError, PromptTooLongError

DEFAULT_MAX_LENGTH = 20
"""transformers' default length, prompt included, of a model without a generation_config.json."""


@dataclass(frozen=True)
class GenerationOptions:
    """What `generate` and `stream_generate` take, with transformers' names and defaults."""

    max_length: int | None = None
    """Tokens in all, prompt included; `max_new_tokens` goes before it."""
    max_new_tokens: int | None = None
    do_sample: bool = False
    """False: the likeliest token each time, whatever temperature, top_p and top_k say."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 50
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1
    eos_token_id: int | Sequence[int] | None = None
    """Ids that end a sequence, and stay in it; None: the model's own."""
    pad_token_id: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    logits_processor: Sequence[Any] | None = None
    """Only the published `InvalidScoreLogitsProcessor`, which does nothing to valid scores."""

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> GenerationOptions:
        """Check the names of keywords, and what beam search cannot do. Raises InvalidParameterError."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise InvalidParameterError(
                    f"{name!r} is not an option of generate; there are {', '.join(known)}"
                )
        read = cls(**options)
        for processor in read.logits_processor or ():
            if type(processor).__name__ != "InvalidScoreLogitsProcessor":
                raise InvalidParameterError(
                    f"the logits processor {type(processor).__name__} cannot run here; "
                    "SamplingParams of chatglm3.ChatGLM3 has penalties and logit_bias"
                )
        for name in ("num_beams", "num_return_sequences"):
            if getattr(read, name) < 1:
                raise InvalidParameterError(f"{name} is {getattr(read, name)}, but must be at least 1")
        if read.num_beams > 1 and read.do_sample:
            raise InvalidParameterError(f"num_beams={read.num_beams} does not sample; pass do_sample=False")
        if read.num_beams > 1 and read.repetition_penalty != 1.0:
            raise InvalidParameterError("beam search has no repetition_penalty; leave one of the two out")
        if read.num_return_sequences > max(1, read.num_beams) and not read.do_sample:
            raise InvalidParameterError(
                f"num_return_sequences={read.num_return_sequences} needs do_sample=True or as many beams"
            )
        return read

    def stop_ids(self, default: Sequence[int]) -> tuple[int, ...]:
        """`eos_token_id` as a tuple, or the model's own."""
        if self.eos_token_id is None:
            return tuple(default)
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)

    def new_tokens(self, width: int, longest: int, context: int) -> int:
        """How many tokens may be added to each row of a batch.

        width: columns of the batch, which max_length counts; longest: tokens of its longest row; context:
        tokens that the model takes. Raises PromptTooLongError where nothing could be added.
        """
        new = self.max_new_tokens
        if new is None:
            limit = self.max_length
            if limit is None:
                limit = DEFAULT_MAX_LENGTH
                warnings.warn(
                    f"neither max_new_tokens nor max_length is given: stopping at {limit} tokens in all",
                    stacklevel=2,
                )
            if width >= limit:
                raise PromptTooLongError(
                    f"the prompt has {width} tokens, but max_length is {limit}, prompt included; raise it, "
                    "or pass max_new_tokens"
                )
            new = limit - width
        if longest > context:
            raise PromptTooLongError(
                f"the prompt has {longest} tokens, but the model's context is {context}; shorten it"
            )
        return min(new, max(1, context - longest))

    def sampling(self, max_tokens: int, stop_ids: Sequence[int]) -> SamplingParams:
        """The engine's parameters, seeded by torch's generator: `torch.manual_seed` repeats an answer."""
        if not self.do_sample:
            return SamplingParams(
                temperature=0,
                repetition_penalty=self.repetition_penalty,
                max_tokens=max_tokens,
                stop_ids=frozenset(stop_ids),
            )
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=int(torch.randint(2**31, ())),
            max_tokens=max_tokens,
            n=self.num_return_sequences,
            stop_ids=frozenset(stop_ids),
        )
