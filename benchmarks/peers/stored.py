"""The folder that `our_file` wrote, read with numpy alone: a peer's own environment need not have PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatglm3.config import ModelConfig

LAYER = "transformer.encoder.layers.{}."
EMBEDDING, OUTPUT = "transformer.embedding.word_embeddings", "transformer.output_layer"
FINAL_NORM = "transformer.encoder.final_layernorm"
QKV, ATTENTION_OUT = "self_attention.query_key_value", "self_attention.dense"
GATE_UP, DOWN = "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"
ATTENTION_NORM, FFN_NORM = "input_layernorm", "post_attention_layernorm"
"""Names of modules in the ChatGLM layout."""

_DTYPES = {"U8": np.uint8, "I8": np.int8, "BF16": np.uint16}


class Stored:
    """Tensors by the names of the ChatGLM layout, mapped from the files."""

    def __init__(self, folder: Path) -> None:
        self.config = ModelConfig.from_folder(folder)
        self._tensors: dict[str, NDArray[Any]] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(size))
            content = np.memmap(file, np.uint8, "r", offset=8 + size)
            for name, entry in header.items():
                if name != "__metadata__":
                    start, stop = entry["data_offsets"]
                    tensor = content[start:stop].view(_DTYPES[entry["dtype"]])
                    self._tensors[name] = tensor.reshape(entry["shape"])

    def floats(self, name: str) -> NDArray[np.float32]:
        """A tensor of bfloat16, exactly."""
        return (self._tensors[name].astype(np.uint32) << 16).view(np.float32)

    def shape(self, module: str) -> tuple[int, int]:
        """Rows and columns of a quantized weight."""
        rows, width = self._tensors[f"{module}.qweight"].shape
        return rows, width * (2 if self._tensors[f"{module}.qweight"].dtype == np.uint8 else 1)

    def scales(self, module: str) -> NDArray[np.float32]:
        """[rows, groups of 32 columns]."""
        return self.floats(f"{module}.scales")

    def packed(self, module: str) -> NDArray[np.uint8]:
        """Of a weight in int4, as it is stored: [rows, columns / 2], codes with 8 added, even columns low."""
        return self._tensors[f"{module}.qweight"]

    def codes(self, module: str, rows: slice = slice(None)) -> NDArray[np.int8]:
        """The integers that the scales multiply: [rows, columns], -8..7."""
        stored = self._tensors[f"{module}.qweight"][rows]
        if stored.dtype == np.int8:
            return np.asarray(stored)
        pairs = np.stack((stored & 15, stored >> 4), axis=2)
        return pairs.reshape(len(stored), -1).view(np.int8) - np.int8(8)
