"""P-Tuning prefixes: read from both kinds of encoder, and seen by every token without shifting positions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from chatglm3.adapters import Prefix, write_prefix
from chatglm3.attention import AttentionBatch, KVCache, packed_batch
from chatglm3.checkpoint import load_model, load_prefix, save_model
from chatglm3.config import ModelConfig
from chatglm3.errors import CheckpointError
from chatglm3.model import ChatGLMModel
from tests.tiny import tiny_config, tiny_model

LENGTH = 5


def encoder_of(config: ModelConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    width, hidden = config.kv_values_per_token, config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (config.prefix_length, width)}
    if config.prefix_projection:
        shapes |= {"trans.0.weight": (hidden, width), "trans.0.bias": (hidden,)}
        shapes |= {"trans.2.weight": (width, hidden), "trans.2.bias": (width,)}
    return {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def save_prefix(encoder: dict[str, Tensor], config: ModelConfig, folder: Path, **others: Tensor) -> None:
    folder.mkdir(exist_ok=True)
    named = {f"transformer.prefix_encoder.{name}": tensor for name, tensor in encoder.items()}
    save_file(named | others, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))


def logits_of(model: ChatGLMModel, prefix: Prefix | None, ids: Tensor) -> Tensor:
    length = prefix.length if prefix else 0
    batch = packed_batch(model.config, [len(ids)], prefix_length=length)
    if prefix:
        write_prefix(batch.cache, torch.arange(length), prefix)
    return model.logits(model(ids, torch.arange(len(ids)), batch))


@pytest.mark.parametrize("projection", [False, True])
def test_keys_and_values_are_the_encoders_rows(tmp_path: Path, projection: bool) -> None:
    config = tiny_config(prefix_length=LENGTH, prefix_projection=projection)
    encoder = encoder_of(config)
    save_prefix(encoder, config, tmp_path)
    prefix = load_prefix(tmp_path)
    assert prefix is not None
    assert prefix.length == LENGTH
    rows = encoder["embedding.weight"]
    if projection:
        inner = torch.tanh(rows @ encoder["trans.0.weight"].T + encoder["trans.0.bias"])
        rows = inner @ encoder["trans.2.weight"].T + encoder["trans.2.bias"]
    # A row of the encoder: for each layer all key heads, then all value heads.
    for layer in range(config.num_layers):
        keys, values = rows[:, 2 * layer * config.kv_size :][:, : 2 * config.kv_size].split(
            config.kv_size, dim=1
        )
        torch.testing.assert_close(prefix.keys[layer].flatten(1), keys, atol=1e-5, rtol=0)
        torch.testing.assert_close(prefix.values[layer].flatten(1), values, atol=1e-5, rtol=0)


def test_a_prefix_of_one_tokens_keys_is_that_token_in_front() -> None:
    """Without rotary (position 0 turns nothing), a real token's keys and values work as a prefix."""
    model, ids = tiny_model(), torch.tensor([7, 9, 11])
    first = packed_batch(model.config, [1])
    model(ids[:1], torch.tensor([0]), first)
    keys, values = torch.stack(first.cache.keys)[:, 0], torch.stack(first.cache.values)[:, 0]
    with_prefix = packed_batch(model.config, [2], prefix_length=1)
    write_prefix(with_prefix.cache, torch.tensor([0]), Prefix(keys, values))
    ours = model.logits(model(ids[1:], torch.tensor([1, 2]), with_prefix))
    torch.testing.assert_close(ours, logits_of(model, None, ids)[1:], atol=1e-4, rtol=0)


def test_decoding_behind_a_prefix_is_the_whole_behind_it() -> None:
    config = tiny_config(prefix_length=LENGTH)
    model, ids = tiny_model(), torch.arange(10, 19)
    prefix = Prefix.from_encoder(encoder_of(config), config)
    whole = logits_of(model, prefix, ids)
    assert (whole - logits_of(model, None, ids)).abs().max() > 0.1
    cache = KVCache(config, num_blocks=4, block_size=4)
    table = [2, 0, 3, 1]
    write_prefix(cache, torch.tensor([8, 9, 10, 11, 0]), prefix)
    for i in range(len(ids)):
        batch = AttentionBatch.build(cache, [1], [LENGTH + i + 1], [table])
        step = model.logits(model(ids[i : i + 1], torch.tensor([i]), batch))
        torch.testing.assert_close(step[0], whole[i], atol=1e-4, rtol=0)


def test_no_prefix_in_the_config_is_none(tmp_path: Path) -> None:
    model = tiny_model()
    save_model(model, model.config, tmp_path)
    assert load_prefix(tmp_path) is None


def test_a_model_and_its_prefix_in_one_folder(tmp_path: Path) -> None:
    model = tiny_model()
    config = tiny_config(prefix_length=LENGTH)
    save_model(model, model.config, tmp_path / "plain")
    from safetensors.torch import load_file

    save_prefix(
        encoder_of(config), config, tmp_path / "both", **load_file(tmp_path / "plain/model.safetensors")
    )
    prefix = load_prefix(tmp_path / "both")
    assert prefix is not None
    assert prefix.length == LENGTH
    assert torch.equal(load_model(tmp_path / "both").output.weight, model.output.weight)


def test_dtype_and_device(tmp_path: Path) -> None:
    config = tiny_config(prefix_length=LENGTH, dtype="float16")
    save_prefix(encoder_of(config), config, tmp_path)
    stored, given = load_prefix(tmp_path), load_prefix(tmp_path, dtype=torch.bfloat16)
    assert stored is not None
    assert given is not None
    assert (stored.keys.dtype, given.values.dtype) == (torch.float16, torch.bfloat16)


def test_a_prefix_that_is_missing(tmp_path: Path) -> None:
    model = tiny_model()
    save_model(model, tiny_config(prefix_length=LENGTH), tmp_path)
    with pytest.raises(CheckpointError, match="pre_seq_len 5"):
        load_prefix(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"prefix_length": 6}, {"prefix_projection": True}, {"num_layers": 3}, {"num_kv_heads": 1}],
    ids=str,
)
def test_a_prefix_of_another_network(tmp_path: Path, wrong: dict[str, int]) -> None:
    config = tiny_config(prefix_length=LENGTH)
    save_prefix(encoder_of(config), config, tmp_path)
    with pytest.raises(CheckpointError, match=r"embedding\.weight \[5, 128\]"):
        load_prefix(tmp_path, tiny_config(**{"prefix_length": LENGTH, **wrong}))
