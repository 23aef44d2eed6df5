"""Memory and time of long prompts: `python -m benchmarks.long_context --lengths 1024,8192,32768`.

Each length runs in a process of its own with random weights of the shape; the peak is what the process held,
and beside it stands what `chatglm3 info` would have said. Prompts are computed in chunks of 512 tokens, so
all that grows with the length is the cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import replace

import torch

from chatglm3.attention import KVCache
from chatglm3.benchmark import SHAPES, peak_bytes, random_model
from chatglm3.engine import GREEDY
from chatglm3.estimate import memory_need
from chatglm3.loading import make_engine


def one(shape: str, quantize: str | None, kv_dtype: str | None, length: int) -> None:
    """Measure one length in this process and print its row."""
    config = replace(SHAPES[shape], max_seq_len=length + 16)
    dtype = torch.bfloat16 if quantize or shape == "6b" else torch.float32
    int8_cache = kv_dtype == "int8"
    model = random_model(config, dtype=dtype, quantize=quantize)
    cache_bytes = KVCache.bytes_per_token(config, dtype, int8=int8_cache) * (length + 16)
    engine = make_engine(model, cache_bytes=cache_bytes, kv_dtype=kv_dtype)
    prompt = [(7 * i + i // 1000) % config.vocab_size for i in range(length)]
    start = time.perf_counter()
    stream = engine.stream(prompt, GREEDY.replace(max_tokens=5))
    next(stream)
    first = time.perf_counter() - start
    rest = sum(1 for _ in stream)
    step = (time.perf_counter() - start - first) / rest
    format = quantize or ("bfloat16" if dtype == torch.bfloat16 else "float32")
    need = memory_need(config, format, "cpu", length + 16, int8_cache=int8_cache)
    peak = peak_bytes(model.device)
    held = kv_dtype or str(dtype).removeprefix("torch.")
    print(
        f"| {length} | {held} | {first:.1f} | {1e3 * first / length:.2f} "
        f"| {1e3 * step:.1f} | {engine.cache_bytes / 1e6:.0f} | {peak / 1e6:.0f} | {need.total / 1e6:.0f} "
        f"| {need.total / peak - 1:+.0%} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of long prompts.")
    parser.add_argument("--shape", choices=list(SHAPES), default="nano")
    parser.add_argument("--quantize", choices=["int8", "int4"])
    parser.add_argument("--lengths", default="1024,8192,32768")
    parser.add_argument("--one", nargs=2, metavar=("LENGTH", "KV"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.shape, args.quantize, None if args.one[1] == "same" else args.one[1], int(args.one[0]))
        return
    print("| tokens | cache | first, s | ms a prompt token | ms a decoded one | MB | peak MB | said | off |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for length in args.lengths.split(","):
        for kv in ("same", "int8"):
            command = [sys.executable, "-m", "benchmarks.long_context", *sys.argv[1:], "--one", length, kv]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
