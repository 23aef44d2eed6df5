"""A folder of int4 weights to start all engines from: `python -m benchmarks.peers.our_file SHAPE FOLDER`.

The weights are random, and chosen so that each engine's own format holds exactly the same numbers: all codes
lie in -8..7 (the embedding and the output layer too, which int8 would allow more), and a scale is 64 to 127
times 2^-14, with either sign, and is shared by 128 columns. bfloat16, float16 and the 8-bit scales of
llama.cpp's Q6_K all hold such scales, and groups of 128 are what OpenVINO is usually given.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from chatglm3.benchmark import SHAPES as NAMED
from chatglm3.checkpoint import empty_model, save_model
from chatglm3.config import ModelConfig
from chatglm3.quant import QuantConfig

SHAPES = {"small": ModelConfig(8, 1024, 16, 2, 64, 3584, 16384, 8192), **NAMED}
"""By the names that --shape takes."""

_GROUPS = 128 // 32
"""Our groups of 32 columns that share a scale."""


def random_weights(config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the quantized network `config`, one at a time."""
    generator = torch.Generator().manual_seed(0)

    def integers(low: int, high: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return torch.randint(low, high, shape, dtype=dtype, generator=generator)

    for name, empty in empty_model(config).state_dict().items():
        shape, dtype = empty.shape, empty.dtype
        if name.endswith("scales"):
            shared = torch.Size((shape[0], -(-shape[1] // _GROUPS)))
            signs = 2 * integers(0, 2, shared, torch.int32) - 1
            scales = signs * integers(64, 128, shared, torch.int32) / 2**14
            yield name, scales.repeat_interleave(_GROUPS, dim=1)[:, : shape[1]].to(dtype)
        elif dtype == torch.uint8:  # two codes, each with 8 added
            yield name, integers(0, 256, shape, dtype)
        elif dtype == torch.int8:
            yield name, integers(-8, 8, shape, dtype)
        elif name.endswith("bias"):
            yield name, (integers(-64, 64, shape, torch.int32) / 256).to(dtype)
        else:
            yield name, torch.ones(shape, dtype=dtype)


def write(config: ModelConfig, folder: Path) -> None:
    """The network of this shape in our int4."""
    config = replace(config, quantization=QuantConfig("int4").to_dict(), dtype="bfloat16")
    save_model(random_weights(config), config, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Random int4 weights of a named shape.")
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    write(SHAPES[args.shape], args.folder)


if __name__ == "__main__":
    main()
