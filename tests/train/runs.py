"""Tiny fine-tuning runs: a model of a few thousand weights, and conversations that repeat what was said."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

from rich.console import Console

from chatglm3.train.config import FinetuneConfig, parse_config

NOUNS = ("hello", "world", "today", "you", "how", "are")


def conversations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions of two words, each answered with its second word, of several lengths."""
    numbers = random.Random(seed)
    found = []
    for _ in range(count):
        words = [numbers.choice(NOUNS) for _ in range(numbers.randrange(2, 7))]
        found.append(
            {
                "conversations": [
                    {"role": "user", "content": " ".join(words)},
                    {"role": "assistant", "content": words[1]},
                ]
            }
        )
    return found


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def config(model: Path, folder: Path, **changes: Any) -> FinetuneConfig:
    """Eight steps of LoRA over 24 samples, on a CPU, with two checkpoints."""
    train = write_lines(folder / "train.jsonl", conversations(24))
    data: dict[str, Any] = {
        "model": str(model),
        "output": str(folder / "run"),
        "train": str(train),
        "batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 1e-2,
        "steps": 8,
        "save_every": 4,
        "log_every": 1,
        "max_length": 64,
        "device": "cpu",
        "report_to": [],
    }
    return parse_config(data | changes)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def losses(output: Path) -> list[float]:
    """The training loss of each step of a finished run, from its newest checkpoint."""
    newest = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    state = json.loads((newest / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]
