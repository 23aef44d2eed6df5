"""Validation samples answered while training: shown, measured, and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from torch import nn

from chatglm3.prompt import Reply, ReplyDecoder
from chatglm3.tokenizer import Tokenizer
from chatglm3.train.answers import greedy_answers
from chatglm3.train.config import SampleSettings
from chatglm3.train.data import Store
from chatglm3.train.data.encoding import answers
from chatglm3.train.metrics import measure

_AT_ONCE = 8


class Answerer:
    """Answers questions of some validation samples, always the same ones.

    Of samples with several answers, calls among them, each takes another one.
    """

    def __init__(
        self,
        store: Store,
        tokenizer: Tokenizer,
        settings: SampleSettings,
        file: Path,
        console: Console | None,
    ) -> None:
        choices = [answers(store[i]) for i in spread(len(store), settings.count)]
        self._asked = [found[i % len(found)] for i, found in enumerate(choices)]
        self._tokenizer = tokenizer
        self._settings = settings
        self._file = file
        self._console = console

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        """Answer, show and keep; returns the metrics."""
        written: list[list[int]] = []
        for start in range(0, len(self._asked), _AT_ONCE):
            prompts = [prompt for prompt, _ in self._asked[start : start + _AT_ONCE]]
            written += greedy_answers(
                model, prompts, self._tokenizer.stop_ids, self._settings.max_tokens, self._tokenizer.pad_id
            )
        if self._console is not None:
            self._keep(step, written)
        ours, theirs = self._replies(written), self._replies([expected for _, expected in self._asked])
        return measure(self._settings.metrics, ours, theirs)

    def _replies(self, written: Sequence[Sequence[int]]) -> list[Reply]:
        replies = []
        for ids in written:
            decoder = ReplyDecoder(self._tokenizer)
            for token in ids:
                decoder.add(token)
            replies.append(decoder.finish()[1])
        return replies

    def _keep(self, step: int, written: Sequence[Sequence[int]]) -> None:
        decode: Callable[[Sequence[int]], str] = self._tokenizer.decode
        with self._file.open("a", encoding="utf-8") as file:
            for number, ((prompt, expected), answer) in enumerate(zip(self._asked, written, strict=True)):
                said = {"step": step, "prompt": decode(prompt), "answer": decode(answer)}
                said["expected"] = decode([i for i in expected if i not in self._tokenizer.stop_ids])
                file.write(json.dumps(said, ensure_ascii=False) + "\n")
                if self._console is not None and number < self._settings.show:
                    asked = str(said["prompt"])[-200:]
                    self._console.print(f"step {step}: {asked}", style="dim", markup=False, highlight=False)
                    self._console.print(f"  {said['answer']}", markup=False, highlight=False)


def spread(length: int, count: int) -> list[int]:
    """`count` indices below `length`, evenly spread; all of them where there are fewer."""
    count = min(count, length)
    return [i * length // count for i in range(count)]
