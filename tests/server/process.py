"""`chatglm3 serve` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple


class Served(NamedTuple):
    """A server that runs."""

    url: str
    process: subprocess.Popen[str]
    log: list[dict[str, Any]]
    """Its lines so far; complete when the process has ended."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextlib.contextmanager
def served(model: str, *flags: str, **environment: str) -> Iterator[Served]:
    """Serve a model until the block ends; the server is told to end then, if it has not been before."""
    command = [sys.executable, "-m", "chatglm3", "serve", model, "--port", "0", "--device", "cpu", *flags]
    with subprocess.Popen(
        [*command, "--log-format", "json"],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        log, url = [], None
        for line in process.stderr:
            log.append(json.loads(line))
            if url := re.search(r"https?://127\.0\.0\.1:\d+", log[-1]["message"]):
                break
        assert url is not None, log
        rest = map(json.loads, process.stderr)
        reader = threading.Thread(target=lambda: log.extend(rest), daemon=True)
        reader.start()
        try:
            yield Served(url[0], process, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            reader.join(timeout=10)
