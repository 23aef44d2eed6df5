"""From a model's name to something that runs: folder, configuration, weights, tokenizer, cache.

The defaults are those that are fast where the model runs: CUDA in bfloat16, a Mac's GPU in float16, a CPU in
bfloat16 for models of billions of parameters (half the bytes to read for each token) and in float32 for small
ones, whose cost is in the calls and not in the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from chatglm3 import hub
from chatglm3.adapters import Adapter, Prefix, StoredLora, read_adapter
from chatglm3.attention import KVCache
from chatglm3.checkpoint import load_model, load_prefix
from chatglm3.config import ModelConfig
from chatglm3.engine import Engine
from chatglm3.errors import DeviceError, InvalidParameterError
from chatglm3.estimate import STEP_TOKENS
from chatglm3.kernels import choose
from chatglm3.model import ChatGLMModel
from chatglm3.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_SMALL_MODEL = 500_000_000
"""Parameters below which a CPU is faster in float32."""

_CONTEXTS = 4
"""Whole contexts the cache holds by default: room for a few conversations and for reuse between turns."""

SPECULATE = {"cpu": 8, "mps": 8, "cuda": 0}
"""Most tokens of an answer that are drafted ahead of it; with the last token a kernel's strip takes them.

On CUDA a step of single tokens runs as a recorded graph, and one with drafts does not: there none pays."""


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, with everything that belongs to it."""

    name: str
    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    model: ChatGLMModel
    prefix: Prefix | None

    device: torch.device
    dtype: torch.dtype
    """Of activations and cache, and of weights that are not quantized."""


def load(
    name: str | Path = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> LoadedModel:
    """Find the model, check the machine, read tokenizer and weights.

    name: a folder, "nano" (the embedded model), or a hub's id; see `chatglm3.hub.resolve`.
    device: "cuda", "cuda:1", "mps", "cpu"; by default the best that this machine has.
    dtype: "bfloat16", "float16", "float32"; by default what is fast on that device.
    quantize: "int8" or "int4", to quantize the linear layers while they are read.
    Raises a ChatGLM3Error that names what is missing or cannot be had.
    """
    chosen_device = choose_device(device)
    folder = hub.resolve(str(name), revision=revision, token=token)
    config = ModelConfig.from_folder(folder)
    chosen_dtype = choose_dtype(dtype, chosen_device, config, quantize=quantize)
    tokenizer = Tokenizer(folder)
    model = load_model(folder, device=chosen_device, dtype=chosen_dtype, quantize=quantize, config=config)
    prefix = load_prefix(folder, config, device=chosen_device, dtype=chosen_dtype)
    return LoadedModel(str(name), folder, config, tokenizer, model, prefix, chosen_device, chosen_dtype)


def load_adapters(loaded: LoadedModel, paths: Mapping[str, str | Path]) -> dict[str, Adapter]:
    """The adapters in these folders, by the same names, ready for the model's device.

    Raises CheckpointError for one that is damaged or was made for another model, DeviceError where they do
    not fit into memory.
    """
    adapters: dict[str, Adapter] = {}
    for name, path in paths.items():
        stored = read_adapter(path, loaded.folder, loaded.config)
        needed = stored.num_values * loaded.dtype.itemsize
        if needed > free_memory(loaded.device):
            raise DeviceError(
                f"the adapter {name!r} takes {needed / 1e9:.2f} GB, which {loaded.device} has not left; load "
                "fewer adapters, or hold the model in fewer bits (quantize='int4')"
            )
        if isinstance(stored, StoredLora):
            adapters[name] = stored.on(loaded.model)
        else:
            adapters[name] = stored.to(loaded.device, loaded.dtype)
    return adapters


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The wanted device, or the best one here. Raises DeviceError if this machine does not have it."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"there is no device {str(device)!r}; use cuda, cuda:0, mps or cpu") from None
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError(f"device {str(device)!r}: PyTorch finds no CUDA device here; use device='cpu'")
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise DeviceError(
                f"device {str(device)!r}: this machine has {torch.cuda.device_count()} CUDA device(s)"
            )
    elif chosen.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("device 'mps': PyTorch finds no Apple GPU here; use device='cpu'")
    elif chosen.type != "cpu":
        raise DeviceError(f"device {str(device)!r} is not supported; use cuda, mps or cpu")
    return chosen


def choose_dtype(
    dtype: str | torch.dtype | None,
    device: torch.device,
    config: ModelConfig | None = None,
    *,
    quantize: str | None = None,
) -> torch.dtype:
    """The wanted dtype, or the one that is fast for this model on this device.

    quantize: the scheme it will be brought into, if any; on a CPU the fast int4 kernel takes bfloat16 only.
    """
    if dtype is not None:
        chosen = DTYPES.get(str(dtype).removeprefix("torch."))
        if chosen is None:
            raise InvalidParameterError(f"dtype {str(dtype)!r} is not one of {', '.join(DTYPES)}")
        return chosen
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.float16
    if config is None or config.num_parameters >= _SMALL_MODEL:
        return torch.bfloat16
    quantized = quantize or config.quantization or config.quantization_bit
    return torch.bfloat16 if quantized else torch.float32


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; on a CPU, what the system says it could give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(meminfo.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def make_engine(
    model: ChatGLMModel,
    prefix: Prefix | None = None,
    *,
    valid_vocab: int | None = None,
    cache_bytes: int | None = None,
    kv_dtype: str | None = None,
    speculate: int | None = None,
    max_sequences: int = 64,
    adapters: Mapping[str, Adapter] | None = None,
    default_adapter: str | None = None,
) -> Engine:
    """An engine with a cache that fits this machine.

    cache_bytes: memory for keys and values; by default four whole contexts, or half of what is free if that
        is less.
    kv_dtype: "int8" holds keys and values in 8 bits, about half the memory; by default in the model's dtype.
    speculate: most tokens of an answer that are drafted ahead of it, which changes no answer; 0: none; by
        default as many as pay on the device.
    max_sequences: most answers that run at once; others wait.
    adapters: by the names under which requests choose them; default_adapter answers those that choose none.
    """
    if kv_dtype not in (None, "int8"):
        raise InvalidParameterError(
            f"kv_dtype is {kv_dtype!r}; it can be 'int8', or None for the model's dtype"
        )
    adapters = adapters or {}
    int8_cache = kv_dtype == "int8"
    if cache_bytes is None:
        prefixes = [a for a in (prefix, *adapters.values()) if isinstance(a, Prefix)]
        context = model.config.max_seq_len + max((p.length for p in prefixes), default=0)
        per_token = KVCache.bytes_per_token(model.config, model.dtype, int8=int8_cache)
        wanted = per_token * context * _CONTEXTS
        cache_bytes = min(wanted, free_memory(model.device) // 2)
    return Engine(
        model,
        cache_bytes=cache_bytes,
        int8_cache=int8_cache,
        speculate=SPECULATE[model.device.type] if speculate is None else speculate,
        row_cost=_row_cost(model),
        max_batch_tokens=max(STEP_TOKENS[model.device.type], max_sequences),
        max_sequences=max_sequences,
        prefix=prefix,
        adapters=adapters,
        default_adapter=default_adapter,
        valid_vocab=valid_vocab,
    )


def _row_cost(model: ChatGLMModel) -> float:
    """What one token more adds to a decoding step, as a share of a step with one; measured and rounded up.

    A large model's step waits for its weights, and tokens hardly add to that; a small one's is computing.
    """
    if model.device.type != "cpu":
        return 0.02
    if model.config.num_parameters < _SMALL_MODEL:
        return 0.3
    return 0.1 if choose().native is not None else 0.4
