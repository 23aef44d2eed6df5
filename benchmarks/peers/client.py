"""The other side of `benchmarks.peers.worker`: an engine's process, and one request to it at a time."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class WorkerError(Exception):
    """An engine failed, ended, or did not answer in time."""


class Client:
    """A worker process. After an error it is ended, and every further request fails at once."""

    def __init__(self, python: str, threads: int, deadline: float) -> None:
        """python: an interpreter that can import the engine. deadline: as `time.monotonic` counts."""
        self.deadline = deadline
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peers.worker"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The worker's answer. Raises WorkerError, also where none comes before the deadline."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise WorkerError(f"{do}: the worker has ended; {self._last_words()}") from None
        line = self._line(do)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.close()
            raise WorkerError(f"{do}: {answer['error']}")
        return answer

    def _line(self, do: str) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, self.deadline - time.monotonic())):
                self.close()
                raise WorkerError(f"{do}: no answer within the time that was given")
        line = stdout.readline()
        if not line:
            raise WorkerError(f"{do}: the worker has ended; {self._last_words()}")
        return line

    def _last_words(self) -> str:
        """How it ended, and the last line it wrote to standard error."""
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return f"exit code {code}: {lines[-1]}"

    def close(self) -> None:
        """End the process and wait for it, so that its memory is free."""
        self._process.kill()
        self._process.communicate()
