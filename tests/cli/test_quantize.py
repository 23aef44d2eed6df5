"""`chatglm3 quantize --calibrate`, as a person types it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chatglm3.checkpoint import load_model
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


def test_calibrated_weights_are_written_and_chat(run: Run, model_folder: Path, tmp_path: Path) -> None:
    """Without a file the package's own texts are taken; with one, that."""
    written = run("quantize", model_folder, "small", "--device", "cpu", "--calibrate")
    assert (written.code, written.out.count("\n")) == (0, 1)
    started, *layers = written.err.splitlines()
    assert re.fullmatch(r"calibrating on cpu with [\d,]+ tokens in \d+ pieces", started)
    assert [line.split(",")[0] for line in layers] == ["layer 1 of 2", "layer 2 of 2"]
    assert run("chat", "./small", "--temperature", "0", "--max-tokens", "4", stdin="hello").code == 0
    (tmp_path / "own.txt").write_text("hello world, how are you today? " * 200, encoding="utf-8")
    assert run("quantize", model_folder, "other", "--device", "cpu", "--calibrate", "own.txt").code == 0
    assert run("quantize", model_folder, "nearest").code == 0
    codes = [
        load_model(tmp_path / name).layers[0].down.plain()["qweight"]
        for name in ("small", "other", "nearest")
    ]
    assert codes[0].shape == codes[1].shape == codes[2].shape
    assert not torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])
    again = run("quantize", "./small", "smaller", "--device", "cpu", "--calibrate")
    assert again.code == 1
    assert "quantized already" in again.err


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--scheme", "int8", "--calibrate"], 2, "calibration is for int4; int8 loses next to nothing"),
        (["--device", "cpu"], 2, "--device cpu is for --calibrate"),
        (["--device", "cpu", "--calibrate", "absent.jsonl"], 1, "absent.jsonl is not there"),
        (["--device", "cuda:99", "--calibrate"], 1, "cuda:99"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, model_folder: Path, words: list[str], code: int, complaint: str
) -> None:
    outcome = run("quantize", model_folder, "out", *words)
    assert outcome.code == code
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert complaint in last
    assert not Path("out").exists()
