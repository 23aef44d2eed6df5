"""The native CPU kernels against the machine's own limits: `python -m benchmarks.cpu_kernels [FOLDER]`.

Without a folder: products of one weight of the 6B shape, by scheme and number of tokens. With the folder of a
model quantized to int4 or int8: whole steps of it, decoding, several streams, and prompts.

The limits are measured in the same run: bytes a second read from memory, and int8 operations a second on
registers. On a busy machine `--cpu-time` counts the seconds of one thread that was really running.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

from chatglm3.attention import AttentionBatch, KVCache
from chatglm3.checkpoint import load_model
from chatglm3.fused import fuse
from chatglm3.kernels import Native, choose
from chatglm3.kernels.matrix import PackedMatrix
from chatglm3.model import ChatGLMModel
from chatglm3.quant import QuantLinear
from chatglm3.quant.groupwise import Groupwise

Clock = Callable[[], float]

STEPS = {  # name: (queries of each sequence, context of each, repetitions)
    "decode, context 128": ([1], [128], 9),
    "decode, context 1024": ([1], [1024], 9),
    "decode, context 4096": ([1], [4096], 7),
    "decode, context 8192": ([1], [8192], 7),
    "4 streams": ([1] * 4, [128] * 4, 7),
    "8 streams": ([1] * 8, [128] * 8, 7),
    "16 streams": ([1] * 16, [128] * 16, 7),
    "prompt of 512": ([512], [512], 3),
    "its 16th part of 512": ([512], [8192], 3),
}


def median(action: Callable[[], object], clock: Clock, runs: int) -> float:
    """Seconds of one run."""
    seconds = []
    for _ in range(runs):
        start = clock()
        action()
        seconds.append(clock() - start)
    return statistics.median(seconds)


def limits(native: Native, clock: Clock) -> tuple[float, float]:
    """Bytes a second from memory, and int8 operations a second."""
    threads, rounds = torch.get_num_threads(), 300_000
    data = torch.ones(1 << 29, dtype=torch.uint8)
    read = median(lambda: native.read_rate(native.kernels, data.data_ptr(), data.nbytes, threads), clock, 5)
    dots = median(lambda: native.dot_rate(native.kernels, rounds, threads), clock, 5)
    return data.nbytes / read, 8 * threads * rounds * 12 * 128 / dots


def report(name: str, seconds: float, held: int, operations: float, most: tuple[float, float]) -> None:
    rate, speed = held / seconds, operations / seconds
    print(
        f"{name:<24} {seconds * 1e3:9.2f} ms  {rate / 1e9:6.1f} GB/s {rate / most[0]:4.0%}  "
        f"{speed / 1e9:6.0f} GOP/s {speed / most[1]:4.0%}",
        flush=True,
    )


def products(native: Native, clock: Clock, most: tuple[float, float]) -> None:
    """Products of a weight that is too large for the caches."""
    rows, columns = 27392, 4096
    for scheme in (Groupwise(4), Groupwise(4, 64), Groupwise(4, 128), Groupwise(8)):
        tensors = {
            name: torch.ones(shape, dtype=dtype)
            for name, (shape, dtype) in scheme.layout(rows, columns, torch.float32).items()
        }
        packed = PackedMatrix(native, scheme.bits, scheme.group_size, **tensors, columns=columns)
        held = packed.weight.nbytes + packed.scales.nbytes
        for tokens in (1, 2, 4, 8, 16, 128, 512):
            x = torch.randn(tokens, columns)
            seconds = median(lambda: packed.matmul(x), clock, 9 if tokens < 64 else 3)  # noqa: B023
            name = f"{scheme.name} g{scheme.group_size}, {tokens} tokens"
            report(name, seconds, held, 2.0 * tokens * rows * columns, most)


def steps(model: ChatGLMModel, clock: Clock, most: tuple[float, float]) -> None:
    """Steps of a whole model, its output layer included."""
    linears = [module for module in model.modules() if isinstance(module, QuantLinear)]
    packed = [linear.packed for linear in linears]
    held = sum(p.weight.nbytes + p.scales.nbytes for p in packed if isinstance(p, PackedMatrix))
    inner = sum(linear.rows * linear.columns for linear in linears if linear is not model.output)
    outer = model.output.out_features * model.output.in_features
    cache = KVCache(model.config, num_blocks=512, dtype=model.dtype)
    for name, (queries, contexts, runs) in STEPS.items():
        sizes = [-(-context // cache.block_size) for context in contexts]
        tables = [list(range(sum(sizes[:i]), sum(sizes[: i + 1]))) for i in range(len(sizes))]
        batch = AttentionBatch.build(cache, queries, contexts, tables)
        tokens = torch.randint(model.config.vocab_size, (sum(queries),))
        spans = [torch.arange(context - count, context) for count, context in zip(queries, contexts)]
        positions, ends = torch.cat(spans), torch.tensor(queries).cumsum(0) - 1
        with torch.inference_mode():
            seconds = median(
                lambda: model.logits(model(tokens, positions, batch)[ends]),  # noqa: B023
                clock,
                runs,
            )
        report(name, seconds, held, 2.0 * (inner * len(tokens) + outer * len(ends)), most)
        print(f"{'':<24} {len(tokens) / seconds:9.2f} tok/s")


def main() -> None:
    parser = argparse.ArgumentParser(description="The native CPU kernels against the machine's limits.")
    parser.add_argument("folder", nargs="?", help="a quantized model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and only the time it ran")
    args = parser.parse_args()
    native = choose().native
    if native is None:
        sys.exit(f"no native kernels here: {choose().reason}")
    torch.set_num_threads(1 if args.cpu_time else args.threads)
    clock = time.thread_time if args.cpu_time else time.perf_counter
    most = limits(native, clock)
    print(
        f"{native.name}, {torch.get_num_threads()} threads: "
        f"{most[0] / 1e9:.1f} GB/s, {most[1] / 1e9:.0f} GOP/s in int8"
    )
    if args.folder is None:
        products(native, clock, most)
        return
    start, used = time.perf_counter(), time.process_time()
    model = load_model(args.folder, dtype=torch.bfloat16)
    fuse(model)
    print(f"loaded in {time.perf_counter() - start:.2f} s, {time.process_time() - used:.2f} s of processors")
    steps(model, clock, most)


if __name__ == "__main__":
    main()
