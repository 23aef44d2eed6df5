"""The turns of the engines: each computes while the others wait, and in every round each has its turn."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.peers.client import Client, WorkerError
from benchmarks.peers.table import OURS, Cell, header, row
from chatglm3.config import ModelConfig

_PAUSE = 0.05
"""Seconds between turns, after which no thread of the last engine spins any more."""


@dataclass(frozen=True)
class Start:
    """How an engine is started."""

    python: str
    path: str | None
    """Its file, or None where it makes random weights."""


class Rounds:
    """One run. An engine that fails is named and left out from then on.

    say: takes every line of the report as soon as it is known; what goes wrong while the table is being
        written stands behind it.
    """

    def __init__(
        self,
        engines: Mapping[str, Start],
        config: ModelConfig,
        *,
        dtype: str,
        threads: int,
        rounds: int,
        tokens: int,
        seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self.names = list(engines)
        self._engines, self._config, self._dtype = engines, config, dtype
        self._threads, self._rounds, self._tokens = threads, rounds, tokens
        self._deadline, self._say = time.monotonic() + seconds, say
        self._clients: dict[str, Client] = {}
        self._stack = ExitStack()
        self._memory: dict[str, dict[str, int]] = {}
        self._remarks: list[str] = []

    def __enter__(self) -> Rounds:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._say("")
        for text in self._remarks:
            self._say(f"- {text}")

    def load(self) -> None:
        """Start every engine, once a round where it reads a file; compare them, and begin the table."""
        from_file = any(start.path for start in self._engines.values())
        found: dict[str, list[float]] = {}
        about: dict[str, str] = {}
        for turn in range(self._rounds if from_file else 1):
            for name in self._order(turn, [name for name in self.names if turn == 0 or name in about]):
                if name in self._clients:
                    self._clients.pop(name).close()
                start = self._engines[name]
                self._clients[name] = Client(start.python, self._threads, self._deadline)
                self._stack.callback(self._clients[name].close)
                answer = self._ask(
                    name, "load", engine=name, path=start.path, config=asdict(self._config),
                    dtype=self._dtype, threads=self._threads,
                )  # fmt: skip
                if answer is not None:
                    about[name] = answer["about"]
                    found.setdefault(name, []).extend(answer["seconds"])
        agreement = self._agreement()
        self.names = [name for name in self.names if name in self._clients]
        for name in self.names:
            self._say(f"- {name}: {about[name]}{agreement.get(name, '')}")
        self._say("\n" + header(self.names))
        if from_file:
            self._say(row("load to first token, s", found, self.names))
        self._weigh()

    def measure(self, cell: Cell) -> None:
        """One line of the table."""
        if time.monotonic() > self._deadline:
            self._remark(f"{cell.name}: left out, for the time is up")
            return
        vocab = self._config.vocab_size
        filled: dict[str, list[float]] = {}
        found: dict[str, list[float]] = {}
        for name in list(self._clients):
            context = cell.context if cell.streams else 0
            room = cell.context + self._tokens + 1
            answer = self._ask(name, "open", streams=max(1, cell.streams), context=context, room=room)
            if answer is not None:
                filled[name] = [cell.context / answer["seconds"][0]]
                warm_up = {"tokens": 2} if cell.streams else {"ids": list(range(16))}
                self._ask(name, "decode" if cell.streams else "prompt", **warm_up)
        if cell.streams == 1 and cell.context >= 1024:
            self._say(row(f"prompt of {cell.context}, once, tok/s", filled, self.names))
        for turn in range(self._rounds):
            for name in self._order(turn, self._clients):
                if time.monotonic() > self._deadline:
                    break
                if cell.streams:
                    answer = self._ask(name, "decode", tokens=self._tokens)
                else:  # new in every round, so that no cache knows it
                    ids = [(7 * i + 131 * turn + 1) % vocab for i in range(cell.context)]
                    answer = self._ask(name, "prompt", ids=ids)
                if answer is not None:
                    found.setdefault(name, []).append(cell.rate(answer["seconds"]))
        self._say(row(cell.name, found, self.names))
        self._weigh()

    def memory(self) -> None:
        """The last two lines."""
        for title, key in (("peak memory, GB", "peak"), ("memory at the end, GB", "held")):
            found = {name: [sizes[key] / 1e9] for name, sizes in self._memory.items()}
            self._say(row(title, found, self.names))

    def _agreement(self) -> dict[str, str]:
        """What to say of each peer: all hold one network, so they have to agree about what comes next."""
        logits: dict[str, list[float]] = {}
        ids = [(97 * i + 5) % self._config.vocab_size for i in range(32)]
        for name in list(self._clients):
            answer = self._ask(name, "logits", ids=ids)
            if answer is not None:
                logits[name] = answer["logits"]
        ours = logits.pop(OURS, None)
        if ours is None:
            return {}
        return {
            name: f"; its logits and ours correlate by {statistics.correlation(ours, theirs):.4f}"
            for name, theirs in logits.items()
        }

    def _weigh(self) -> None:
        for name in list(self._clients):
            answer = self._ask(name, "memory")
            if answer is not None:
                self._memory[name] = answer

    def _ask(self, name: str, do: str, **arguments: Any) -> dict[str, Any] | None:
        """One turn; None where the engine failed, or had failed before."""
        if name not in self._clients:
            return None
        time.sleep(_PAUSE)
        try:
            return self._clients[name].ask(do, **arguments)
        except WorkerError as error:
            self._clients.pop(name).close()
            self._remark(f"{name}: left out from here on; {error}")
            return None

    def _order(self, turn: int, names: Sequence[str] | Mapping[str, Client]) -> Iterator[str]:
        """Who begins changes from round to round."""
        rotated = list(names)
        shift = turn % max(1, len(rotated))
        yield from rotated[shift:] + rotated[:shift]

    def _remark(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        self._remarks.append(text)
