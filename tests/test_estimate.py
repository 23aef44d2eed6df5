"""The memory a model is said to need is what its modules hold."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chatglm3.attention import KVCache
from chatglm3.checkpoint import save_model
from chatglm3.config import ModelConfig
from chatglm3.estimate import FORMATS, disk_bytes, memory_need, parameter_count, stored_bytes
from chatglm3.model import ChatGLMModel
from chatglm3.quant import QuantConfig, quantize_model
from tests.tiny import tiny_config, tiny_model


@pytest.mark.parametrize("format", FORMATS)
def test_weights_and_cache_are_what_the_model_holds(format: str) -> None:
    config = tiny_config()
    dtype, scheme = FORMATS[format]
    model = tiny_model(config, dtype=dtype)
    if scheme is not None:
        quantize_model(model, QuantConfig(scheme))
    held = {id(t): t.nbytes for t in [*model.state_dict().values(), *model.buffers()]}
    cache = KVCache(config, num_blocks=4, block_size=16, dtype=dtype, device="cpu")
    need = memory_need(config, format, "cuda", context=64)
    assert need.weights == sum(held.values())
    assert need.cache == sum(tensor.nbytes for tensor in [*cache.keys, *cache.values])
    assert need.total == need.weights + need.cache + need.working


def test_packing_for_the_cpu_is_counted() -> None:
    config = tiny_config(vocab_size=321)  # native kernels fill up to 16 rows, PyTorch's add zero points
    plain, packed = (memory_need(config, "int4", device, 1).weights for device in ("cuda", "cpu"))
    assert packed > plain


def test_a_quantized_checkpoint_is_counted_as_it_is() -> None:
    config = tiny_config(ffn_hidden_size=256)
    wide = replace(config, quantization=QuantConfig("int4", group_size=64).to_dict())
    published = replace(config, quantization_bit=4)
    ours, wider, theirs = (memory_need(c, "int4", "cuda", 1).weights for c in (config, wide, published))
    assert ours != wider
    assert theirs > ours  # embedding and output layer stay in 16 bits


def test_counts_of_the_tiny_model(tmp_path: Path) -> None:
    config = tiny_config()
    model = tiny_model(config)
    assert parameter_count(config) == sum(parameter.numel() for parameter in model.parameters())
    assert stored_bytes(config) == 4 * parameter_count(config)
    save_model(model, config, tmp_path)
    assert stored_bytes(config) < disk_bytes(tmp_path) < stored_bytes(config) + 20_000
    quantized = replace(config, quantization=QuantConfig("int4").to_dict())
    assert parameter_count(quantized) == parameter_count(config)
    assert stored_bytes(quantized) < 0.3 * stored_bytes(config)


def test_the_6b_model(fixtures_dir: Path) -> None:
    config = ModelConfig.from_dict(json.loads((fixtures_dir / "configs/chatglm3-6b.config.json").read_text()))
    assert parameter_count(config) == 6_243_584_000
    # The published index counts 64 bytes more: the rotary frequencies, which nobody reads.
    assert stored_bytes(config) + 64 == 12_487_168_064
    need = memory_need(config, "float16", "cuda", config.max_seq_len)
    assert need.cache == 28 * 1024 * config.max_seq_len
    assert memory_need(config, "int4", "cpu", config.max_seq_len).total < 6e9
    assert config.dtype == "float16"
    assert torch.float16.itemsize * parameter_count(config) == stored_bytes(config)


def test_an_int8_cache_is_counted_as_it_is() -> None:
    config = tiny_config()
    cache = KVCache(config, num_blocks=4, block_size=16, dtype=torch.bfloat16, int8=True)
    assert memory_need(config, "bfloat16", "cpu", context=64, int8_cache=True).cache == cache.nbytes


RUN = """
import sys
from chatglm3.benchmark import peak_bytes
from chatglm3.checkpoint import load_model
from chatglm3.loading import make_engine
from chatglm3.engine import GREEDY
import torch
model = load_model(sys.argv[1], dtype=torch.bfloat16)
engine = make_engine(model, cache_bytes=40_000_000, kv_dtype="int8")
engine.generate([list(range(1000))], GREEDY.replace(max_tokens=3))
print(peak_bytes(model.device))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
def test_the_peak_is_predicted_within_a_tenth(tmp_path: Path) -> None:
    config = tiny_config(
        num_layers=3, hidden_size=1024, num_heads=8, num_kv_heads=2, head_dim=128, ffn_hidden_size=4096,
        vocab_size=16000, max_seq_len=2048, dtype="bfloat16",
    )  # fmt: skip
    model = ChatGLMModel(config).bfloat16()
    for parameter in model.parameters():
        parameter.fill_(0.01)
    save_model(model, config, tmp_path)
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    per_token = KVCache.bytes_per_token(config, torch.bfloat16, int8=True)
    need = memory_need(config, "bfloat16", "cpu", context=40_000_000 // per_token, int8_cache=True)
    assert need.total == pytest.approx(peak, rel=0.1), (need, peak)
