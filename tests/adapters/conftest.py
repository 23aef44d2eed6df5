"""Adapters as peft writes them, over transformers' own network with random weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from chatglm3.checkpoint import load_model, save_model
from chatglm3.config import ModelConfig
from chatglm3.model import ChatGLMModel
from tests.tiny import tiny_config, tiny_model

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import GlmForCausalLM

CONFIG = tiny_config(hidden_size=64)  # peft divides it among the heads to find the width of a prefix


@dataclasses.dataclass
class Base:
    """One network as a folder in either layout, as ours, and as transformers'."""

    config: ModelConfig
    chatglm: Path
    glm: Path

    def ours(self) -> ChatGLMModel:
        return load_model(self.chatglm)

    def theirs(self) -> GlmForCausalLM:
        from transformers import GlmForCausalLM

        return GlmForCausalLM.from_pretrained(self.glm, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    model = tiny_model(CONFIG)
    save_model(model, CONFIG, folder / "chatglm")
    save_model(model, CONFIG, folder / "glm", layout="glm")
    return Base(CONFIG, folder / "chatglm", folder / "glm")


def peft_model(base: Base, config: PeftConfig, seed: int = 1) -> PeftModel:
    """With random values in everything that training would change."""
    from peft import get_peft_model

    model = get_peft_model(base.theirs(), config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(parameter + 0.2 * noise if "magnitude" in name else 0.2 * noise)
    return model


def their_logits(model: Any, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([ids])).logits[0]
    return logits


def write_settings(folder: Path, **changes: Any) -> None:
    """Change an adapter_config.json."""
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(settings | changes))
