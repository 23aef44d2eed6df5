"""Samples as token ids, through the renderer that inference uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from chatglm3.prompt import Message, render
from chatglm3.tokenizer import Tokenizer
from chatglm3.train.data.formats import Completion, Preference, Sample
from chatglm3.train.encode import Example


@dataclass(frozen=True)
class Pair:
    """A prompt with a better and a worse answer, as ids."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def length(self) -> int:
        """Tokens of the longer of the two conversations."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def encode_sample(sample: Sample, tokenizer: Tokenizer) -> Example | Pair:
    """The ids of a sample, with what is learnt of them.

    Raises InvalidMessageError and TokenizerError for text that has no ids.
    """
    if isinstance(sample, Completion):
        context = tokenizer.prefix_ids + tokenizer.encode(sample.context)
        target = [*tokenizer.encode(sample.target), tokenizer.eos_id]
        return Example(context + target, [False] * len(context) + [True] * len(target))
    if isinstance(sample, Preference):
        prompt = render(sample.prompt, tokenizer).ids
        chosen, rejected = (
            _finished(sample.prompt + answer, tokenizer).ids[len(prompt) :]
            for answer in (sample.chosen, sample.rejected)
        )
        return Pair(prompt, chosen, rejected)
    return _finished(sample.messages, tokenizer)


def _finished(messages: Sequence[Message], tokenizer: Tokenizer) -> Example:
    """A whole conversation. After a call, the model stops with `<|observation|>`, not with eos."""
    rendered = render(messages, tokenizer, add_generation_prompt=False)
    ids = rendered.ids
    if messages[-1].metadata:
        ids[-1] = tokenizer.observation_id
    return Example(ids, rendered.loss_mask)


def answers(example: Example) -> list[tuple[list[int], list[int]]]:
    """(all ids before it, the answer) for each answer that is learnt, with the token that stops the model."""
    found = []
    start = 0
    for learnt, stretch in groupby(example.learnt):
        end = start + sum(1 for _ in stretch)
        if learnt:
            found.append((example.ids[:start], example.ids[start:end]))
        start = end
    return found
