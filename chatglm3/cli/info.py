"""`chatglm3 info`: a model's shape, and the memory that it needs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from chatglm3.cli.arguments import size

if TYPE_CHECKING:
    from pathlib import Path

    from chatglm3.config import ModelConfig

EPILOG = """\
The memory is that of everything while the model runs: weights as the device holds them, keys and values
for that many tokens in all conversations together, and what one step of computing takes. int8 and int4
are what --quantize makes of the weights while loading. Of a model on a hub only the configuration is
downloaded.

examples:
  chatglm3 info
  chatglm3 info chatglm3-6b-32k
  chatglm3 info ./my-model"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", nargs="?", default="nano", help="a folder, or a hub's id")
    parser.add_argument("--revision", help="branch, tag or commit of a model on a hub")
    parser.add_argument("--kv-dtype", choices=["int8"], help="count keys and values in 8 bits")


def run(args: argparse.Namespace) -> int:
    """Print what is known about the model and this machine."""
    from chatglm3.config import ModelConfig
    from chatglm3.hub import resolve

    folder = resolve(args.model, revision=args.revision, weights=False)
    config = ModelConfig.from_folder(folder)
    described = [[name, value] for name, value in (_shape(config) | _files(config, folder)).items()]
    machine = [[name, value] for name, value in _machine(config).items()]
    print(
        aligned(described),
        aligned(_memory(config, int8_cache=args.kv_dtype == "int8"), right=2),
        aligned(machine),
        sep="\n\n",
    )
    return 0


def aligned(rows: list[list[str]], right: int | None = None) -> str:
    """Columns two spaces apart; those from `right` on are flush right, the others flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if right is None or number < right else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _shape(config: ModelConfig) -> dict[str, str]:
    from chatglm3.estimate import parameter_count

    count = parameter_count(config)
    rows = {
        "parameters": f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.2f} million",
        "layers": f"{config.num_layers}, {config.hidden_size} wide, feed-forward {config.ffn_hidden_size}",
        "heads": f"{config.num_heads} of {config.head_dim}, {config.num_kv_heads} for keys and values",
        "vocabulary": f"{config.vocab_size}",
        "context": f"{config.max_seq_len} tokens",
    }
    if config.prefix_length:
        rows["prefix"] = f"{config.prefix_length} positions (P-Tuning v2)"
    return rows


def _files(config: ModelConfig, folder: Path) -> dict[str, str]:
    from chatglm3.checkpoint import has_weights
    from chatglm3.estimate import disk_bytes, stored_bytes

    form = config.dtype
    if config.quantization_bit:
        form = f"int{config.quantization_bit}, one scale a row"
    elif config.quantization:
        form = f"{config.quantization['scheme']}, one scale for {config.quantization['group_size']} weights"
    if not has_weights(folder):
        return {"to download": f"{size(stored_bytes(config))}, {form}"}
    return {"on disk": f"{size(disk_bytes(folder))}, {form}", "folder": str(folder)}


def _memory(config: ModelConfig, *, int8_cache: bool) -> list[list[str]]:
    """A table: device, format, weights, and everything together by tokens of context."""
    from chatglm3.estimate import memory_need

    formats = {"float32": "float32", "16 bit": "bfloat16", "int8": "int8", "int4": "int4"}
    if config.quantization_bit:
        formats = {f"int{config.quantization_bit}": f"int{config.quantization_bit}"}
    elif config.quantization:
        formats = {config.quantization["scheme"]: config.quantization["scheme"]}
    longest = config.max_seq_len
    contexts = [longest // 16, longest // 4, longest]
    rows = [["memory on", "as", "weights", *(f"all, {context} tokens" for context in contexts)]]
    for device in ("cpu", "cuda", "mps"):
        for name, format in formats.items():
            need = memory_need(config, format, device, context=longest, int8_cache=int8_cache)
            # Counting builds the network on the meta device: once is enough, since the cache grows evenly.
            per_token = need.cache / (longest + config.prefix_length)
            totals = [need.total - per_token * (longest - context) for context in contexts]
            rows.append([device, name, size(need.weights), *map(size, totals)])
    return rows


def _machine(config: ModelConfig) -> dict[str, str]:
    """What is here, and what the model would run on."""
    import torch

    from chatglm3.kernels import choose
    from chatglm3.loading import choose_device, choose_dtype, free_memory

    devices = {torch.device("cpu"): f"cpu, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        devices[torch.device("cuda", index)] = f"cuda:{index}, {torch.cuda.get_device_name(index)}"
    if torch.backends.mps.is_available():
        devices[torch.device("mps")] = "mps"
    chosen = choose_device()
    dtype = str(choose_dtype(None, chosen, config)).removeprefix("torch.")
    found = [f"{name}, {size(free_memory(device))} free" for device, name in devices.items()]
    kernels = choose()
    native = kernels.native.name if kernels.native else f"none: {kernels.reason}; PyTorch computes instead"
    return {
        "this machine": "; ".join(found),
        "default": f"{chosen}, {dtype}",
        "PyTorch": torch.__version__,
        "CPU kernels": native,
    }
