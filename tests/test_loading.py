"""Devices and dtypes: good defaults, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatglm3.config import ModelConfig
from chatglm3.engine import GREEDY
from chatglm3.errors import ChatGLM3Error, DeviceError, InvalidParameterError, ModelNotFoundError
from chatglm3.loading import choose_device, choose_dtype, free_memory, load, make_engine
from tests.tiny import tiny_config, tiny_model, write_tiny_checkpoint

CPU = torch.device("cpu")
SIX_B = ModelConfig(
    num_layers=28, hidden_size=4096, num_heads=32, num_kv_heads=2, head_dim=128, ffn_hidden_size=13696,
    vocab_size=65024, max_seq_len=8192,
)  # fmt: skip


def test_a_cpu_runs_small_models_in_float32_and_large_ones_in_bfloat16() -> None:
    assert choose_dtype(None, CPU, tiny_config()) == torch.float32
    assert choose_dtype(None, CPU, SIX_B) == torch.bfloat16
    assert choose_dtype(None, CPU, tiny_config(), quantize="int4") == torch.bfloat16
    assert choose_dtype(None, CPU, tiny_config(quantization={"scheme": "int4"})) == torch.bfloat16


def test_the_callers_dtype_is_taken() -> None:
    assert choose_dtype("float16", CPU, SIX_B) == torch.float16
    assert choose_dtype(torch.float32, CPU, SIX_B) == torch.float32
    with pytest.raises(InvalidParameterError, match="dtype 'int3' is not one of float32, bfloat16, float16"):
        choose_dtype("int3", CPU)


def test_devices_this_machine_does_not_have() -> None:
    with pytest.raises(DeviceError, match="no device 'abacus'"):
        choose_device("abacus")
    with pytest.raises(DeviceError, match="'meta' is not supported"):
        choose_device("meta")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA device here"):
            choose_device("cuda")
        assert choose_device() == torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def test_parameters_are_counted_as_they_are() -> None:
    for overrides in (
        {},
        {"norm": "layernorm"},
        {"linear_bias": True},
        {"final_norm": False},
        {"qkv_bias": False},
    ):
        model = tiny_model(tiny_config(**overrides))
        assert model.config.num_parameters == sum(p.numel() for p in model.parameters()), overrides


def test_the_cache_holds_whole_contexts_and_takes_what_it_is_given() -> None:
    model = tiny_model()
    engine = make_engine(model)
    assert engine.max_context == model.config.max_seq_len
    assert engine.stats.blocks_free == 4 * model.config.max_seq_len // 16
    per_block = 16 * model.config.kv_values_per_token * 4
    assert make_engine(model, cache_bytes=10 * per_block).stats.blocks_free == 10
    assert free_memory(CPU) > 10 * per_block


def test_an_int8_cache_and_speculation_are_asked_for_by_name() -> None:
    model = tiny_model()
    small = make_engine(model, kv_dtype="int8")
    assert small.stats.blocks_free == make_engine(model).stats.blocks_free
    assert (
        small.cache_bytes < 0.35 * make_engine(model).cache_bytes
    )  # 16 codes and a scale instead of 16 floats
    params = GREEDY.replace(max_tokens=60, logit_bias={7: 30.0})
    steps = []
    for speculate in (0, 8):
        engine = make_engine(model, speculate=speculate)
        engine.generate([[7, 8]], params)
        steps.append(engine.stats.steps)
    assert steps[0] == 60
    assert steps[1] < 30
    with pytest.raises(InvalidParameterError, match="kv_dtype is 'int4'"):
        make_engine(model, kv_dtype="int4")


def test_load_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    folder = write_tiny_checkpoint(tmp_path / "model")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(ChatGLM3Error, match=r"tokenizer\.model"):
        load(folder)
