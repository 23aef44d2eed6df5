"""The numbers of a run. Two sizes are kept: one that two CPU cores train in an evening, one for a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chatglm3.config import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_DATA = ROOT / "chatglm3" / "models" / "nano"
"""Where the shipped model lies."""


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
    graded_from: int = 600
    """Step from which exercises are of all degrees: copying is learnt before, choosing what to copy after."""
    opening: int = 1100
    """Steps of abstract copying and look-up documents before the first conversation."""
    ramp: int = 1200
    """Steps in which the mix moves from exercises and invented tools towards conversations with real ones."""
    few_from: int = 1950
    """Step from which exercises repeat few pieces too, and are a fifth of the documents."""
    final_from: int = 1700
    """Step from which the mix is the final one."""
    seed: int = 20
    matrix_rate: float = 0.02
    vector_rate: float = 3e-3
    micro_batch: int = 2048
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
    "cpu": Settings("cpu", 8, 192, 6, 32, 512, conversations_per_step=36, steps=8000, decay=0.4),
    "gpu": Settings(
        "gpu", 10, 256, 8, 32, 640, conversations_per_step=192, steps=8000, decay=0.4, micro_batch=65536
    ),
    "smoke": Settings(
        "smoke", 2, 64, 2, 32, 128, conversations_per_step=8, steps=4, decay=0.5, opening=2, ramp=2
    ),
}
"""Sizes by name; "smoke" only shows that everything runs."""
