"""`chatglm3 bench` prints what it measured; how fast that is, is no test's business."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from chatglm3.benchmark import decode, operations_per_token, random_model, read_bytes
from chatglm3.engine import Engine
from tests.cli.conftest import Outcome
from tests.tiny import tiny_config

Run = Callable[..., Outcome]
QUICK = ["--contexts", "20,40", "--batches", "1,3", "--prompt", "30", "--tokens", "3", "--repeats", "1"]


@pytest.mark.parametrize("more", [["--shape", "nano"], ["--kv-dtype", "int8"]], ids=["shape", "model"])
def test_every_line_has_its_rates(run: Run, more: list[str]) -> None:
    shown = run("bench", *QUICK, *more)
    assert shown.code == 0
    names = ["prompt of 30", "decode at 20", "decode at 40", "batch of 1 at 128", "batch of 3 at 128"]
    for name in names:
        [line] = re.findall(rf"^{name} +(.*)$", shown.out, re.MULTILINE)
        assert float(line.split()[0]) > 0
        assert re.search(r"\d+% (read|int8|bfloat16)$", line)
    assert re.search(r"limits: [\d.]+ GB/s read, \d+ GOP/s", shown.out)
    assert "peak memory" in shown.out


def test_what_cannot_be_measured_is_refused(run: Run) -> None:
    assert "--tokens is 0" in run("bench", "--tokens", "0").err
    assert "more --kv-memory" in run("bench", *QUICK, "--kv-memory", "100k").err


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_random_models_run_and_are_counted(quantize: str | None) -> None:
    config = tiny_config()
    model = random_model(config, dtype=torch.bfloat16, quantize=quantize)
    rate = decode(Engine(model), batch=2, context=9, tokens=4, repeats=1)
    assert rate.tokens_per_second == pytest.approx(2 * rate.steps_per_second)
    matrices = config.num_parameters - config.vocab_size * config.hidden_size
    assert operations_per_token(model) == pytest.approx(2 * matrices, rel=0.02)  # all but norms and biases
    bits = {None: 16, "int8": 8.5, "int4": 6}[quantize]
    assert read_bytes(model, rate) < 1.7 * matrices * bits / 8
