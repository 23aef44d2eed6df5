"""The generation loop: continuous batching over a paged cache. It handles ids, never text."""

from chatglm3.engine.engine import Engine, Stats
from chatglm3.engine.request import (
    GREEDY,
    Completion,
    FinishReason,
    SamplingParams,
    TokenLogprob,
    TokenOutput,
)

__all__ = [
    "GREEDY",
    "Completion",
    "Engine",
    "FinishReason",
    "SamplingParams",
    "Stats",
    "TokenLogprob",
    "TokenOutput",
]
