"""Time and peak memory of loading a checkpoint of the full ChatGLM3-6B shape, with random weights.

    python -m benchmarks.memory write --layout chatglm --out DIR     # or bin, glm
    python -m benchmarks.memory load DIR --dtype bfloat16
    python -m benchmarks.memory load DIR --quantize int4

`write` needs 13 GB of disk and about 2.5 GB of memory; `load` measures the process it runs in.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from chatglm3.checkpoint import NameTable, empty_model, load_model, save_model
from chatglm3.checkpoint.save import SHARD_BYTES
from chatglm3.config import ModelConfig
from chatglm3.estimate import stored_bytes

CHATGLM3_6B = ModelConfig(
    num_layers=28,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=2,
    head_dim=128,
    ffn_hidden_size=13696,
    vocab_size=65024,
    max_seq_len=8192,
)


def random_weights(config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Weights of the config's shapes: normal with deviation 0.02, cut from one block that is drawn once."""
    generator = torch.Generator().manual_seed(0)
    block = (0.02 * torch.randn(1 << 24, generator=generator)).half()
    for name, empty in empty_model(config).state_dict().items():
        if "norm" in name:
            yield name, torch.ones(empty.shape, dtype=empty.dtype)
            continue
        start = int(torch.randint(len(block), (), generator=generator))
        repeats = -(-(start + empty.numel()) // len(block))
        yield name, block.repeat(repeats)[start : start + empty.numel()].view(empty.shape).to(empty.dtype)


def write_bin(config: ModelConfig, folder: Path) -> None:
    """The published form: pickled shards of the ChatGLM layout, with their index."""
    folder.mkdir(parents=True)
    table = NameTable(config, "chatglm")
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}

    def flush() -> None:
        shards.append(list(pending))
        torch.save(pending, folder / f"part-{len(shards)}")
        pending.clear()

    for name, tensor in random_weights(config):
        if sum(t.nbytes for t in pending.values()) + tensor.nbytes > SHARD_BYTES:
            flush()
        pending.update(table.split(name, tensor))
    flush()
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"pytorch_model-{i:05d}-of-{len(shards):05d}.bin"
        (folder / f"part-{i}").rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict()))


def peak_bytes() -> int:
    """The most resident memory this process has had, mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write")
    write.add_argument("--layout", choices=["chatglm", "bin", "glm"], required=True)
    write.add_argument("--out", type=Path, required=True)
    load = commands.add_parser("load")
    load.add_argument("folder", type=Path)
    load.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    load.add_argument("--quantize", choices=["int8", "int4"])
    args = parser.parse_args()

    start, before = time.perf_counter(), peak_bytes()
    if args.command == "write":
        if args.layout == "bin":
            write_bin(CHATGLM3_6B, args.out)
        else:
            save_model(random_weights(CHATGLM3_6B), CHATGLM3_6B, args.out, layout=args.layout)
        print(
            f"{args.out}: written in {time.perf_counter() - start:.1f} s, "
            f"peak memory {peak_bytes() / 1e9:.2f} GB"
        )
        return
    config = load_model(args.folder, dtype=getattr(torch, args.dtype), quantize=args.quantize).config
    seconds, peak = time.perf_counter() - start, peak_bytes()
    print(
        f"{args.folder} as {args.quantize or args.dtype}: {seconds:.1f} s, "
        f"weights {stored_bytes(config) / 1e9:.2f} GB, "
        f"peak memory {peak / 1e9:.2f} GB ({before / 1e9:.2f} GB before loading)"
    )


if __name__ == "__main__":
    main()
