"""Peak memory and time of LoRA steps over the whole ChatGLM3-6B shape, on a CPU in bfloat16.

    python -m benchmarks.memory write --layout chatglm --out DIR     # random weights, 13 GB of disk
    python -m benchmarks.finetune_memory DIR --tokens 512

Measures the process it runs in: loading, then each step with AdamW over one sample of random tokens.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from chatglm3.config import ModelConfig
from chatglm3.train.base import load_base
from chatglm3.train.config import parse_config
from chatglm3.train.memory import training_need
from chatglm3.train.methods import prepare_model, trained_parameters


def peak() -> float:
    """Most memory that the process has held so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--no-checkpointing", action="store_true")
    args = parser.parse_args()
    checkpointing = not args.no_checkpointing
    config = parse_config(
        {"model": args.model, "output": "-", "train": "-", "gradient_checkpointing": checkpointing}
    )
    base = ModelConfig.from_folder(args.model)
    need = training_need(base, config, device="cpu", dtype="bfloat16", longest=args.tokens)
    print(f"estimated {need.total / 1e9:.1f} GB: {vars(need)}")
    started = time.perf_counter()
    model = prepare_model(load_base(args.model, dtype=torch.bfloat16), config).train()
    print(f"loaded in {time.perf_counter() - started:.0f} s, peak {peak():.2f} GB")
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(3, base.vocab_size, (1, args.tokens))
    for step in range(args.steps):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
        print(
            f"step {step + 1}: loss {loss.item():.3f}, {seconds:.0f} s, peak {peak():.2f} GB "
            f"({trained_parameters(model):,} numbers trained)"
        )


if __name__ == "__main__":
    main()
