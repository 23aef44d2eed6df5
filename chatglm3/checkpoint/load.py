"""From a checkpoint folder to a model: one tensor at a time, to its final dtype, device and form."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from chatglm3.checkpoint.names import IGNORED, PREFIX_ENCODER, NameTable
from chatglm3.checkpoint.read import StoredTensor, stored_tensors
from chatglm3.config import Layout, ModelConfig
from chatglm3.errors import CheckpointError, ConfigError
from chatglm3.model import ChatGLMModel
from chatglm3.quant import (
    QuantConfig,
    QuantizedWeight,
    QuantLinear,
    Scheme,
    quantize_embedding,
    quantize_linear,
    quantize_structure,
)

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    quantize: str | QuantConfig | None = None,
    config: ModelConfig | None = None,
) -> ChatGLMModel:
    """The model in `folder`, in either layout, from safetensors or `.bin` files, plain or quantized.

    dtype: of weights and activations; the stored one where None. quantize: a scheme (`"int8"`, `"int4"`, or a
    QuantConfig) into which each weight is brought as it arrives, so the plain model never exists as a whole.
    config: instead of the folder's config.json.

    Memory: the model's own size, and one weight where weights are quantized. Raises ConfigError and
    CheckpointError where config.json or the weights are missing, damaged, or not of this network.
    """
    config = config or ModelConfig.from_folder(folder)
    scheme = QuantConfig(quantize) if isinstance(quantize, str) else quantize
    if scheme is not None and (config.quantization or config.quantization_bit):
        raise CheckpointError(
            f"{folder} is quantized already; load it as it is, or give the original weights"
        )
    checkpoint = Checkpoint(folder, config)
    model = empty_model(config)
    dtype = dtype or stored_dtype(config)
    model.to(dtype)
    for name, leaves in checkpoint.modules.items():
        module = model.get_submodule(name)
        to_scheme = (
            scheme.scheme_for(name) if scheme and isinstance(module, nn.Linear | nn.Embedding) else None
        )
        if to_scheme is not None:
            module = _quantized(module, name, checkpoint, to_scheme, device).to(dtype)
            model.set_submodule(name, module)
        else:
            for leaf in leaves:
                # Parts of a quantized weight are buffers and keep their dtype. They stay in the file until
                # they are packed; of an embedding, only the rows that are looked up are ever read.
                is_parameter = isinstance(getattr(module, leaf), nn.Parameter)
                if is_parameter:
                    tensor = checkpoint.read(f"{name}.{leaf}", device, dtype)
                    setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
                else:
                    setattr(module, leaf, checkpoint.map(f"{name}.{leaf}").to(device))
        if isinstance(module, QuantLinear):
            module.prepare()
            if to_scheme is not None:
                _return_freed_memory()
    model.rotary.to(device)
    _return_freed_memory()
    if scheme is not None:
        model.config = replace(config, quantization=scheme.to_dict())
    return model


def empty_model(config: ModelConfig) -> ChatGLMModel:
    """The network on the meta device, in the stored dtype, with quantized modules where the config has them.

    Its `state_dict` says which tensors a checkpoint must hold, and of which shapes.
    """
    with torch.device("meta"):
        model = ChatGLMModel(config).to(stored_dtype(config))
    if config.quantization_bit:
        quantize_structure(model, QuantConfig.published(config.quantization_bit))
    elif config.quantization:
        quantize_structure(model, QuantConfig.from_dict(config.quantization))
    return model


def stored_dtype(config: ModelConfig) -> torch.dtype:
    """The dtype that config.json names. Raises ConfigError for one that no weights come in."""
    if config.dtype not in _DTYPES:
        raise ConfigError(f"config: torch_dtype is {config.dtype!r}; weights come in {', '.join(_DTYPES)}")
    return _DTYPES[config.dtype]


class Checkpoint:
    """The weights of a folder under our names: checked against the config, read one at a time.

    Iterating gives (our name, tensor) in the stored dtype. Raises CheckpointError where tensors are missing,
    unexpected, or of another shape than the config's.
    """

    def __init__(self, folder: str | Path, config: ModelConfig) -> None:
        self.folder = Path(folder)
        self._expected: dict[str, Tensor] = empty_model(config).state_dict()
        self._stored = stored_tensors(self.folder)
        self.layout = _layout_of(self.folder, self._stored)
        self._table = NameTable(config, self.layout)
        self._check_names(config)
        for name in self._expected:
            self._check_tensor(name)

    @property
    def modules(self) -> dict[str, list[str]]:
        """Our modules that hold weights, in the order of the network, each with its tensors' last names."""
        modules: dict[str, list[str]] = {}
        for name in self._expected:
            module, _, leaf = name.rpartition(".")
            modules.setdefault(module, []).append(leaf)
        return modules

    def read(self, name: str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Tensor:
        """Our tensor `name`, converted on its way; dtype None keeps the stored one."""
        parts = self._table.parts(name)
        shape = self._expected[name].shape
        tensor = torch.empty(shape, dtype=dtype or self._stored[parts[0].name].dtype, device=device)
        for part in parts:
            self._stored[part.name].read_into(tensor[part.rows])
        return self._table.in_our_order(name, tensor)

    def first_rows(self) -> Iterator[tuple[str, Tensor]]:
        """(our name, its first row as it is stored), without reading the rest of any tensor."""
        for name in self._expected:
            yield name, self._stored[self._table.parts(name)[0].name].read_first_row()

    def map(self, name: str) -> Tensor:
        """Our tensor `name` as it is stored, in the file's own memory where it is in one piece there."""
        parts = self._table.parts(name)
        tensor = self._stored[parts[0].name].map() if len(parts) == 1 else self.read(name)
        return tensor if len(parts) > 1 else self._table.in_our_order(name, tensor)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name in self._expected:
            yield name, self.read(name)

    def _check_names(self, config: ModelConfig) -> None:
        known = {part.name for name in self._expected for part in self._table.parts(name)}
        stored = set(self._stored) - IGNORED
        prefix = {name for name in stored if name.startswith(PREFIX_ENCODER)}
        if prefix == stored:
            raise CheckpointError(
                f"{self.folder} holds only a P-Tuning prefix; load its base model, and this folder as the "
                "prefix"
            )
        if config.prefix_length:
            stored -= prefix
        for problem, names in (("lacks", known - stored), ("holds unknown", stored - known)):
            if names:
                raise CheckpointError(
                    f"{self.folder} {problem} {_some(names)}; do its config.json and its weights belong "
                    "together, and is the download complete?"
                )

    def _check_tensor(self, name: str) -> None:
        expected = self._expected[name]
        for part in self._table.parts(name):
            stored = self._stored[part.name]
            shape = tuple(expected[part.rows].shape)
            if stored.shape != shape:
                raise CheckpointError(
                    f"{stored.path}: {stored.name} is {list(stored.shape)}, but config.json makes it "
                    f"{list(shape)}; do they belong together?"
                )
            same_kind = stored.dtype.is_floating_point and expected.dtype.is_floating_point
            if stored.dtype != expected.dtype and not same_kind:
                raise CheckpointError(
                    f"{stored.path}: {stored.name} is {stored.dtype}, but config.json makes it "
                    f"{expected.dtype}; is config.json that of a plain checkpoint and the weights quantized, "
                    "or the reverse?"
                )


def _quantized(
    module: nn.Module, name: str, checkpoint: Checkpoint, scheme: Scheme, device: torch.device | str
) -> QuantizedWeight:
    """The module that takes the place of `module`, made from the weight in its stored precision."""
    weight = checkpoint.read(f"{name}.weight", device)
    if isinstance(module, nn.Embedding):
        return quantize_embedding(weight, scheme)
    bias = None if module.bias is None else checkpoint.read(f"{name}.bias", device)
    return quantize_linear(weight, bias, scheme)


def _return_freed_memory() -> None:
    """Give what was freed between live tensors back to the system: glibc keeps it, 1 GB of 6B's int4."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _layout_of(folder: Path, stored: dict[str, StoredTensor]) -> Layout:
    if any(name.startswith("transformer.") for name in stored):
        return "chatglm"
    if any(name.startswith("model.layers.") for name in stored):
        return "glm"
    raise CheckpointError(
        f"{folder} holds {_some(set(stored))}: neither the ChatGLM layout (transformer.*) nor the Glm layout "
        "(model.*); was another model's folder given?"
    )


def _some(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
