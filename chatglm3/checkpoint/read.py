"""Weights in a checkpoint folder: which files, which tensors, and reading one of them at a time.

A tensor is read through a memory map of its own, which is closed after it. Mapped pages count as resident
memory, so a shard that stayed mapped would add its whole size to the peak.
"""

from __future__ import annotations

import json
import math
import mmap
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chatglm3.errors import CheckpointError

_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_ORDER = (_INDEX_FILES[0], _SINGLE_FILES[0], _INDEX_FILES[1], _SINGLE_FILES[1])
"""The first of these that a folder holds is read: safetensors before pickle."""

_CHUNK_BYTES = 64 << 20
"""Read at a time: what one tensor's copy adds to the peak."""

_AGAIN = "download it again (`chatglm3 download`, or `git lfs pull` in a git clone)"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, not read yet."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int | None = None
    """Of its first byte in the file; None in a `.bin` file."""

    def map(self) -> Tensor:
        """The tensor in the file itself: what is not looked at is not read; what is written stays here."""
        count = math.prod(self.shape)
        if self.offset is None or count == 0:
            return self._map()
        with _errors_name(self.path), self.path.open("rb") as file:
            start = self.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            length = self.offset - start + count * self.dtype.itemsize
            pages = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=start)
            flat = torch.frombuffer(pages, dtype=self.dtype, count=count, offset=self.offset - start)
        return flat.view(self.shape)

    def read_into(self, target: Tensor) -> None:
        """Copy to `target`, which has the same shape and any dtype and device."""
        if not self.shape:
            target.copy_(self.map())
            return
        step = max(1, _CHUNK_BYTES // max(1, target[:1].numel() * self.dtype.itemsize))
        for start in range(0, self.shape[0], step):
            rows = slice(start, start + step)
            target[rows].copy_(self.map()[rows])

    def read(self) -> Tensor:
        """The tensor as it is stored, in memory of its own."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.read_into(tensor)
        return tensor

    def read_first_row(self) -> Tensor:
        """The first row as it is stored (a scalar whole), in memory of its own."""
        mapped = self._map()
        return (mapped[:1] if self.shape else mapped).clone()

    def _map(self) -> Tensor:
        with _errors_name(self.path):
            if self.path.suffix == ".safetensors":
                with safe_open(self.path, "pt") as file:
                    return file.get_tensor(self.name)
            return _load_pickle(self.path)[self.name]


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint in `folder`, by name. Each file is opened: a damaged one is found here.

    Raises CheckpointError where files are missing, damaged, or hold anything but tensors.
    """
    found: dict[str, StoredTensor] = {}
    for path in _weight_files(folder):
        for tensor in tensors_in(path):
            if tensor.name in found:
                raise CheckpointError(
                    f"{tensor.name} is in {found[tensor.name].path} and in {path}; keep one"
                )
            found[tensor.name] = tensor
    return found


def has_weights(folder: Path) -> bool:
    """Whether `folder` holds weights under one of the names that `stored_tensors` reads."""
    return any((folder / name).exists() for name in _ORDER)


def _weight_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; give the folder that holds config.json and the weights"
        )
    for name in _ORDER:
        path = folder / name
        if not path.exists():
            continue
        return _indexed_files(path) if name in _INDEX_FILES else [path]
    shards = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
    if shards:
        raise CheckpointError(
            f"{folder} holds {shards[0]} but no index; download {' or '.join(_INDEX_FILES)} into it as well"
        )
    raise CheckpointError(f"{folder} holds no weights: none of {', '.join(_ORDER)} is there")


def _indexed_files(index: Path) -> list[Path]:
    _check_start(index)
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
        valid = all(isinstance(name, str) and Path(name).name == name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError):
        valid = False
    if not valid or not names:
        raise CheckpointError(f"{index} is not an index of weight files; {_AGAIN}")
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {', '.join(missing)}, which {index.name} names; "
            "download the missing files into it"
        )
    return [index.parent / name for name in names]


def tensors_in(path: Path) -> Iterator[StoredTensor]:
    """Every tensor of one file: safetensors, or what `torch.save` wrote. Errors as in `stored_tensors`."""
    _check_start(path)
    with _errors_name(path):
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, mapped, not read
            offsets = _offsets(path)
        else:
            tensors, offsets = _load_pickle(path), {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{path} holds {type(tensor).__name__} {name!r} where a tensor belongs; {_AGAIN}"
            )
        yield StoredTensor(path, name, tuple(tensor.shape), tensor.dtype, offsets.get(name))


def _offsets(path: Path) -> dict[str, int]:
    """Where each tensor of a safetensors file begins. The file has been opened by its own library before."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {
        name: 8 + length + entry["data_offsets"][0]
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _load_pickle(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{path} holds a {type(loaded).__name__}, not a dictionary of tensors; {_AGAIN}"
        )
    return loaded


def _check_start(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a git-lfs pointer, not the file itself; run `git lfs pull` in its folder"
        )
    if not start:
        raise CheckpointError(f"{path} is empty; {_AGAIN}")
    if path.suffix in (".bin", ".pt") and not start.startswith(b"PK"):
        raise CheckpointError(
            f"{path} was not loaded: it is no zip file, as PyTorch writes them since version 1.6. It is "
            "damaged, or a plain pickle, which could hold code that runs when loaded. Take the checkpoint's "
            "safetensors files, or save it again with a current PyTorch"
        )


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Turn what the readers raise on a bad file into a CheckpointError that names it."""
    try:
        yield
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} was not loaded: it is a pickle with code or objects besides tensors, which could run "
            "anything here, or it is damaged. Take its safetensors files, or another copy from a "
            "source you trust"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); {_AGAIN}") from None
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read ({reason}); {_AGAIN}") from None
