"""A long prompt takes the memory of its cache, and of one chunk."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUN = """
import sys
import torch
from chatglm3.benchmark import peak_bytes
from chatglm3.engine import GREEDY, Engine
from tests.tiny import tiny_config, tiny_model

config = tiny_config(num_layers=1, max_seq_len=9000)
engine = Engine(tiny_model(config), int8_cache=sys.argv[1] == "int8")
peaks = []
for length in (1000, 8000):
    prompt = [(7 * i + i // 100) % 320 for i in range(length)]
    [[answer]] = engine.generate([prompt], GREEDY.replace(max_tokens=3))
    assert len(answer.ids) == 3
    peaks.append(peak_bytes(torch.device("cpu")))
print(engine.cache_bytes, *peaks)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
@pytest.mark.parametrize("cache", ["same", "int8"])
def test_memory_grows_by_the_cache_alone(cache: str) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, cache], check=True, capture_output=True, text=True)
    cache_bytes, short, long = map(int, done.stdout.split())
    # All logits of 8000 tokens would be 10 MB, all scores of one head 256 MB.
    assert long - short < cache_bytes + 30e6
