"""LoRA folders with random updates, written by hand: what peft is not needed for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from chatglm3.config import Layout, ModelConfig


def module_shapes(config: ModelConfig, layout: Layout) -> dict[str, tuple[int, int]]:
    """(rows, columns) of every linear of the layers, by its name in the layout."""
    hidden, ffn = config.hidden_size, config.ffn_hidden_size
    queries, keys = config.query_size, config.kv_size
    shapes = {
        "glm": {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_up_proj": (2 * ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
        },
        "chatglm": {
            "self_attention.query_key_value": (queries + 2 * keys, hidden),
            "self_attention.dense": (hidden, queries),
            "mlp.dense_h_to_4h": (2 * ffn, hidden),
            "mlp.dense_4h_to_h": (hidden, ffn),
        },
    }[layout]
    stem = {"glm": "model.layers", "chatglm": "transformer.encoder.layers"}[layout]
    return {f"{stem}.{i}.{name}": shape for i in range(config.num_layers) for name, shape in shapes.items()}


def lora_tensors(
    config: ModelConfig, layout: Layout = "glm", rank: int = 4, seed: int = 1
) -> dict[str, Tensor]:
    """lora_A and lora_B of every linear, by peft's names."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (rows, columns) in module_shapes(config, layout).items():
        for part, shape in (("lora_A", (rank, columns)), ("lora_B", (rows, rank))):
            name = f"base_model.model.{module}.{part}.weight"
            tensors[name] = 0.2 * torch.randn(shape, generator=generator)
    return tensors


def write_lora(
    folder: Path, tensors: dict[str, Tensor], *, rank: int = 4, alpha: float = 8, **settings: Any
) -> Path:
    """A folder as peft writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    written = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def random_lora(folder: Path, config: ModelConfig, layout: Layout = "glm", seed: int = 1) -> Path:
    """The folder of an adapter with updates of every linear."""
    return write_lora(folder, lora_tensors(config, layout, seed=seed))
