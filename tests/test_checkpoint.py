"""What is saved is what is loaded: both layouts, sharded, converted, quantized."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from chatglm3.attention import packed_batch
from chatglm3.checkpoint import Checkpoint, NameTable, empty_model, load_model, save_model
from chatglm3.config import Layout, ModelConfig
from chatglm3.errors import CheckpointError, ConfigError
from chatglm3.model import ChatGLMModel
from chatglm3.quant import QuantEmbedding, QuantLinear
from tests.tiny import tiny_config, tiny_model

LAYOUTS: list[Layout] = ["chatglm", "glm"]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_kv_heads": 4},
    {"num_kv_heads": 4, "qkv_per_head": True},
    {"linear_bias": True, "norm": "layernorm", "qkv_bias": True},
    {"final_norm": False, "residual_after_norm": True, "qkv_bias": False},
]


def logits_of(model: ChatGLMModel) -> Tensor:
    ids = torch.arange(3, 19)
    batch = packed_batch(model.config, [len(ids)], dtype=model.dtype)
    return model.logits(model(ids, torch.arange(len(ids)), batch))


def same_weights(a: ChatGLMModel, b: ChatGLMModel) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def stored_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


def save_bin(model: ChatGLMModel, folder: Path, shards: int) -> None:
    """In the published pickled form."""
    table = NameTable(model.config, "chatglm")
    tensors = [part for name, tensor in model.state_dict().items() for part in table.split(name, tensor)]
    tensors.append(("transformer.rotary_pos_emb.inv_freq", torch.ones(4)))
    folder.mkdir(exist_ok=True)
    weight_map: dict[str, str] = {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin" if shards > 1 else "pytorch_model.bin"
        torch.save(dict(tensors[i::shards]), folder / file)
        weight_map |= {name: file for name, _ in tensors[i::shards]}
    if shards > 1:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_is_loaded(tmp_path: Path, layout: Layout, shard_bytes: int) -> None:
    model = tiny_model()
    save_model(model, model.config, tmp_path, layout=layout, shard_bytes=shard_bytes)
    loaded = load_model(tmp_path)
    assert same_weights(loaded, model)
    assert loaded.config == model.config
    assert torch.equal(logits_of(loaded), logits_of(model))
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_survives_the_published_layout(tmp_path: Path, options: dict[str, Any]) -> None:
    model = tiny_model(tiny_config(**options))
    save_model(model, model.config, tmp_path)
    loaded = load_model(tmp_path)
    assert same_weights(loaded, model)
    assert loaded.config == model.config


@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_shards_of_the_published_form(tmp_path: Path, shards: int) -> None:
    model = tiny_model()
    save_bin(model, tmp_path, shards)
    assert same_weights(load_model(tmp_path), model)


def test_the_names_are_those_of_the_published_index(fixtures_dir: Path) -> None:
    shapes = json.loads((fixtures_dir / "configs" / "chatglm3-6b.shapes.json").read_text())
    config = ModelConfig.from_dict(
        json.loads((fixtures_dir / "configs" / "chatglm3-6b.config.json").read_text())
    )
    table = NameTable(config, "chatglm")
    ours = {
        part.name: list(tensor[part.rows].shape)
        for name, tensor in empty_model(config).state_dict().items()
        for part in table.parts(name)
    }
    shapes.pop("transformer.rotary_pos_emb.inv_freq")
    assert ours == shapes


def test_the_names_of_both_layouts(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(num_layers=1))
    for layout in LAYOUTS:
        save_model(model, model.config, tmp_path / layout, layout=layout)
    assert stored_names(tmp_path / "chatglm") == {
        "transformer.embedding.word_embeddings.weight",
        "transformer.encoder.layers.0.input_layernorm.weight",
        "transformer.encoder.layers.0.self_attention.query_key_value.weight",
        "transformer.encoder.layers.0.self_attention.query_key_value.bias",
        "transformer.encoder.layers.0.self_attention.dense.weight",
        "transformer.encoder.layers.0.post_attention_layernorm.weight",
        "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight",
        "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight",
        "transformer.encoder.final_layernorm.weight",
        "transformer.output_layer.weight",
    }
    assert stored_names(tmp_path / "glm") == {
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        *(f"model.layers.0.self_attn.{x}_proj.{leaf}" for x in "qkv" for leaf in ("weight", "bias")),
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.mlp.gate_up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    }


def test_transformers_reads_what_is_saved_in_its_layout(tmp_path: Path) -> None:
    from transformers import GlmForCausalLM

    model = tiny_model()
    save_model(model, model.config, tmp_path, layout="glm", shard_bytes=20_000)
    glm, info = GlmForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        theirs = glm(torch.arange(3, 19)[None]).logits[0]
    torch.testing.assert_close(logits_of(model), theirs, atol=1e-4, rtol=0)


def test_we_read_what_transformers_saves(tmp_path: Path) -> None:
    from transformers import GlmConfig, GlmForCausalLM

    torch.manual_seed(0)
    glm = GlmForCausalLM(GlmConfig(**tiny_config().to_dict("glm"))).eval()
    glm.save_pretrained(tmp_path)
    with torch.no_grad():
        theirs = glm(torch.arange(3, 19)[None]).logits[0]
    torch.testing.assert_close(logits_of(load_model(tmp_path)), theirs, atol=2e-5, rtol=0)


def test_without_multi_query_attention_rows_are_stored_head_by_head(tmp_path: Path) -> None:
    config = tiny_config(num_layers=1, num_kv_heads=4, qkv_per_head=True)
    model = tiny_model(config)
    save_model(model, config, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = file.get_tensor("transformer.encoder.layers.0.self_attention.query_key_value.bias")
    q, k, v = model.layers[0].qkv.bias.split(config.query_size)
    head = slice(16, 32)  # the second of four heads
    assert torch.equal(stored[48:96], torch.cat((q[head], k[head], v[head])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loading_converts(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny_model()
    save_model(model, model.config, tmp_path)
    assert same_weights(load_model(tmp_path, dtype=dtype), model.to(dtype))


def test_saving_names_the_dtype_that_it_writes(tmp_path: Path) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    save_model(model, model.config, tmp_path)
    assert load_model(tmp_path).dtype == torch.bfloat16


def test_weights_can_come_one_by_one(tmp_path: Path) -> None:
    model = tiny_model()
    save_model(model, model.config, tmp_path / "a")

    def pairs() -> Iterator[tuple[str, Tensor]]:
        yield from Checkpoint(tmp_path / "a", model.config)

    save_model(pairs(), model.config, tmp_path / "b", layout="glm")
    assert same_weights(load_model(tmp_path / "b"), model)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantized_on_load_is_quantized_after_saving_and_loading(tmp_path: Path, scheme: str) -> None:
    model = tiny_model()
    save_model(model, model.config, tmp_path / "plain")
    quantized = load_model(tmp_path / "plain", quantize=scheme, dtype=torch.bfloat16)
    assert isinstance(quantized.layers[0].qkv, QuantLinear)
    assert isinstance(quantized.embedding, QuantEmbedding)
    assert quantized.dtype == torch.bfloat16
    save_model(quantized, quantized.config, tmp_path / "quantized", shard_bytes=20_000)
    again = load_model(tmp_path / "quantized")
    assert same_weights(again, quantized)
    assert again.config == replace(quantized.config, dtype="bfloat16")
    assert torch.equal(logits_of(again), logits_of(quantized))


def test_the_quantized_layout_is_smaller_and_near(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(hidden_size=64, num_heads=4, ffn_hidden_size=128))
    save_model(model, model.config, tmp_path)
    quantized = load_model(tmp_path, quantize="int8")
    weight, near = model.layers[0].down.weight, quantized.layers[0].down.dequantize()
    assert (weight - near).abs().max() < 0.01 * weight.abs().max()
    # 8 bits of a float32, and 16 for each group of 32; norms and biases stay.
    sizes = [sum(t.nbytes for t in m.state_dict().values()) for m in (quantized, model)]
    assert sizes[0] / sizes[1] < (8 + 16 / 32) / 32 + 0.02


def test_saving_refuses_what_does_not_fit(tmp_path: Path) -> None:
    model = tiny_model()
    weights = model.state_dict()
    missing = {name: tensor for name, tensor in weights.items() if name != "layers.1.down.weight"}
    with pytest.raises(CheckpointError, match=r"layers\.1\.down\.weight"):
        save_model(missing.items(), model.config, tmp_path / "a")
    with pytest.raises(CheckpointError, match="lm_head"):
        save_model([("lm_head.weight", weights["output.weight"])], model.config, tmp_path / "b")
    with pytest.raises(CheckpointError, match=r"\[320, 7\]"):
        save_model([("output.weight", torch.zeros(320, 7))], model.config, tmp_path / "c")
    with pytest.raises(ConfigError, match="Glm layout"):
        save_model(model, replace(model.config, norm="layernorm"), tmp_path / "d", layout="glm")


def test_saving_never_mixes_two_checkpoints(tmp_path: Path) -> None:
    model = tiny_model()
    save_model(model, model.config, tmp_path, shard_bytes=20_000)
    with pytest.raises(CheckpointError, match="holds weights already"):
        save_model(model, model.config, tmp_path)
