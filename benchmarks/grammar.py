"""What guaranteed structure costs: `python benchmarks/grammar.py [--tokenizer FILE]`.

Compiling: seconds for the vocabulary, once a process, and milliseconds for each new schema. Masks:
microseconds for each token of random answers, in the thread that computes them. Steps: a random network of
nano's size, with as many ids as the tokenizer, decodes for a number of streams, of which none, half and all
follow a schema. All that free streams can notice of the others is a mask that is not ready when the model is.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from chatglm3.config import ModelConfig
from chatglm3.engine import Engine, Grammar, SamplingParams
from chatglm3.grammar import JSON_OBJECT, GrammarCompiler
from chatglm3.model import ChatGLMModel
from chatglm3.tokenizer import Tokenizer

ADDRESS = {
    "type": "object",
    "properties": {
        "street": {"type": "string"},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
        "country": {"enum": ["CN", "DE", "FR", "NO"]},
    },
    "required": ["street", "zip"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "born": {"type": "string", "format": "date"},
        "height": {"type": "number", "minimum": 0, "maximum": 3},
        "addresses": {"type": "array", "items": ADDRESS},
    },
    "required": ["name", "addresses"],
    "additionalProperties": False,
}
LARGE = {
    "type": "object",
    "properties": {f"field_{i}": ADDRESS if i % 2 else {"type": "string"} for i in range(60)},
    "required": ["field_3"],
    "additionalProperties": False,
}
ENDLESS = {"type": "array", "items": {"type": "string"}, "minItems": 10_000}
FORMS: dict[str, dict[str, Any]] = {
    "any JSON object": {"answer": JSON_OBJECT},
    "a person in JSON": {"answer": PERSON},
    "60 fields in JSON": {"answer": LARGE},
    "a call with a person": {"tools": [{"name": "save", "parameters": PERSON}]},
    "a call with 60 arguments": {"tools": [{"name": "save", "parameters": LARGE}]},
    "one of 20 tools, or text": {
        "answer": "text",
        "tools": [{"name": f"tool_{i}", "parameters": PERSON} for i in range(20)],
    },
}


def report(compiler: GrammarCompiler) -> None:
    """Print how long compiling takes, and masks."""
    print(f"\n{'grammar':<26} {'compile ms':>10} {'mask us':>8} {'p99 us':>8} {'max us':>8} {'accept us':>9}")
    for name, form in FORMS.items():
        start = time.perf_counter()
        grammar = compiler.reply(**form)
        milliseconds = (time.perf_counter() - start) * 1e3
        masks, accepts = mask_times(grammar)
        rare = statistics.quantiles(masks, n=100)[98]
        print(
            f"{name:<26} {milliseconds:>10.1f} {statistics.median(masks):>8.0f} "
            f"{rare:>8.0f} {max(masks):>8.0f} {statistics.median(accepts):>9.0f}"
        )


def mask_times(grammar: Grammar, tokens: int = 1000) -> tuple[list[float], list[float]]:
    """Microseconds of each mask, and of each token's acceptance, in random answers."""
    rng = random.Random(0)
    masks, accepts = [], []
    constraint = grammar.begin()
    for _ in range(tokens):
        start = time.perf_counter()
        allowed = constraint.allowed()
        masks.append((time.perf_counter() - start) * 1e6)
        token = rng.choice(allowed.nonzero()[0].tolist())
        start = time.perf_counter()
        ended = constraint.accept(token)
        accepts.append((time.perf_counter() - start) * 1e6)
        if ended:
            constraint = grammar.begin()
    return masks, accepts


def step_time(model: ChatGLMModel, grammars: list[Grammar | None], tokens: int) -> float:
    """Median seconds of a step that decodes one stream for each grammar."""
    engine = Engine(model, num_blocks=len(grammars) * 16, max_sequences=len(grammars))
    for stream, grammar in enumerate(grammars):
        params = SamplingParams(seed=stream, max_tokens=tokens, grammar=grammar)
        engine.submit([stream + 1] * 8, params)
    engine.step()  # the prompts
    seconds = []
    while engine.has_work:
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="What guaranteed structure costs.")
    default = Path(__file__).resolve().parents[1] / "chatglm3" / "models" / "nano"
    parser.add_argument("--tokenizer", type=Path, default=default, help="a tokenizer.model (default: nano's)")
    parser.add_argument(
        "--streams", type=int, nargs="+", default=[1, 16], help="streams that decode together"
    )
    parser.add_argument("--tokens", type=int, default=100, help="tokens of each answer (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the network runs (default %(default)s)")
    args = parser.parse_args()
    tokenizer = Tokenizer(args.tokenizer)
    start = time.perf_counter()
    compiler = GrammarCompiler(tokenizer)
    print(f"vocabulary of {tokenizer.vocab_size}: {time.perf_counter() - start:.2f} s")
    report(compiler)
    grammar = compiler.reply(answer=ENDLESS)
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=8,
        hidden_size=192,
        num_heads=6,
        num_kv_heads=2,
        head_dim=32,
        ffn_hidden_size=512,
        vocab_size=tokenizer.vocab_size,
        max_seq_len=1024,
    )
    model = ChatGLMModel(config).eval().to(args.device)
    print(f"\n{'streams':>7} {'free ms':>8} {'half ms':>8} {'all ms':>8}")
    for streams in args.streams:
        free = step_time(model, [None] * streams, args.tokens)
        half = step_time(model, [grammar if i % 2 else None for i in range(streams)], args.tokens)
        everyone = step_time(model, [grammar] * streams, args.tokens)
        print(f"{streams:>7} {free * 1e3:>8.2f} {half * 1e3:>8.2f} {everyone * 1e3:>8.2f}")


if __name__ == "__main__":
    main()
