"""What the engine answers: ids, numbers and why an answer ended, never text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length", "abort", "error"]
"""Why an answer ended: a stop id; max_tokens or a full context; `Engine.abort`; logits that are NaN."""


class TokenLogprob(NamedTuple):
    """Natural log-probability of one token under the model's own distribution."""

    token: int
    logprob: float
    top: list[tuple[int, float]]
    """The most likely ids with theirs, best first; as many as were asked for."""


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """One step of one answer. The last one of an answer carries its finish_reason."""

    request_id: int
    index: int
    """Which of the request's n answers."""
    token: int | None
    """The new token; None where an answer ends without one (abort, error, max_tokens=0)."""
    logprob: TokenLogprob | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None
    """What went wrong, where finish_reason is "error"."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """With a request's first output, where asked for: one for each prompt token, None for the first."""
    cached_tokens: int | None = None
    """With an answer's first output: prompt tokens that were found in the cache instead of being computed."""

    @property
    def stop_id(self) -> int | None:
        """The id that ended the answer, where finish_reason is "stop"."""
        return self.token if self.finish_reason == "stop" else None


@dataclass(frozen=True)
class Completion:
    """One finished answer."""

    index: int
    """Which of the request's n answers."""
    ids: list[int]
    """All tokens of the answer, the stop id included."""
    finish_reason: FinishReason
    stop_id: int | None = None
    """The id that ended the answer, where finish_reason is "stop"; it is `ids[-1]`."""
    error: str | None = None
    logprobs: list[TokenLogprob] | None = None
    """One for each of `ids`, where they were asked for."""
    prompt_logprobs: list[TokenLogprob | None] | None = None

    @property
    def content_ids(self) -> list[int]:
        """The answer without its stop id."""
        return self.ids if self.stop_id is None else self.ids[:-1]


@dataclass(frozen=True)
class Stats:
    """What the engine holds now, and what it has done since it was made."""

    running: int
    """Answers that have blocks and take part in steps."""
    waiting: int
    blocks_used: int
    blocks_cached: int
    """Unused blocks whose content can be reused."""
    blocks_free: int
    """Unused blocks without such content. Used, cached and free are all blocks."""
    prompt_tokens: int
    """Tokens of submitted prompts."""
    generated_tokens: int
    computed_tokens: int
    """Tokens that went through the model, drafts included."""
    drafted_tokens: int
    """Of them, those that were proposed before the model had chosen them."""
    accepted_tokens: int
    """Of these, those that the model then chose."""
    prefix_queries: int
    """Tokens of sequences at their admission (again after a preemption)."""
    prefix_hits: int
    """Those of them that were found in the cache instead of being computed."""
    preemptions: int
    steps: int


def collect(outputs: Iterable[TokenOutput]) -> list[Completion]:
    """The completions, in order of their index, that all outputs of one finished request make."""
    answers: dict[int, list[TokenOutput]] = {}
    for output in outputs:
        answers.setdefault(output.index, []).append(output)
    prompt_logprobs = answers[0][0].prompt_logprobs
    completions = []
    for index, parts in sorted(answers.items()):
        last = parts[-1]
        if last.finish_reason is None:
            raise ValueError(f"answer {index} has not ended yet")
        logprobs = [part.logprob for part in parts if part.logprob is not None]
        completions.append(
            Completion(
                index=index,
                ids=[part.token for part in parts if part.token is not None],
                finish_reason=last.finish_reason,
                stop_id=last.stop_id,
                error=last.error,
                logprobs=logprobs or None,
                prompt_logprobs=prompt_logprobs,
            )
        )
    return completions
