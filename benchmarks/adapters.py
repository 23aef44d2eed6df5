"""What LoRA adapters cost a step of decoding: `python benchmarks/adapters.py`.

A few layers of the 6B shape with random weights, in bfloat16; each stream has an adapter of its own, or
shares one. Times are those of one thread's own work on the CPU, and the fastest step of each case counts: so
that others may use the machine too.
"""

from __future__ import annotations

import argparse
import time

import torch

from chatglm3.adapters import Lora
from chatglm3.config import ModelConfig
from chatglm3.engine import GREEDY, Engine
from chatglm3.lora import LowRank
from chatglm3.model import ChatGLMModel

LINEARS = ("qkv", "attention_out", "gate_up", "down")


def shape(layers: int) -> ModelConfig:
    return ModelConfig(
        num_layers=layers,
        hidden_size=4096,
        num_heads=32,
        num_kv_heads=2,
        head_dim=128,
        ffn_hidden_size=13696,
        vocab_size=65024,
        max_seq_len=8192,
    )


def random_lora(model: ChatGLMModel, rank: int) -> Lora:
    """Updates of every linear; q, k and v have a part of the joint one each."""

    def update(linear: torch.nn.Linear, parts: int) -> LowRank:
        a = torch.randn(parts * rank, linear.in_features, dtype=linear.weight.dtype)
        return LowRank(a, torch.randn(linear.out_features, parts * rank, dtype=a.dtype) / 100)

    return Lora(
        [
            {name: update(getattr(layer, name), 3 if name == "qkv" else 1) for name in LINEARS}
            for layer in model.layers
        ]
    )


def fastest_step(engine: Engine, choices: list[str | None], tokens: int) -> float:
    """Seconds of the fastest decoding step with one stream for each choice of an adapter."""
    for stream, name in enumerate(choices):
        engine.submit([stream + 1] * 4, GREEDY.replace(max_tokens=tokens, adapter=name))
    engine.step()
    seconds = []
    while engine.stats.running == len(choices):
        start = time.thread_time()
        engine.step()
        seconds.append(time.thread_time() - start)
    while engine.has_work:
        engine.step()
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="What LoRA adapters cost a step of decoding.")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=6, help="steps of each round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.device("meta"):
        model = ChatGLMModel(shape(args.layers)).to(torch.bfloat16)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.normal_(std=0.02)
    model.rotary.fill(torch.device("cpu"))
    names = [f"adapter {i}" for i in range(8)]
    engine = Engine(
        model,
        num_blocks=64,
        adapters={name: random_lora(model, args.rank) for name in names},
        prefix_caching=False,
    )
    cases: dict[str, list[str | None]] = {
        "1 stream, no adapter": [None],
        "1 stream, its adapter": [names[0]],
        "8 streams, no adapter": [None] * 8,
        "8 streams, one adapter": [names[0]] * 8,
        "8 streams, half with one": [None, names[0]] * 4,
        "8 streams, 8 adapters": list(names),
    }
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(args.rounds):
        for case, choices in cases.items():
            best[case] = min(best[case], fastest_step(engine, choices, args.tokens))
    print(f"{args.layers} layers, rank {args.rank}, torch {torch.__version__}")
    for case, seconds in best.items():
        without = best["1 stream, no adapter" if case.startswith("1 ") else "8 streams, no adapter"]
        print(f"{case:26} {1000 * seconds:8.1f} ms  {seconds / without:5.2f} x")


if __name__ == "__main__":
    main()
