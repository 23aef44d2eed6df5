"""Folders as peft writes them: adapter_config.json, and adapter_model.safetensors or .bin beside it.

The base that an adapter was trained over can be in either layout: names such as `q_proj` are those of
transformers' `GlmForCausalLM`, names such as `query_key_value` those of the published code. The `.pt` files
of the published LoRA scripts hold the same tensors, and need an adapter_config.json beside them as well: they
do not tell the scaling.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from chatglm3.adapters.stored import StoredLora, Update
from chatglm3.checkpoint import NameTable, StoredTensor, empty_model, tensors_in
from chatglm3.checkpoint.names import IGNORED
from chatglm3.config import Layout, ModelConfig
from chatglm3.errors import CheckpointError
from chatglm3.prefix import Prefix

CONFIG_FILE = "adapter_config.json"

_WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")

_UPDATE = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.(?!weight$|bias$)\w+)?(\.weight)?"
)
"""A tensor of an update; files of the published scripts have the adapter's name, `default`, in it."""

_REPLACED = re.compile(r"(?P<module>.+?)(\.modules_to_save(\.\w+)?)?(\.base_layer)?\.(?P<leaf>weight|bias)")
"""A tensor of the base model that was trained as a whole."""

_READ = {
    "r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora", "use_dora", "fan_in_fan_out",
    "init_lora_weights", "bias", "modules_to_save", "base_model_name_or_path", "inference_mode", "peft_type",
}  # fmt: skip
_ONLY_TRAINING = {
    "auto_mapping", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
}  # fmt: skip
"""Which modules have updates is told by the tensors."""

_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Of `init_lora_weights`; others change the base model's weights as well."""


def read_peft(path: Path, config: ModelConfig) -> StoredLora | Prefix:
    """The adapter in a folder, or in a file with its configuration beside it, for a network of this shape.

    Raises CheckpointError for what is missing, damaged, of another network, or no LoRA or prefix tuning.
    """
    folder = path.parent if path.is_file() else path
    settings = _settings(folder / CONFIG_FILE)
    path = path if path.is_file() else _weight_file(folder)
    tensors = {tensor.name: tensor for tensor in tensors_in(path)}
    kind = settings.get("peft_type")
    if kind == "PREFIX_TUNING":
        return _prefix(path, tensors, config)
    if kind != "LORA":
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: peft_type is {kind!r}; LORA and PREFIX_TUNING are read"
        )
    _check_lora(folder / CONFIG_FILE, settings)
    return _lora(path, tensors, settings, config)


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist, and without it the scaling of a LoRA is not known; write it, as in "
            '{"peft_type": "LORA", "r": 8, "lora_alpha": 32} for the published scripts\' own defaults'
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} holds no JSON object; it is not as peft writes it")
    return settings


def _weight_file(folder: Path) -> Path:
    for name in _WEIGHT_FILES:
        if (folder / name).exists():
            return folder / name
    found = sorted(folder.glob("*.pt"))
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        f"{folder} holds neither {' nor '.join(_WEIGHT_FILES)}"
        + (f", but {len(found)} .pt files; give one of them" if found else "; is it complete?")
    )


def _prefix(path: Path, tensors: Mapping[str, StoredTensor], config: ModelConfig) -> Prefix:
    if set(tensors) != {"prompt_embeddings"}:
        raise CheckpointError(f"{path} holds {', '.join(tensors)}; a prefix is one tensor, prompt_embeddings")
    try:
        return Prefix.from_peft(tensors["prompt_embeddings"].read(), config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _check_lora(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise CheckpointError for variants of LoRA that compute something else."""
    init = settings.get("init_lora_weights", True)
    if init not in _PLAIN_INITS:
        raise CheckpointError(
            f"{path}: init_lora_weights is {init!r}, which changed the base model too; save the adapter with "
            "peft's path_initial_model_for_weight_conversion"
        )
    if settings.get("fan_in_fan_out"):
        raise CheckpointError(f"{path}: fan_in_fan_out is set, and this network's weights are not transposed")
    others = [key for key, value in settings.items() if value and key not in _READ | _ONLY_TRAINING]
    if others:
        raise CheckpointError(
            f"{path}: {others[0]} is {settings[others[0]]!r}, a variant of LoRA that is not supported; merge "
            "the adapter with peft itself, and load the result"
        )


def _lora(
    path: Path, tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any], config: ModelConfig
) -> StoredLora:
    places, names = _places(config)
    parts: dict[str, dict[str, StoredTensor]] = {}
    replaced: dict[str, list[tuple[slice, Tensor]]] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("base_model.model.")
        if plain in IGNORED:
            continue
        match = _UPDATE.fullmatch(plain) or _REPLACED.fullmatch(plain)
        place = places.get(match["module"]) if match else None
        leaf = match["leaf"] if match and match.re is _REPLACED else "weight"
        if not match or not place or f"{place.module}.{leaf}" not in names:
            raise CheckpointError(
                f"{path} holds {name}, which is no part of a LoRA for this network; was it trained for "
                "another model, or in a way that is not supported?"
            )
        if match.re is _UPDATE:
            found = parts.setdefault(match["module"], {})
            if match["part"] in found:
                raise CheckpointError(
                    f"{path} holds {name} and {found[match['part']].name}; keep one adapter"
                )
            found[match["part"]] = tensor
        else:
            ours = f"{place.module}.{leaf}"
            values = _read(path, tensor, place.shape if leaf == "weight" else place.shape[:1])
            replaced.setdefault(ours, []).append((place.rows, place.table.in_our_order(ours, values)))
    updates: dict[str, list[Update]] = {}
    for module, found in parts.items():
        update = _update(path, module, found, settings, places[module])
        updates.setdefault(places[module].module, []).append(update)
    if not updates and not replaced:
        raise CheckpointError(f"{path} holds no tensors; it was not saved as a whole")
    return StoredLora(path, updates, replaced)


class _Place(NamedTuple):
    """What a module of the base model is to us."""

    module: str
    rows: slice
    shape: tuple[int, ...]
    table: NameTable


def _places(config: ModelConfig) -> tuple[dict[str, _Place], set[str]]:
    """The places by the names of modules in either layout, and the names of all our tensors."""
    plain = replace(config, quantization=None, quantization_bit=None)
    layouts: tuple[Layout, ...] = ("chatglm", "glm")
    places, tensors = {}, empty_model(plain).state_dict()
    for name, tensor in tensors.items():
        if name.endswith(".weight"):
            for table in (NameTable(plain, layout) for layout in layouts):
                for stored, rows in table.parts(name):
                    shape = tuple(tensor[rows].shape)
                    places[stored.removesuffix(".weight")] = _Place(
                        name.removesuffix(".weight"), rows, shape, table
                    )
    return places, set(tensors)


def _update(
    path: Path, module: str, found: Mapping[str, StoredTensor], settings: Mapping[str, Any], place: _Place
) -> Update:
    """The update of one module of the base model, scaled."""
    try:
        alpha = float(_by_pattern(settings.get("alpha_pattern"), module, settings["lora_alpha"]))
        rank = int(_by_pattern(settings.get("rank_pattern"), module, settings["r"]))
        scaling = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    except (KeyError, ValueError, TypeError, AttributeError, ZeroDivisionError, re.error) as error:
        raise CheckpointError(
            f"{path.with_name(CONFIG_FILE)}: rank and alpha of {module} cannot be read ({error}); r and "
            "lora_alpha are numbers, and their patterns map expressions to numbers"
        ) from None
    rows, columns = place.shape if len(place.shape) == 2 else (place.shape[0], 1)
    shapes: dict[str, tuple[int, ...]]
    is_embedding = place.module == "embedding"
    if is_embedding:  # peft trains the transpose of the matrix
        shapes = {"lora_embedding_A": (rank, rows), "lora_embedding_B": (columns, rank)}
    else:
        shapes = {"lora_A": (rank, columns), "lora_B": (rows, rank)}
        if settings.get("use_dora"):
            shapes["lora_magnitude_vector"] = (rows,)
    if set(found) != set(shapes):
        raise CheckpointError(
            f"{path} holds {', '.join(found)} for {module}, where {', '.join(shapes)} belong; the file and "
            f"its {CONFIG_FILE} do not fit together"
        )
    a, b, *magnitude = (_read(path, found[name], shape) for name, shape in shapes.items())
    if is_embedding:
        a, b = b.t(), a.t()
    b = place.table.in_our_order(f"{place.module}.weight", b * scaling)
    magnitude = [place.table.in_our_order(f"{place.module}.weight", m) for m in magnitude]
    return Update(place.rows, a, b, magnitude[0] if magnitude else None)


def _read(path: Path, tensor: StoredTensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor in float32, whose shape must be this one; a vector may have an axis too many."""
    if math.prod(tensor.shape) != math.prod(shape) or tensor.shape[: len(shape)] != shape:
        raise CheckpointError(
            f"{path}: {tensor.name} is {list(tensor.shape)}, but {CONFIG_FILE} and this network make it "
            f"{list(shape)}; was the adapter trained for another model?"
        )
    values = tensor.read().float().view(shape)
    if not values.isfinite().all():
        raise CheckpointError(f"{path}: {tensor.name} has values that are no numbers; the training failed")
    return values


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """As peft reads rank_pattern and alpha_pattern: the first expression that the name's end matches."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
