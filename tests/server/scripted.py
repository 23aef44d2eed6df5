"""A real engine whose model says what a test wants it to say."""

from __future__ import annotations

from torch import Tensor

from chatglm3 import ChatGLM3
from chatglm3.engine.sampler import Sampled, SamplingState


class Script:
    """Replaces the choices of an engine's sampler: each new answer takes the next of the given replies.

    A reply is text in which `<|assistant|>`, `<|user|>` and `<|observation|>` are the role tokens; it ends
    with eos if it does not end with one of the last two. Without a reply left, the model speaks for itself.
    """

    def __init__(self, glm: ChatGLM3) -> None:
        self._tokenizer = glm.tokenizer
        self._replies: list[list[int]] = []
        self._scripts: dict[int, tuple[SamplingState, list[int]]] = {}  # the state is kept, so its id is too
        self._sampler = glm.engine._sampler
        self._sample = self._sampler.sample
        self._sampler.sample = self.sample  # type: ignore[method-assign]

    def say(self, *replies: str) -> None:
        """What the next answers will be."""
        for reply in replies:
            ids = self._tokenizer.encode(reply, role_tokens=True)
            if ids[-1] not in self._tokenizer.stop_ids:
                ids.append(self._tokenizer.eos_id)
            self._replies.append(ids)

    def forget(self) -> None:
        """Forget what has not been said."""
        self._replies.clear()

    def sample(self, logits: Tensor, states: list[SamplingState]) -> list[Sampled]:
        """Like Sampler.sample."""
        chosen = self._sample(logits, states)
        for row, state in enumerate(states):
            if id(state) not in self._scripts:
                self._scripts[id(state)] = (state, self._replies.pop(0) if self._replies else [])
            if script := self._scripts[id(state)][1]:
                token = script.pop(0)
                logprob = chosen[row].logprob
                chosen[row] = Sampled(token, logprob and logprob._replace(token=token))
        return chosen
