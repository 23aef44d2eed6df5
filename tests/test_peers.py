"""The benchmark against peers: engines in processes of their own, turns, the table, the common weights."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import our_file, stored
from benchmarks.peers.client import Client, WorkerError
from benchmarks.peers.rounds import Rounds, Start
from benchmarks.peers.stored import Stored
from benchmarks.peers.table import Cell, cells, ratio, row
from chatglm3.checkpoint import load_model
from chatglm3.config import ModelConfig
from tests.tiny import tiny_config


def run(engines: dict[str, Start], config: ModelConfig, say: Callable[[str], None]) -> Rounds:
    return Rounds(
        engines, config, dtype="float32", threads=1, rounds=2, tokens=3, seconds=250, say=say
    )  # fmt: skip


def test_engines_take_turns_and_agree() -> None:
    lines: list[str] = []
    here = Start(sys.executable, None)
    with run(
        {"ours": here, "transformers": here, "llama.cpp": Start("false", None)}, tiny_config(), lines.append
    ) as rounds:
        rounds.load()
        for cell in cells(16, [8], [2]):
            rounds.measure(cell)
        rounds.memory()
    about = [line for line in lines if line.startswith("- transformers")]
    assert "its logits and ours correlate by 1.0000" in about[0]
    table = [line for line in lines if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table] == [
        "| prompt of 16, tok/s",
        "| decode at 8, tok/s",
        "| 2 streams at 8, tok/s in total",
        "| peak memory, GB",
        "| memory at the end, GB",
    ]
    for line in table:
        assert all(float(value.replace(",", "")) > 0 for value in line.strip("| ").split(" | ")[1:])
    assert "llama.cpp: left out" in lines[-1]  # what is missing is named, and the others go on


def test_the_time_is_kept() -> None:
    with (
        closing(Client(sys.executable, 1, time.monotonic())) as client,
        pytest.raises(WorkerError, match="time"),
    ):
        client.ask("memory")


def test_a_worker_that_ends_is_named() -> None:
    with (
        closing(Client("false", 1, time.monotonic() + 60)) as client,
        pytest.raises(WorkerError, match="exit code 1"),
    ):
        client.ask("memory")


def test_rates_and_ratios() -> None:
    assert Cell(512).rate([2.0]) == 256
    assert Cell(128, 1).rate([0.5, 0.1, 0.2]) == 5
    assert Cell(128, 8).rate([0.5]) == 16
    assert ratio([3, 8, 100], [1, 2, 50]) == 3  # round by round: 3, 4, 2
    assert row("x", {"ours": [1, 3, 2], "b": [4]}, ["ours", "b", "c"]) == "| x | 2 | 4 | 0.25 | - | - |"
    assert [(c.context, c.streams) for c in cells(512, [128, 4096], [4])] == [
        (512, 0), (128, 1), (128, 4), (4096, 1),
    ]  # fmt: skip


def test_all_engines_read_the_weights_that_we_compute_with(tmp_path: Path) -> None:
    config = ModelConfig(1, 256, 4, 2, 64, 192, 512, 64)
    our_file.write(config, tmp_path / "model")
    source, model = Stored(tmp_path / "model"), load_model(tmp_path / "model")
    layer = stored.LAYER.format(0)
    for name, own in (("layers.0.qkv", f"{layer}{stored.QKV}"), ("output", stored.OUTPUT)):
        scales = source.scales(own).repeat(32, axis=1)
        weight = source.codes(own) * scales
        np.testing.assert_array_equal(model.get_submodule(name).dequantize().numpy(), weight)
        assert source.shape(own) == weight.shape
        np.testing.assert_array_equal(scales[:, :128], scales[:, :1].repeat(128, axis=1))
    np.testing.assert_array_equal(
        model.get_submodule("layers.0.qkv").bias.float().numpy(), source.floats(f"{layer}{stored.QKV}.bias")
    )


def test_gguf_blocks_hold_the_same_weights() -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    from benchmarks.peers.gguf_file import q4_0, q6_k

    random = np.random.default_rng(0)
    codes = random.integers(-8, 8, (3, 512), dtype=np.int8)
    scales = (random.integers(64, 128, (3, 16)) * random.choice((-1, 1), (3, 16)) / 2**14).astype(np.float32)
    for blocks, kind in ((q4_0, "Q4_0"), (q6_k, "Q6_K")):
        weight = gguf.dequantize(blocks(codes, scales), gguf.GGMLQuantizationType[kind])
        np.testing.assert_array_equal(weight, codes * scales.repeat(32, axis=1))
