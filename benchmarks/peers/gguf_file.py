"""The same network as a GGUF file: `python -m benchmarks.peers.gguf_file FOLDER FILE`.

FOLDER is what `our_file` wrote. The types are those that llama.cpp's own `llama-quantize` gives a Q4_0 model:
the layers and the embedding in Q4_0, the output layer in Q6_K, norms and biases in float32. Every weight is
exactly that of the folder. There is no vocabulary in the file, for only ids are computed.

Needs the package `gguf`, not PyTorch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from benchmarks.peers import stored
from benchmarks.peers.stored import Stored

Blocks = Callable[[NDArray[np.int8], NDArray[np.float32]], NDArray[np.uint8]]
"""Codes [rows, columns] and scales [rows, columns // 32] to the bytes of the rows."""

_ROWS = 4096
"""Converted at a time."""


def q4_0(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blocks of 32: a float16 scale, then 16 bytes with element j low and element j + 16 high, 8 added."""
    rows, groups = scales.shape
    unsigned = (codes + np.int8(8)).view(np.uint8).reshape(rows, groups, 2, 16)
    blocks = np.empty((rows, groups, 18), np.uint8)
    blocks[..., :2] = scales.astype("<f2")[..., None].view(np.uint8)
    blocks[..., 2:] = unsigned[:, :, 0] | unsigned[:, :, 1] << 4
    return blocks.reshape(rows, -1)


def q6_k(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blocks of 256: low nibbles, upper pairs of bits, an int8 scale for 16 elements, one float16 for all."""
    rows, groups = scales.shape
    blocks = groups // 8
    small = np.rint(scales * 2**14).astype(np.int8).repeat(2, axis=1).reshape(rows, blocks, 16)
    q = (codes + np.int8(32)).view(np.uint8).reshape(rows, blocks, 2, 4, 32)  # halves of 4 x 32 elements
    low, high = q & 15, q >> 4
    nibbles = low[..., :2, :] | low[..., 2:, :] << 4
    pairs = high[..., 0, :] | high[..., 1, :] << 2 | high[..., 2, :] << 4 | high[..., 3, :] << 6
    scale = np.full((rows, blocks, 1), 2**-14, "<f2").view(np.uint8)
    parts = (nibbles.reshape(rows, blocks, 128), pairs.reshape(rows, blocks, 64), small.view(np.uint8), scale)
    return np.concatenate(parts, axis=2).reshape(rows, -1)


def tensors(source: Stored) -> Iterator[tuple[str, str, Blocks | None]]:
    """(name in the GGUF file, name in the folder, how its weight is held; None: in float32)."""
    yield "token_embd.weight", stored.EMBEDDING, q4_0
    for i in range(source.config.num_layers):
        ours, theirs = stored.LAYER.format(i), f"blk.{i}."
        yield f"{theirs}attn_norm.weight", f"{ours}{stored.ATTENTION_NORM}.weight", None
        yield f"{theirs}attn_qkv.weight", f"{ours}{stored.QKV}", q4_0
        yield f"{theirs}attn_qkv.bias", f"{ours}{stored.QKV}.bias", None
        yield f"{theirs}attn_output.weight", f"{ours}{stored.ATTENTION_OUT}", q4_0
        yield f"{theirs}ffn_norm.weight", f"{ours}{stored.FFN_NORM}.weight", None
        yield f"{theirs}ffn_up.weight", f"{ours}{stored.GATE_UP}", q4_0
        yield f"{theirs}ffn_down.weight", f"{ours}{stored.DOWN}", q4_0
    yield "output_norm.weight", f"{stored.FINAL_NORM}.weight", None
    yield "output.weight", stored.OUTPUT, q6_k


def write(folder: Path, file: Path) -> None:
    """Tensor after tensor, so that one is held at a time."""
    source = Stored(folder)
    writer = GGUFWriter(file, "chatglm")
    _describe(writer, source)
    kinds: dict[Blocks | None, GGMLQuantizationType] = {
        None: GGMLQuantizationType.F32,
        q4_0: GGMLQuantizationType.Q4_0,
        q6_k: GGMLQuantizationType.Q6_K,
    }
    for name, own, blocks in tensors(source):
        shape = source.floats(own).shape if blocks is None else source.shape(own)
        elements, size = GGML_QUANT_SIZES[kinds[blocks]]
        count = int(np.prod(shape)) // elements * size
        writer.add_tensor_info(name, shape, np.dtype(np.float32), count, raw_dtype=kinds[blocks])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, own, blocks in tensors(source):
        if blocks is None:
            writer.write_tensor_data(source.floats(own))
            continue
        scales, parts = source.scales(own), []
        for start in range(0, len(scales), _ROWS):
            rows = slice(start, start + _ROWS)
            parts.append(blocks(source.codes(own, rows), scales[rows]))
        writer.write_tensor_data(np.concatenate(parts))
    writer.close()


def _describe(writer: GGUFWriter, source: Stored) -> None:
    config = source.config
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(2)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.ffn_hidden_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")


def main() -> None:
    parser = argparse.ArgumentParser(description="The folder of `our_file` as a GGUF file.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    write(args.folder, args.file)


if __name__ == "__main__":
    main()
