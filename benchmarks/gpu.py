"""Ours on a GPU against compiled transformers and the device's own limits: `python -m benchmarks.gpu`.

Both get networks of one shape with random weights. Ours decodes in bfloat16 and in int4, alone and in
batches, and computes a long prompt; transformers' `GlmForCausalLM` decodes over a static cache, compiled
(`reduce-overhead`, under CUDA graphs), and computes the same prompt. Reading and multiplying give the
device's limits. `--shape tiny --device cpu --peer eager` tries the script itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from chatglm3.benchmark import (
    SHAPES,
    Limits,
    Rate,
    decode,
    measure_limits,
    operations_per_token,
    prefill,
    random_model,
    read_bytes,
)
from chatglm3.config import ModelConfig
from chatglm3.engine import Engine
from chatglm3.model import ChatGLMModel

TINY = ModelConfig(2, 64, 4, 2, 16, 128, 512, 512)


def show(name: str, rate: Rate, model: ChatGLMModel, limits: Limits) -> None:
    read = read_bytes(model, rate) * rate.steps_per_second / limits.bytes_per_second
    computed = operations_per_token(model) * rate.tokens_per_second / limits.operations_per_second
    print(f"| {name} | {rate.tokens_per_second:.1f} | {read:.0%} | {computed:.0%} |", flush=True)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds; the first two calls, which compile and record, are not counted."""
    times = []
    for _ in range(repeats + 2):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


@torch.inference_mode()
def transformers_rates(
    config: ModelConfig, device: torch.device, *, compiled: bool, context: int, prompt: int, repeats: int
) -> tuple[float, float]:
    """Tokens a second of transformers: decoding alone behind `context` tokens, and of a prompt."""
    from transformers import GlmConfig, GlmForCausalLM, StaticCache

    glm_config = GlmConfig(**config.to_dict("glm"), attn_implementation="sdpa")
    with torch.device(device):
        glm = GlmForCausalLM(glm_config).to(torch.bfloat16).eval()
    forward = torch.compile(glm.forward, mode="reduce-overhead", fullgraph=True) if compiled else glm.forward
    room = max(context + 64, prompt)
    cache = StaticCache(config=glm_config, max_cache_len=room)
    ids = torch.randint(config.vocab_size, (1, room), device=device)

    def step() -> None:
        position = torch.tensor([context], device=device)
        logits = forward(
            ids[:, :1], past_key_values=cache, position_ids=position[None], use_cache=True, logits_to_keep=1
        ).logits
        logits[:, -1].argmax(-1)

    def whole() -> None:
        cache.reset()
        glm(ids[:, :prompt], past_key_values=cache, use_cache=True, logits_to_keep=1)

    glm(ids[:, :context], past_key_values=cache, use_cache=True, logits_to_keep=1)
    decoding = 1 / timed(step, device, repeats)
    return decoding, prompt / timed(whole, device, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ours on a GPU against compiled transformers.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=["tiny", *SHAPES], default="6b")
    parser.add_argument("--peer", choices=["compiled", "eager", "none"], default="compiled")
    parser.add_argument("--prompt", type=int, default=4096)
    parser.add_argument("--batches", default="1,4,16,64")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = torch.device(args.device)
    config = TINY if args.shape == "tiny" else SHAPES[args.shape]
    prompt = min(args.prompt, config.max_seq_len - args.tokens - 2)
    limits = measure_limits(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}: {limits.bytes_per_second / 1e9:.0f} GB/s read, "
        f"{limits.operations_per_second / 1e12:.1f} TOP/s of {limits.operands}\n"
    )
    print("| ours | tok/s | of the read limit | of the arithmetic limit |")
    print("|---|---|---|---|")
    alone: dict[str, float] = {}
    for quantize in (None, "int4"):
        form = quantize or "bfloat16"
        model = random_model(config, device=device, dtype=torch.bfloat16, quantize=quantize)
        batches = [int(part) for part in args.batches.split(",")]
        entries = prompt + args.tokens + max(batches) * (128 + args.tokens + 32)
        start = time.perf_counter()
        engine = Engine(model, num_blocks=entries // 16 + 1, max_batch_tokens=2048)
        decode(engine, 1, 128, 8, 1)
        print(f"| {form}, warm after {time.perf_counter() - start:.1f} s | | | |")
        for batch in batches:
            rate = decode(engine, batch, 128, args.tokens, args.repeats)
            alone.setdefault(form, rate.tokens_per_second)
            show(f"{form}, batch of {batch}", rate, model, limits)
        rate = prefill(engine, prompt, args.repeats)
        alone.setdefault(f"{form} prompt", rate.tokens_per_second)
        show(f"{form}, prompt of {prompt}", rate, model, limits)
        del engine, model
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(f"\nint4 over bfloat16, alone: {alone['int4'] / alone['bfloat16']:.2f}")
    if args.peer != "none":
        compiled = args.peer == "compiled"
        decoding, whole = transformers_rates(
            config, device, compiled=compiled, context=128, prompt=prompt, repeats=args.repeats
        )
        print(f"transformers, {args.peer}: decode {decoding:.1f} tok/s, prompt {whole:.1f} tok/s")
        print(
            f"ours over it: decode {alone['bfloat16'] / decoding:.2f}, int4 {alone['int4'] / decoding:.2f}, "
            f"prompt {alone['bfloat16 prompt'] / whole:.2f}"
        )


if __name__ == "__main__":
    main()
