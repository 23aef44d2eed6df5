"""Ours and its peers in one run, turn by turn: `python -m benchmarks.peers --shape small`.

Every engine that is installed gets a network of one shape, the same random weights where it can take them,
and computes in turn: a prompt, then single tokens behind it. What counts are the ratios of one run; the
medians of the rounds are printed, ours first.

Peers: transformers' `GlmForCausalLM`, with our very weights; llama.cpp through `llama-cpp-python`, with the
GGUF file given by --gguf. Those that are missing are named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from chatglm3.benchmark import SHAPES, measure_limits, random_model
from chatglm3.config import ModelConfig
from chatglm3.engine import GREEDY
from chatglm3.loading import make_engine
from chatglm3.model import ChatGLMModel

SMALL = ModelConfig(8, 1024, 16, 2, 64, 3584, 16384, 4096)

Peer = Callable[[list[int], int], Iterator[None]]
"""Takes a prompt and a number of tokens; yields after the prompt's step and after each token."""


def ours(model: ChatGLMModel, context: int) -> Peer:
    engine = make_engine(model, speculate=0)

    def run(prompt: list[int], tokens: int) -> Iterator[None]:
        for _ in engine.stream(prompt, GREEDY.replace(max_tokens=tokens + 1)):
            yield

    return run


def transformers_peer(model: ChatGLMModel, dtype: torch.dtype) -> Peer:
    from transformers import DynamicCache, GlmConfig, GlmForCausalLM

    from chatglm3.checkpoint import NameTable

    config = GlmConfig(**model.config.to_dict("glm"), attn_implementation="sdpa")
    with torch.device("meta"):
        glm = GlmForCausalLM(config)
    glm = glm.to_empty(device="cpu").to(dtype).eval()
    table = NameTable(model.config, "glm")
    state = dict(part for own, tensor in model.state_dict().items() for part in table.split(own, tensor))
    glm.load_state_dict(state, strict=False)
    glm.model.rotary_emb = type(glm.model.rotary_emb)(config)  # its frequencies are no weights

    @torch.inference_mode()
    def run(prompt: list[int], tokens: int) -> Iterator[None]:
        cache = DynamicCache()
        ids = torch.tensor([prompt])
        for _ in range(tokens + 1):
            logits = glm(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids = logits[:, -1].argmax(-1, keepdim=True)
            yield

    return run


def llama_cpp(gguf: Path, context: int) -> Peer:
    from llama_cpp import Llama

    llama = Llama(str(gguf), n_ctx=context, n_batch=512, n_threads=torch.get_num_threads(), verbose=False)

    def run(prompt: list[int], tokens: int) -> Iterator[None]:
        llama.reset()
        llama.eval(prompt)
        yield
        for _ in range(tokens):
            llama.eval([llama.sample(temp=0)])
            yield

    return run


def measure(peer: Peer, prompt: list[int], tokens: int) -> tuple[float, float]:
    """Tokens a second of the prompt, and of what follows."""
    start = time.perf_counter()
    steps = peer(prompt, tokens)
    next(steps)
    first = time.perf_counter() - start
    times = []
    for _ in range(tokens):
        start = time.perf_counter()
        next(steps)
        times.append(time.perf_counter() - start)
    for _ in steps:
        pass
    return len(prompt) / first, 1 / statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=["small", *SHAPES], default="small")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument(
        "--quantize", choices=["int8", "int4"], help="ours in fewer bits (llama.cpp's weights)"
    )
    parser.add_argument("--gguf", type=Path, help="the same shape as a GGUF file, for llama.cpp")
    parser.add_argument("--peers", default="transformers,llama.cpp", help="which, with commas")
    parser.add_argument("--contexts", default="128,1024", help="prompt lengths (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    contexts = [int(part) for part in args.contexts.split(",")]
    room = max(contexts) + args.tokens + 1
    config = replace(SMALL if args.shape == "small" else SHAPES[args.shape], max_seq_len=room)
    dtype = getattr(torch, args.dtype)

    wanted, peers = args.peers.split(","), dict[str, Peer]()
    model = random_model(config, dtype=dtype, quantize=args.quantize)
    peers["ours"] = ours(model, room)
    if "transformers" in wanted:
        if args.quantize:
            print("transformers: left out, for it has no form of our quantized weights")
        else:
            peers["transformers"] = transformers_peer(model, dtype)
    if "llama.cpp" in wanted:
        if importlib.util.find_spec("llama_cpp") is None:
            print("llama.cpp: left out, for llama-cpp-python is not installed")
        elif args.gguf is None:
            print("llama.cpp: left out, for no --gguf was given")
        else:
            peers["llama.cpp"] = llama_cpp(args.gguf, room)

    limits = measure_limits(torch.device("cpu"))
    print(
        f"{args.shape}, {args.quantize or args.dtype}; {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads; torch {torch.__version__}, "
        f"transformers {version('transformers')}; "
        f"{limits.bytes_per_second / 1e9:.1f} GB/s, {limits.operations_per_second / 1e9:.0f} GOP/s"
    )
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for turn in range(args.rounds + 1):  # the first round warms up
        for context in contexts:
            prompt = [(7 * i + 13 * turn + context) % config.vocab_size for i in range(context)]
            for name, peer in peers.items():
                rates = measure(peer, prompt, args.tokens)
                if turn:
                    found.setdefault((name, context), []).append(rates)
    print("| engine | context | prompt tok/s | decode tok/s | prompt, ours over it | decode, ours over it |")
    print("|---|---|---|---|---|---|")
    for context in contexts:
        mine = found["ours", context]
        for name in peers:
            theirs = found[name, context]
            prompt_ratio, decode_ratio = (
                statistics.median(a[i] / b[i] for a, b in zip(mine, theirs, strict=True)) for i in (0, 1)
            )
            medians = [statistics.median(rates[i] for rates in theirs) for i in (0, 1)]
            print(
                f"| {name} | {context} | {medians[0]:.1f} | {medians[1]:.1f} "
                f"| {prompt_ratio:.2f} | {decode_ratio:.2f} |"
            )


if __name__ == "__main__":
    main()
