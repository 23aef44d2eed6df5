"""From weights to a checkpoint folder, in either layout: one shard in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from chatglm3.checkpoint.load import empty_model, stored_dtype
from chatglm3.checkpoint.names import PREFIX_ENCODER, NameTable
from chatglm3.checkpoint.read import has_weights
from chatglm3.config import Layout, ModelConfig
from chatglm3.errors import CheckpointError
from chatglm3.model import ChatGLMModel
from chatglm3.prefix import Prefix

SHARD_BYTES = 2_000_000_000
"""Size of a file where the caller names none, as the published checkpoints have it."""


def save_model(
    weights: ChatGLMModel | Iterable[tuple[str, Tensor]],
    config: ModelConfig,
    folder: str | Path,
    *,
    layout: Layout = "chatglm",
    shard_bytes: int = SHARD_BYTES,
    prefix: Prefix | None = None,
) -> None:
    """Write safetensors files of at most `shard_bytes` (or one tensor), their index, and config.json.

    weights: a model, or (our name, tensor) pairs in any order, taken one by one. Tensors are written in their
    own dtype, and config.json names it. prefix: a P-Tuning prefix to keep with them, in the dtype that the
    config names; its length becomes the config's. Raises CheckpointError where a tensor is missing, unknown
    or of another shape than the config's, and where `folder` holds weights already.
    """
    folder = Path(folder)
    if prefix is not None:
        config = replace(config, prefix_length=prefix.length, prefix_projection=False)
    folder.mkdir(parents=True, exist_ok=True)
    if has_weights(folder):
        raise CheckpointError(f"{folder} holds weights already; give an empty folder")
    config.to_dict(layout)  # raises for what the layout cannot express, before anything is written
    shards = _ShardWriter(folder, shard_bytes)
    try:
        dtype = _write(weights, config, layout, shards)
        if prefix is not None:
            shards.add(f"{PREFIX_ENCODER}embedding.weight", prefix.encoded().to(stored_dtype(config)))
    except BaseException:
        shards.discard()
        raise
    shards.finish()
    text = json.dumps(replace(config, dtype=dtype).to_dict(layout), indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _write(
    weights: ChatGLMModel | Iterable[tuple[str, Tensor]],
    config: ModelConfig,
    layout: Layout,
    shards: _ShardWriter,
) -> str:
    """Hand every tensor to the shards, checked against the config; returns the dtype of the plain ones."""
    table = NameTable(config, layout)
    expected = {name: tensor.shape for name, tensor in empty_model(config).state_dict().items()}
    dtype = config.dtype
    for name, tensor in _weights_of(weights) if isinstance(weights, ChatGLMModel) else weights:
        if name not in expected or expected[name] != tensor.shape:
            wanted = f"the config makes it {list(expected[name])}" if name in expected else "there is none"
            raise CheckpointError(f"{name} {list(tensor.shape)} cannot be saved: {wanted}")
        del expected[name]
        if name == "layers.0.attention_norm.weight":  # never quantized
            dtype = str(tensor.dtype).removeprefix("torch.")
        for stored_name, part in table.split(name, tensor.detach()):
            shards.add(stored_name, part)
    if expected:
        raise CheckpointError(f"{len(expected)} tensors were not given, {next(iter(expected))} among them")
    return dtype


def _weights_of(model: ChatGLMModel) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) module by module: a packed quantized weight is unpacked only when its turn comes."""
    for name, module in model.named_modules():
        if not list(module.children()):
            yield from module.state_dict(prefix=f"{name}.").items()


class _ShardWriter:
    """Collects tensors into files. They take their final names when their number is known, at the end."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.pending: dict[str, Tensor] = {}
        self.written: list[list[str]] = []
        self.total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        held = sum(t.nbytes for t in self.pending.values())
        if self.pending and held + tensor.nbytes > self.shard_bytes:
            self._write()
        self.pending[name] = tensor
        self.total += tensor.nbytes

    def finish(self) -> None:
        self._write()
        count = len(self.written)
        if count == 1:
            self._partial(0).rename(self.folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for i, names in enumerate(self.written):
            file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
            self._partial(i).rename(self.folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self.total}, "weight_map": dict(sorted(weight_map.items()))}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

    def discard(self) -> None:
        """Remove what was written."""
        for number in range(len(self.written)):
            self._partial(number).unlink(missing_ok=True)

    def _write(self) -> None:
        save_file(self.pending, self._partial(len(self.written)), metadata={"format": "pt"})
        self.written.append(list(self.pending))
        self.pending = {}

    def _partial(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.tmp"
