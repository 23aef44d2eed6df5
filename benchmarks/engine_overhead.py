"""What the engine itself costs for each step, beside the model: `python benchmarks/engine_overhead.py`.

A random network of nano's size generates for 1 and for 32 streams. The time of each step is split into the
model's own (its forward pass and its output layer) and the rest, which is Python and sampling. Medians over
the steps of decoding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from chatglm3.config import ModelConfig
from chatglm3.engine import GREEDY, Engine, SamplingParams
from chatglm3.model import ChatGLMModel

NANO = ModelConfig(
    num_layers=8,
    hidden_size=192,
    num_heads=6,
    num_kv_heads=2,
    head_dim=32,
    ffn_hidden_size=512,
    vocab_size=4096,
    max_seq_len=1024,
)
SAMPLINGS = {
    "greedy": GREEDY,
    "temperature 0.8, top_p 0.8": SamplingParams(seed=0),
    "the same with penalties": SamplingParams(seed=0, repetition_penalty=1.1, frequency_penalty=0.1),
    "the same with logprobs": SamplingParams(seed=0, logprobs=5),
}


class Timed:
    """Adds up the seconds that calls of a function take."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.seconds = 0.0

    def __call__(self, *args: Any) -> Any:
        start = time.perf_counter()
        result = self.function(*args)
        self.seconds += time.perf_counter() - start
        return result


def measure(model: ChatGLMModel, params: SamplingParams, streams: int, tokens: int) -> tuple[float, float]:
    """Median seconds of a decoding step: in all, and outside the model."""
    engine = Engine(model, num_blocks=streams * 16)
    forward, logits = Timed(type(model).forward.__get__(model)), Timed(type(model).logits.__get__(model))
    model.forward, model.logits = forward, logits  # type: ignore[method-assign]
    for stream in range(streams):
        engine.submit([stream + 1] * 8, params.replace(max_tokens=tokens))
    engine.step()  # the prompts
    totals, overheads = [], []
    while engine.stats.running == streams:
        forward.seconds = logits.seconds = 0.0
        start = time.perf_counter()
        engine.step()
        totals.append(time.perf_counter() - start)
        overheads.append(totals[-1] - forward.seconds - logits.seconds)
    return statistics.median(totals), statistics.median(overheads)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the engine itself costs for each step.")
    parser.add_argument("--tokens", type=int, default=150, help="tokens of each answer (default %(default)s)")
    parser.add_argument("--vocab", type=int, default=NANO.vocab_size, help="rows of the output layer")
    args = parser.parse_args()
    config = ModelConfig(**(NANO.__dict__ | {"vocab_size": args.vocab}))
    torch.manual_seed(0)
    model = ChatGLMModel(config).eval()
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{size / 1e6:.1f} M parameters, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'streams':>7}  {'sampling':<28} {'step ms':>8} {'engine us':>10} {'share':>6} {'tok/s':>7}")
    for streams in (1, 32):
        for name, params in SAMPLINGS.items():
            total, overhead = measure(model, params, streams, args.tokens)
            print(
                f"{streams:>7}  {name:<28} {total * 1e3:>8.2f} {overhead * 1e6:>10.0f} "
                f"{overhead / total:>6.0%} {streams / total:>7.0f}"
            )


if __name__ == "__main__":
    main()
