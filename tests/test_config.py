"""config.json in both published layouts, and the errors of bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatglm3.config import Layout, ModelConfig
from chatglm3.errors import ConfigError
from tests.tiny import tiny_config, tiny_model

CHATGLM3_6B: dict[str, Any] = {
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "rmsnorm": True,
    "seq_length": 8192,
    "torch_dtype": "float16",
    "eos_token_id": 2,
    "pad_token_id": 0,
}

EXPECTED_6B = ModelConfig(
    num_layers=28,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=2,
    head_dim=128,
    ffn_hidden_size=13696,
    vocab_size=65024,
    max_seq_len=8192,
)


def test_chatglm3_6b() -> None:
    config = ModelConfig.from_dict(CHATGLM3_6B)
    assert config == EXPECTED_6B
    assert config.rotary_dim == 64
    assert config.kv_values_per_token == 14_336


def test_published_configs(fixtures_dir: Path) -> None:
    """The differences from 6b are those that the published files have, and no others."""
    expected = {
        "chatglm3-6b": {},
        "chatglm3-6b-32k-int4": {"max_seq_len": 32768, "rope_theta": 5e5, "quantization_bit": 4},
    }
    for path in sorted((fixtures_dir / "configs").glob("*.config.json")):
        config = ModelConfig.from_dict(json.loads(path.read_text()))
        name = path.name.removesuffix(".config.json")
        if name in expected:
            assert config == ModelConfig(**(vars(EXPECTED_6B) | expected[name])), name
        assert config.head_dim == 128
        assert config.num_kv_heads == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rope_theta": 5e5},
        {"rope_theta": 12345.0},
        {"num_kv_heads": 4, "qkv_per_head": True},
        {"num_kv_heads": 4},
        {"norm": "layernorm", "linear_bias": True, "residual_after_norm": True, "final_norm": False},
        {"qkv_bias": False},
        {"eos_token_ids": (2, 7, 9)},
        {"quantization_bit": 4},
        {"quantization": {"scheme": "int4", "group_size": 32}},
        {"prefix_length": 128, "prefix_projection": True},
    ],
    ids=str,
)
def test_what_is_written_is_read_in_the_chatglm_layout(options: dict[str, Any]) -> None:
    config = tiny_config(**options)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "options", [{}, {"rope_theta": 5e5}, {"num_kv_heads": 4}, {"qkv_bias": False}], ids=str
)
def test_what_is_written_is_read_in_the_glm_layout(options: dict[str, Any]) -> None:
    config = tiny_config(**options)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict("glm")))) == config


def test_transformers_reads_our_glm_config_and_we_read_its() -> None:
    from transformers import GlmConfig

    config = tiny_config(rope_theta=5e5, norm_eps=1e-6)
    theirs = GlmConfig(**config.to_dict("glm"))
    assert ModelConfig.from_dict(theirs.to_dict()) == config


@pytest.mark.parametrize("layout", ["chatglm", "glm"])
def test_from_folder(tmp_path: Path, layout: Layout) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config().to_dict(layout)))
    assert ModelConfig.from_folder(tmp_path) == tiny_config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"model_type": None}, "None"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_layers": "28"}, "num_layers is '28'"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"rope_ratio": "50"}, "rope_ratio is '50'"),
        ({"layernorm_epsilon": 0}, "layernorm_epsilon is 0"),
        ({"pre_seq_len": "128"}, "pre_seq_len is '128'"),
        ({"multi_query_group_num": 3}, "3 key/value heads"),
        ({"kv_channels": 6}, "head_dim is 6"),
        ({"quantization_bit": 3}, "quantization_bit is 3"),
        ({"pre_seq_len": -1}, "pre_seq_len is -1"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
    ],
    ids=str,
)
def test_bad_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(CHATGLM3_6B | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"partial_rotary_factor": 1.0, "rope_parameters": {}}, "partial_rotary_factor is 1.0"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"hidden_act": "gelu"}, "gelu"),
    ],
    ids=str,
)
def test_what_glm_can_be_and_this_network_cannot(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(tiny_config().to_dict("glm") | changes)


@pytest.mark.parametrize(
    "options",
    [{}, {"norm": "layernorm", "linear_bias": True}, {"qkv_bias": False, "final_norm": False}],
    ids=str,
)
def test_parameters_are_counted(options: dict[str, Any]) -> None:
    config = tiny_config(**options)
    assert config.num_parameters == sum(p.numel() for p in tiny_model(config).parameters())


@pytest.mark.parametrize("key", ["num_layers", "hidden_size", "padded_vocab_size", "seq_length"])
def test_missing_keys_are_named(key: str) -> None:
    data = {name: value for name, value in CHATGLM3_6B.items() if name != key}
    with pytest.raises(ConfigError, match=key):
        ModelConfig.from_dict(data)


def test_the_first_chatglm_is_another_network() -> None:
    with pytest.raises(ConfigError, match="first generation"):
        ModelConfig.from_dict({"model_type": "chatglm", "position_encoding_2d": True, "num_layers": 28})


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"norm": "layernorm"}, {"linear_bias": True}, {"prefix_length": 4}, {"quantization_bit": 8}],
    ids=str,
)
def test_options_that_glm_lacks(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Glm layout"):
        tiny_config(**options).to_dict("glm")
