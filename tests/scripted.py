"""An engine that says what a test wants, over a real one that still reads every prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chatglm3.chat import ChatGLM3
from chatglm3.engine import SamplingParams, TokenOutput
from chatglm3.tokenizer import Tokenizer


class ScriptedEngine:
    """Each prompt is computed by the real engine (if it `computes`), and answered with the next of `replies`.

    `<|assistant|>` in a reply stands for the token. A reply that is a tuple ends as its second item says.
    """

    def __init__(
        self, glm: ChatGLM3, replies: Sequence[str | tuple[str, str]], computes: bool = True
    ) -> None:
        self._computes = computes
        self.real = glm.engine
        self.max_context = self.real.max_context
        self.prompts: list[list[int]] = []
        self._tokenizer: Tokenizer = glm.tokenizer
        self._replies = list(replies)

    def stream(self, ids: Sequence[int], params: SamplingParams) -> Iterator[TokenOutput]:
        self.prompts.append(list(ids))
        if self._computes:
            list(self.real.stream(ids, SamplingParams(max_tokens=1)))
        reply = self._replies.pop(0)
        text, reason = reply if isinstance(reply, tuple) else (reply, "stop")
        tokens: list[int] = []
        for number, part in enumerate(text.split("<|assistant|>")):
            tokens += [self._tokenizer.assistant_id] if number else []
            tokens += self._tokenizer.encode(part)
        for token in tokens:
            yield TokenOutput(0, 0, token)
        end = self._tokenizer.user_id if reason == "stop" else None
        yield TokenOutput(0, 0, end, finish_reason=reason)  # type: ignore[arg-type]


def scripted(glm: ChatGLM3, *replies: str | tuple[str, str], computes: bool = True) -> ChatGLM3:
    """A ChatGLM3 whose model says `replies`, one after the other; `.engine.prompts` is what it read."""
    return ChatGLM3(glm.loaded, ScriptedEngine(glm, replies, computes))  # type: ignore[arg-type]


def called(name: str, arguments: str) -> str:
    """What the model writes to call a tool."""
    return f"{name}\n```python\ntool_call({arguments})\n```"
