"""`chatglm3 bench`: how fast a model runs on this machine, and how near that is to the machine's limits."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from chatglm3.cli.arguments import add_model, kv_memory, size
from chatglm3.errors import InvalidParameterError

if TYPE_CHECKING:
    from chatglm3.benchmark import Limits, Rate
    from chatglm3.model import ChatGLMModel

EPILOG = """\
Decoding waits for weights to be read, so its limit is what this machine reads from memory; prompts and large
batches compute, so theirs is the machine's rate of multiplications. Both are measured first. 6b and nano
after --shape are networks of these sizes with random weights, which are as fast as trained ones.

examples:
  chatglm3 bench
  chatglm3 bench --shape 6b --quantize int4
  chatglm3 bench ./my-model --contexts 128,1024,8192 --batches 1,8,32"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add_model(parser, default="nano")
    group = parser.add_argument_group("benchmark")
    group.add_argument(
        "--shape", choices=["6b", "nano"], help="random weights of this shape instead of MODEL"
    )
    group.add_argument("--contexts", type=_numbers, default=[128, 1024], metavar="N,N", help="(128,1024)")
    group.add_argument("--batches", type=_numbers, default=[1, 4, 16], metavar="N,N", help="(1,4,16)")
    group.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens of the prompt (512)")
    group.add_argument("--tokens", type=int, default=16, metavar="N", help="tokens decoded each time (16)")
    group.add_argument("--repeats", type=int, default=3, metavar="N", help="the median of so many counts (3)")


def run(args: argparse.Namespace) -> int:
    """Measure and print, line by line as it comes."""
    import time

    import torch

    from chatglm3 import benchmark
    from chatglm3.loading import choose_device, choose_dtype, load, make_engine

    for name in ("prompt", "tokens", "repeats"):
        if getattr(args, name) < 1:
            raise InvalidParameterError(f"--{name} is {getattr(args, name)}, but must be at least 1")
    device = choose_device(args.device)
    limits = benchmark.measure_limits(device)  # before the model, so that the peak is the model's
    start = time.perf_counter()
    if args.shape is None:
        loaded = load(
            args.model, device=device, dtype=args.dtype, quantize=args.quantize, revision=args.revision
        )
        model = loaded.model
    else:
        config = benchmark.SHAPES[args.shape]
        dtype = choose_dtype(args.dtype, device, config, quantize=args.quantize)
        model = benchmark.random_model(config, device=device, dtype=dtype, quantize=args.quantize)
    engine = make_engine(model, cache_bytes=kv_memory(args), kv_dtype=args.kv_dtype, speculate=0)
    seconds = time.perf_counter() - start
    longest = max(*args.contexts, args.prompt) + args.tokens
    if longest > engine.max_context:
        raise InvalidParameterError(
            f"{longest} tokens are asked for, and the cache holds sequences of {engine.max_context}; give "
            "shorter contexts or more --kv-memory"
        )
    form = args.quantize or str(model.dtype).removeprefix("torch.")
    print(f"{args.shape or args.model}, {form}, {model.device}, {torch.get_num_threads()} threads")
    print(f"{'made' if args.shape else 'loaded'} in {seconds:.1f} s")
    print(f"limits: {limits.bytes_per_second / 1e9:.1f} GB/s read, {_limit_of_multiplying(limits)}")

    print(f"\n{'':24}{'tok/s':>9}{'GB/s':>8}{'GOP/s':>9}{'of the limit':>14}")
    rate = benchmark.prefill(engine, args.prompt, args.repeats)
    _show(f"prompt of {args.prompt}", rate, model, limits)
    for context in args.contexts:
        rate = benchmark.decode(engine, 1, context, args.tokens, args.repeats)
        _show(f"decode at {context}", rate, model, limits)
    for batch in args.batches:
        rate = benchmark.decode(engine, batch, 128, args.tokens, args.repeats)
        _show(f"batch of {batch} at 128", rate, model, limits)
    peak = benchmark.peak_bytes(model.device)
    print(f"\npeak memory {size(peak)}, of which keys and values may take {size(engine.cache_bytes)}")
    return 0


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} has a number below 1")
    return numbers


def _limit_of_multiplying(limits: Limits) -> str:
    return f"{limits.operations_per_second / 1e9:.0f} GOP/s of {limits.operands}"


def _show(name: str, rate: Rate, model: ChatGLMModel, limits: Limits) -> None:
    from chatglm3.benchmark import operations_per_token, read_bytes

    gigabytes = read_bytes(model, rate) * rate.steps_per_second / 1e9
    operations = operations_per_token(model) * rate.tokens_per_second / 1e9
    shares = gigabytes * 1e9 / limits.bytes_per_second, operations * 1e9 / limits.operations_per_second
    bound = "read" if shares[0] > shares[1] else limits.operands
    print(
        f"{name:24}{rate.tokens_per_second:>9.1f}{gigabytes:>8.1f}{operations:>9.0f}"
        f"{f'{max(shares):.0%} {bound}':>14}",
        flush=True,
    )
