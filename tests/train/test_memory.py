"""The estimate of activations, against what autograd keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GlmConfig

from chatglm3.config import ModelConfig
from chatglm3.train.base import TrainableGlm
from chatglm3.train.config import parse_config
from chatglm3.train.memory import training_need
from chatglm3.train.methods import prepare_model

BASE = ModelConfig(
    num_layers=4, hidden_size=256, num_heads=8, num_kv_heads=2, head_dim=32, ffn_hidden_size=856,
    vocab_size=320, max_seq_len=512,
)  # fmt: skip
TOKENS = 256


@pytest.mark.parametrize(
    "method",
    [
        {"lora": {"dropout": 0}},
        {"lora": {"dropout": 0.05}},
        {"lora": {"dropout": 0.1, "targets": ["q_proj", "k_proj", "v_proj"]}},
        {"method": "ptuning", "ptuning": {"length": 4}},
        {"method": "full"},
    ],
    ids=str,
)
def test_it_is_not_below_what_is_kept_and_not_far_above(method: dict[str, Any]) -> None:
    config = parse_config({"output": "-", "train": "-", **method})
    dtype = "float32" if config.method == "full" else "bfloat16"
    model = TrainableGlm(GlmConfig(**BASE.to_dict("glm") | {"dtype": dtype}))
    model = model.to(getattr(torch, dtype)).requires_grad_(False)
    trained = prepare_model(model, config).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in trained.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}  # the tensor is held, so that no other takes its place

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    ids = torch.randint(3, 300, (1, TOKENS))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu"):
        trained(input_ids=ids, labels=ids)
    need = training_need(BASE, config, device="cpu", dtype="bfloat16", longest=TOKENS)
    copies = BASE.num_parameters * 2 if config.method == "full" else 0
    estimate, found = need.activations + copies, sum(size for size, _ in kept.values())
    assert 0.95 * found <= estimate <= 1.5 * found
