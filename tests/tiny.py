"""Tiny networks and tokenizers with random weights: fast, and needing nothing from outside."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece
import torch

from chatglm3.checkpoint import save_model
from chatglm3.config import ModelConfig
from chatglm3.model import ChatGLMModel
from chatglm3.tokenizer import Tokenizer


def tiny_config(**overrides: Any) -> ModelConfig:
    """A two-layer network of the real architecture; every size differs from every other."""
    sizes: dict[str, Any] = {
        "num_layers": 2,
        "hidden_size": 48,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "ffn_hidden_size": 80,
        "vocab_size": 320,
        "max_seq_len": 512,
        "dtype": "float32",
    }
    return ModelConfig(**(sizes | overrides))


def tiny_model(
    config: ModelConfig | None = None, seed: int = 0, dtype: torch.dtype = torch.float32
) -> ChatGLMModel:
    """Random weights, large enough that logits differ clearly from token to token."""
    model = ChatGLMModel(config or tiny_config())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name and name.endswith("weight") else 0.2 * noise)
    return model.to(dtype).eval()


def tiny_tokenizer() -> Tokenizer:
    """A SentencePiece vocabulary of ChatGLM3's kind (BPE, byte fallback), trained on a few sentences."""
    return Tokenizer(tiny_tokenizer_path())


@functools.cache
def tiny_tokenizer_path() -> Path:
    """The tokenizer.model file of tiny_tokenizer()."""
    lines = [
        "hello world, how are you today?",
        "你好，世界！今天天气怎么样？",
        "tool_call(city='Paris')",
        "1 2 3 4 5 67 890",
    ]
    folder = Path(tempfile.mkdtemp(prefix="chatglm3-tiny-"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 4),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=311,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        pad_id=-1,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def write_tiny_checkpoint(folder: Path, **overrides: Any) -> Path:
    """A whole model folder in the published layout: config.json, weights and a tokenizer that fits them."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tiny_config(vocab_size=tokenizer.vocab_size + 5, **overrides))
    save_model(model, model.config, folder)
    shutil.copy(tiny_tokenizer_path(), folder / "tokenizer.model")
    return folder
