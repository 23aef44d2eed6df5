"""One engine in a process of its own, which computes only when it is asked.

A request is a line of JSON on standard input, `{"do": ..., ...}`; the answer is a line on standard output. So
an engine can live in an environment of its own, its memory is its own, and whoever asks decides whose turn
it is. What libraries print goes to standard error.

- `load` (engine, path, config, dtype, threads): make it and compute one token behind eight. Gives `about` and
  `seconds`; imports are not counted.
- `logits` (ids): what comes next, `logits` of the first ids of the vocabulary.
- `open` (streams, context, room): sequences that hold `context` tokens each. Gives `seconds`.
- `prompt` (ids): a prompt from nothing up to the choice of a token. Gives `seconds`, a list of one.
- `decode` (tokens): so many steps, each one token for every sequence; they are forgotten afterwards. Gives
  `seconds`, one for each step.
- `memory`: `peak` and `held`, resident bytes.

Where something is wrong the answer has an `error`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from chatglm3.config import ModelConfig

ENGINES = {
    "ours": "ours",
    "transformers": "glm",
    "llama.cpp": "llamacpp",
    "openvino": "openvino_net",
}
"""Modules of this package, each with a function `load` that gives an `Engine`."""

SHOWN = 256
"""Logits that are compared."""


class Engine(Protocol):
    """What is measured; the requests of the same names say what each method does."""

    about: str
    """Its name, version and form of the weights."""

    def open(self, streams: int, context: int, room: int) -> None:
        """room: tokens that a sequence will have at most."""

    def prompt(self, ids: list[int]) -> None: ...

    def decode(self, tokens: int) -> Iterator[None]:
        """Yields before the first step and after each."""

    def logits(self, ids: list[int]) -> list[float]:
        """After `open` with one empty sequence."""


class Worker:
    """Answers requests with one engine."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("`load` has to come first")
        return self._engine

    def load(
        self, engine: str, path: str | None, config: dict[str, Any], dtype: str, threads: int
    ) -> dict[str, Any]:
        module = import_module(f"benchmarks.peers.{ENGINES[engine]}")
        shape = ModelConfig(**config)
        start = time.perf_counter()
        self._engine = module.load(None if path is None else Path(path), shape, dtype, threads)
        self._engine.open(1, 0, 16)
        self._engine.prompt(list(range(1, 9)))
        return {"about": self._engine.about, "seconds": [time.perf_counter() - start]}

    def logits(self, ids: list[int]) -> dict[str, Any]:
        self.engine.open(1, 0, len(ids) + 1)
        return {"logits": self.engine.logits(ids)[:SHOWN]}

    def open(self, streams: int, context: int, room: int) -> dict[str, Any]:
        start = time.perf_counter()
        self.engine.open(streams, context, room)
        return {"seconds": [time.perf_counter() - start]}

    def prompt(self, ids: list[int]) -> dict[str, Any]:
        start = time.perf_counter()
        self.engine.prompt(ids)
        return {"seconds": [time.perf_counter() - start]}

    def decode(self, tokens: int) -> dict[str, Any]:
        steps, seconds = self.engine.decode(tokens), []
        next(steps)
        for _ in range(tokens):
            start = time.perf_counter()
            next(steps)
            seconds.append(time.perf_counter() - start)
        for _ in steps:
            pass
        return {"seconds": seconds}

    def memory(self) -> dict[str, Any]:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        peak, held = (int(status.partition(f"{key}:")[2].split()[0]) * 1024 for key in ("VmHWM", "VmRSS"))
        return {"peak": peak, "held": held}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # whatever a library raises is the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
