"""What LoRA adapters cost beside the linears they belong to: `python benchmarks/adapters.py`.

The four linears of a layer of the 6B shape in bfloat16, with random weights, for 1, 8 and 64 tokens: without
an adapter, with one for all tokens, with one for every other span, and with 8 adapters for 8 spans. Times are
those of one thread's own work on the CPU, the least of several, so that others may use the machine too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from chatglm3.lora import Lora, LoraBatch, LowRank

SHAPES = {"qkv": (4608, 4096), "attention_out": (4096, 4096), "gate_up": (27392, 4096), "down": (4096, 13696)}


def random_lora(rank: int) -> Lora:
    """Updates of every linear; q, k and v have a part of the joint one each."""
    layer = {}
    for name, (rows, columns) in SHAPES.items():
        joint = 3 * rank if name == "qkv" else rank
        a, b = torch.randn(joint, columns), torch.randn(rows, joint)
        layer[name] = LowRank(a.bfloat16(), b.bfloat16())
    return Lora([layer])


def least_ms(work: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return 1000 * best


def main() -> None:
    parser = argparse.ArgumentParser(description="What LoRA adapters cost beside the linears.")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights = {name: torch.randn(shape).bfloat16() for name, shape in SHAPES.items()}
    loras = [random_lora(args.rank) for _ in range(8)]

    print(f"rank {args.rank}, torch {torch.__version__}")
    for tokens in (1, 8, 64):
        measure(tokens, weights, loras, args.repeats)


def measure(tokens: int, weights: dict[str, Tensor], loras: list[Lora], repeats: int) -> None:
    inputs = {name: torch.randn(tokens, columns).bfloat16() for name, (_, columns) in SHAPES.items()}
    outputs = {name: inputs[name] @ weights[name].t() for name in SHAPES}
    plain = least_ms(lambda: [inputs[name] @ weights[name].t() for name in SHAPES], repeats)
    print(f"{tokens:3} tokens: the linears {plain:8.2f} ms")
    spans = min(tokens, 8)
    cases: dict[str, list[Lora | None]] = {"one adapter": [loras[0]] * spans}
    if spans > 1:
        cases["one for half of them"] = [loras[0], None] * (spans // 2)
        cases["8 adapters"] = list(loras)
    for case, owners in cases.items():
        batch = LoraBatch.build(owners, [tokens // spans] * spans, "cpu")
        assert batch is not None
        add = batch.add
        extra = least_ms(lambda: [add(0, name, inputs[name], outputs[name]) for name in SHAPES], repeats)  # noqa: B023
        print(f"    {case:20} + {extra:6.2f} ms  {100 * extra / plain:5.1f} %")


if __name__ == "__main__":
    main()
