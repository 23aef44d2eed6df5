"""The numbers of a run. Two sizes are kept: one that two CPU cores train in an evening, one for a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chatglm3.config import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_DATA = ROOT / "chatglm3" / "models" / "nano"
"""Where the shipped model lies."""


@dataclass(frozen=True)
class Phase:
    """The mix of documents from one step on."""

    step: int
    exercises: float
    """Share of documents of random pieces (recipes/nano/abstract.py); the others are conversations."""
    most_tools: int = 9
    unreal: float = 0.25
    """How many conversations with tools are about tools that make no sense: only reading helps there."""


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on."""

    name: str
    layers: int
    width: int
    heads: int
    head_dim: int
    ffn: int
    conversations_per_step: int
    steps: int
    decay: float
    phases: tuple[Phase, ...] = (
        Phase(0, exercises=1.0),
        Phase(200, exercises=0.4, most_tools=3, unreal=0.6),
        Phase(600, exercises=0.25, most_tools=3, unreal=0.4),
        Phase(1500, exercises=0.12, most_tools=9, unreal=0.25),
    )
    """What the documents of a step are, from exercises to conversations."""
    warmup: int = 200
    """Steps in which the learning rates rise: large ones would undo the start's wiring before it is used."""
    seed: int = 20
    matrix_rate: float = 0.012
    vector_rate: float = 3e-3
    micro_batch: int = 1024
    """Tokens, padding included, in one forward and backward pass."""
    max_length: int = 1024

    @property
    def folder(self) -> Path:
        """Where the run keeps its vocabulary, checkpoints and log; not under version control."""
        return ROOT / "runs" / f"nano-{self.name}"

    def model_config(self, vocab_size: int) -> ModelConfig:
        return ModelConfig(
            num_layers=self.layers,
            hidden_size=self.width,
            num_heads=self.heads,
            num_kv_heads=2,
            head_dim=self.head_dim,
            ffn_hidden_size=self.ffn,
            vocab_size=vocab_size,
            max_seq_len=2048,
            dtype="float16",
        )


SETTINGS = {
    "cpu": Settings("cpu", 8, 192, 6, 32, 512, conversations_per_step=36, steps=3600, decay=0.6),
    "gpu": Settings(
        "gpu", 10, 256, 8, 32, 640, conversations_per_step=192, steps=8000, decay=0.5, micro_batch=65536
    ),
    "smoke": Settings(
        "smoke", 2, 192, 6, 32, 128, conversations_per_step=8, steps=4, decay=0.5,
        phases=(Phase(0, exercises=1.0), Phase(2, exercises=0.5)), warmup=2,
    ),
}  # fmt: skip
"""Sizes by name; "smoke" only shows that everything runs."""
