"""Tokens a second and peak memory of fine-tuning the ChatGLM3-6B shape, beside plain peft + Trainer.

    python -m benchmarks.finetune_gpu                              all of it, on CUDA (full training: 110 GB)
    python -m benchmarks.finetune_gpu --methods lora ptuning       those that fit a smaller device
    python -m benchmarks.finetune_gpu --device cpu --small         to try it out

Settings are the published ones: LoRA of rank 8 on query_key_value, P-Tuning v2 of 128 positions, one sample
a step; full training with gradient checkpointing. Each measurement is a process of its own, with random
weights and tokens. Plain: GlmForCausalLM and peft as they come, with the same settings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GlmConfig, GlmForCausalLM, Trainer, TrainingArguments

from benchmarks.memory import CHATGLM3_6B
from chatglm3.train.base import TrainableGlm
from chatglm3.train.config import FinetuneConfig, parse_config
from chatglm3.train.methods import lora_config, prepare_model
from chatglm3.train.trainer import AnswerTrainer

SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512}  # fmt: skip


class Tokens(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Samples of random tokens."""

    def __init__(self, count: int, length: int, vocabulary: int) -> None:
        self._count, self._length, self._vocabulary = count, length, vocabulary

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(3, self._vocabulary, (self._length,), generator=generator)
        return {"input_ids": ids, "labels": ids}


def network(kind: type[GlmForCausalLM], args: argparse.Namespace, dtype: torch.dtype) -> Any:
    """Random weights, made on the device."""
    shape = CHATGLM3_6B.to_dict("glm") | (SMALL if args.small else {})
    config = GlmConfig(**shape, attn_implementation="sdpa")
    config.dtype = dtype
    with torch.device(args.device):
        torch.set_default_dtype(dtype)
        model = kind(config)
        torch.set_default_dtype(torch.float32)
    return model


def plain(config: FinetuneConfig, args: argparse.Namespace, dtype: torch.dtype) -> nn.Module:
    """What one writes with peft's documentation beside one."""
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    model = network(GlmForCausalLM, args, torch.float32 if config.method == "full" else dtype)
    if config.method == "full":
        return model
    if config.method == "lora":
        return get_peft_model(model, lora_config(config))
    return get_peft_model(
        model, PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=config.ptuning.length)
    )


def measure(args: argparse.Namespace) -> dict[str, float | str]:
    """One measurement, in this process."""
    method, whose = args.one
    config = parse_config(
        {
            "output": "-", "train": "-", "method": method, "ptuning": {"length": 128},
            "lora": {"rank": 8, "alpha": 32, "dropout": 0.1, "targets": ["q_proj", "k_proj", "v_proj"]},
        }
    )  # fmt: skip
    dtype = torch.bfloat16
    ours = whose == "ours"
    if ours:
        base = network(TrainableGlm, args, torch.float32 if method == "full" else dtype)
        model: Any = prepare_model(base.requires_grad_(False), config)
    else:
        model = plain(config, args, dtype)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            max_steps=args.steps + args.warmup,
            learning_rate=1e-5,
            bf16=True,
            use_cpu=args.device == "cpu",
            # peft's prefix tuning cannot be checkpointed.
            activation_checkpointing=method == "full",
            activation_checkpointing_kwargs={"use_reentrant": False},
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
        )
        vocabulary = SMALL["vocab_size"] if args.small else CHATGLM3_6B.vocab_size
        data = Tokens(args.steps + args.warmup, args.tokens, vocabulary)
        times: list[float] = []

        class Timed(AnswerTrainer if ours else Trainer):  # type: ignore[misc]
            def training_step(self, *given: Any, **more: Any) -> Tensor:
                if args.device == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter())
                return super().training_step(*given, **more)

        Timed(model, arguments, train_dataset=data).train()
    if args.device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - times[args.warmup]) / args.steps
    peak = torch.cuda.max_memory_allocated() / 1e9 if args.device == "cuda" else float("nan")
    return {"method": method, "whose": whose, "tokens/s": args.tokens / seconds, "GB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["lora", "ptuning", "full"])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a network of a few thousand weights")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "WHOSE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    print(f"{args.tokens} tokens a step; {torch.__version__}")
    for method in args.methods:
        for whose in ("ours", "plain"):
            command = [sys.executable, "-m", "benchmarks.finetune_gpu", *sys.argv[1:], "--one", method, whose]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[1]
            )
            lines = done.stdout.splitlines()
            if done.returncode or not lines:
                print(f"{method:8} {whose:6} failed: {(done.stderr.splitlines() or ['?'])[-1]}", flush=True)
                continue
            found = json.loads(lines[-1])
            speed, memory = found["tokens/s"], found["GB"]
            print(f"{method:8} {whose:6} {speed:10,.0f} tokens/s {memory:7.1f} GB", flush=True)


if __name__ == "__main__":
    main()
