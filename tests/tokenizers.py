"""Tiny SentencePiece vocabularies of ChatGLM3's kind, trained on the spot; needs no torch and no model."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece

LINES = [
    "hello world, how are you today?",
    "你好，世界！今天天气怎么样？",
    "tool_call(city='Paris')",
    "1 2 3 4 5 67 890",
]


@functools.cache
def tiny_tokenizer_file(**options: Any) -> Path:
    """A tokenizer.model with 311 pieces (BPE, byte fallback)."""
    folder = Path(tempfile.mkdtemp(prefix="chatglm3-tiny-"))
    settings: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 311,
        "byte_fallback": True,
        "character_coverage": 1.0,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "hard_vocab_limit": False,
        "pad_id": -1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 4), model_prefix=str(folder / "tokenizer"), **(settings | options)
    )
    return folder / "tokenizer.model"
