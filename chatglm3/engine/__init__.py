"""The generation loop: continuous batching over a paged cache. It handles ids, never text."""

from chatglm3.engine.constraint import Constraint, Grammar
from chatglm3.engine.engine import Engine
from chatglm3.engine.output import Completion, FinishReason, Stats, TokenLogprob, TokenOutput
from chatglm3.engine.request import GREEDY, SamplingParams

__all__ = [
    "GREEDY",
    "Completion",
    "Constraint",
    "Engine",
    "FinishReason",
    "Grammar",
    "SamplingParams",
    "Stats",
    "TokenLogprob",
    "TokenOutput",
]
