"""Weights, prefix and engine of one model, made when they are first needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatglm3 import loading
from chatglm3.adapters import Prefix
from chatglm3.checkpoint import load_model, load_prefix
from chatglm3.config import ModelConfig
from chatglm3.engine import Engine
from chatglm3.model import ChatGLMModel
from chatglm3.tokenizer import Tokenizer


@dataclass(frozen=True)
class Placement:
    """Where and how the weights are wanted."""

    device: torch.device
    dtype: torch.dtype
    quantize: str | None = None


class Runtime:
    """What a folder holds, brought to its placement at the first use.

    The weights go straight to the device, dtype and quantization that are wanted by then, and never exist
    twice. A change after that reads them again.
    """

    def __init__(self, folder: Path, config: ModelConfig, placement: Placement) -> None:
        self.config = config
        self.placement = placement
        self._folder = folder
        self._encoded_prefix: Prefix | None = None
        self._model: ChatGLMModel | None = None
        self._engine: Engine | None = None

    def place(self, **changes: Any) -> None:
        """Want another device, dtype or quantization."""
        wanted = replace(self.placement, **changes)
        if wanted != self.placement:
            self.placement = wanted
            self._model = self._engine = None

    def set_prefix(self, encoder: Mapping[str, Tensor]) -> None:
        """Take a P-Tuning v2 prefix from its encoder's weights instead of from the folder."""
        self._encoded_prefix = Prefix.from_encoder(encoder, self.config)
        self._engine = None

    @property
    def model(self) -> ChatGLMModel:
        """The network."""
        if self._model is None:
            wanted = self.placement
            self._model = load_model(
                self._folder,
                device=wanted.device,
                dtype=wanted.dtype,
                quantize=wanted.quantize,
                config=self.config,
            )
        return self._model

    @property
    def prefix(self) -> Prefix | None:
        """The P-Tuning v2 prefix, where there is one."""
        device, dtype = self.placement.device, self.placement.dtype
        if self._encoded_prefix is not None:
            return self._encoded_prefix.to(device, dtype)
        return load_prefix(self._folder, self.config, device=device, dtype=dtype)

    @property
    def engine(self) -> Engine:
        """The generation loop. Ids that the folder's tokenizer does not know are never generated."""
        if self._engine is None:
            file = self._folder / "tokenizer.model"
            valid_vocab = Tokenizer(file).vocab_size if file.exists() else None
            self._engine = loading.make_engine(self.model, self.prefix, valid_vocab=valid_vocab)
        return self._engine


class PrefixEncoder:
    """Where the published demos put a trained prefix: `model.transformer.prefix_encoder`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the encoder's weights. Raises CheckpointError where they are not what the config says."""
        self._runtime.set_prefix(state)
