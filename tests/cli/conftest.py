"""Models for the command line: random weights, a real tokenizer, and answers that go on for long."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from chatglm3.cli import main
from tests.tiny import write_tiny_checkpoint


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"), max_seq_len=8192)


@pytest.fixture(scope="session")
def short_context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with a context of 64 tokens."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("short"), max_seq_len=64)


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Outcome]:
    """Run a command in this process, with text or bytes for standard input."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object, stdin: str | bytes = "") -> Outcome:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call
