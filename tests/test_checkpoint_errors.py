"""Every damaged or foreign checkpoint is one clear error that names the file or tensor, and what to do."""

from __future__ import annotations

import functools
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatglm3.checkpoint import load_model, save_model
from chatglm3.config import ModelConfig
from chatglm3.errors import CheckpointError, ConfigError
from tests.tiny import tiny_config, tiny_model

SINGLE = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good checkpoint in one file."""
    model = tiny_model()
    save_model(model, model.config, tmp_path)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A good checkpoint in several files."""
    model = tiny_model()
    save_model(model, model.config, tmp_path, shard_bytes=20_000)
    return tmp_path


def refused(folder: Path, *parts: str, error: type[Exception] = CheckpointError) -> None:
    with pytest.raises(error) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / SINGLE).items()}
    edit(tensors)
    save_file(tensors, folder / SINGLE)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


NORM = "transformer.encoder.final_layernorm.weight"
QKV = "transformer.encoder.layers.0.self_attention.query_key_value.weight"


def test_no_such_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "config.json", "does not exist", error=ConfigError)
    with pytest.raises(CheckpointError, match="not a folder"):
        load_model(tmp_path / "nothing", config=tiny_config())


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / SINGLE).unlink()
    refused(folder, str(folder), "holds no weights", SINGLE)


def test_shards_without_an_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    refused(sharded, "no index", "model.safetensors.index.json")


def test_a_shard_is_missing(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    refused(sharded, shard.name, "download")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b.bin"}}']
)
def test_a_damaged_index(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    refused(sharded, "model.safetensors.index.json", "download")


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_a_truncated_safetensors_file(folder: Path, keep: int) -> None:
    path = folder / SINGLE
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    refused(folder, str(path), "download it again")


@pytest.mark.parametrize(
    "header", [b"\xff" * 64, struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 8) + b"not json"]
)
def test_a_corrupt_safetensors_header(folder: Path, header: bytes) -> None:
    path = folder / SINGLE
    data = path.read_bytes()
    path.write_bytes(header + data[len(header) :])
    refused(folder, str(path), "download it again")


@pytest.mark.parametrize("keep", [0, 4, 1000, -10])
def test_a_truncated_pickle(folder: Path, keep: int) -> None:
    path = folder / "pytorch_model.bin"
    torch.save(load_file(folder / SINGLE), path)
    (folder / SINGLE).unlink()
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    refused(folder, str(path))


class _Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_that_holds_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / SINGLE).unlink()
    target = tmp_path / "owned"
    torch.save({NORM: torch.ones(48), "x": _Attack(target)}, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "code", "safetensors")
    assert not target.exists()


@pytest.mark.parametrize(
    "save", [pickle.dump, functools.partial(torch.save, _use_new_zipfile_serialization=False)]
)
def test_a_plain_pickle_is_not_run(folder: Path, tmp_path: Path, save: Callable[..., None]) -> None:
    (folder / SINGLE).unlink()
    target = tmp_path / "owned"
    with (folder / "pytorch_model.bin").open("wb") as file:
        save({"x": _Attack(target)}, file)
    refused(folder, "pytorch_model.bin", "pickle", "code", "safetensors")
    assert not target.exists()


@pytest.mark.parametrize("content", [[torch.ones(3)], {"epoch": 3}, {NORM: {"nested": torch.ones(3)}}])
def test_a_pickle_of_something_else(folder: Path, content: Any) -> None:
    (folder / SINGLE).unlink()
    torch.save(content, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "tensor")


@pytest.mark.parametrize("name", [SINGLE, "pytorch_model.bin", "model.safetensors.index.json"])
def test_a_git_lfs_pointer(folder: Path, name: str) -> None:
    (folder / SINGLE).unlink()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1827781090\n"
    (folder / name).write_text(pointer)
    refused(folder, name, "git lfs pull")


def test_a_missing_tensor(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(NORM))
    refused(folder, "lacks", NORM)


def test_an_unknown_tensor(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"transformer.extra": torch.ones(2)}))
    refused(folder, "transformer.extra")


def test_a_tensor_of_another_shape(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({QKV: tensors[QKV][:-1].clone()}))
    refused(folder, SINGLE, QKV, "[127, 48]", "[128, 48]")


def test_a_tensor_of_another_kind(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({QKV: tensors[QKV].to(torch.int8)}))
    refused(folder, QKV, "int8", "quantized")


def test_a_config_of_another_size(folder: Path) -> None:
    edit_config(folder, num_layers=3)
    refused(folder, "lacks", "layers.2", "config.json")


def test_a_config_of_another_architecture(folder: Path) -> None:
    edit_config(folder, model_type="llama")
    refused(folder, "llama", "config.json", error=ConfigError)


def test_a_config_of_another_dtype(folder: Path) -> None:
    edit_config(folder, torch_dtype="float8")
    refused(folder, "float8", "float16", error=ConfigError)


def test_weights_of_another_architecture(folder: Path) -> None:
    save_file({"layers.0.wq": torch.ones(2, 2)}, folder / SINGLE)
    refused(folder, "layers.0.wq", "another model")


def test_a_prefix_is_no_model(folder: Path) -> None:
    save_file({"transformer.prefix_encoder.embedding.weight": torch.ones(2, 2)}, folder / SINGLE)
    refused(folder, "P-Tuning prefix", "base model")


def test_the_same_tensor_in_two_shards(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    save_file({**load_file(first), **load_file(second)}, second)
    refused(sharded, first.name, second.name)


def test_quantizing_twice(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, quantize="int4")
    save_model(model, model.config, tmp_path / "int4")
    with pytest.raises(CheckpointError, match="quantized already"):
        load_model(tmp_path / "int4", quantize="int8")


def test_a_failed_save_leaves_no_weights_behind(tmp_path: Path) -> None:
    model = tiny_model()
    with pytest.raises(CheckpointError):
        save_model(list(model.state_dict().items())[:-1], model.config, tmp_path, shard_bytes=20_000)
    assert not list(tmp_path.iterdir())


def test_a_missing_config_key(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text())
    del data["num_layers"]
    (folder / "config.json").write_text(json.dumps(data))
    refused(folder, "config.json", "num_layers", error=ConfigError)
    assert load_model(folder, config=tiny_config()).config == ModelConfig(**vars(tiny_config()))
