"""transformers' `GlmForCausalLM` with our very weights, as `benchmarks.peers.worker` asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, GlmConfig, GlmForCausalLM

from chatglm3.benchmark import random_model
from chatglm3.checkpoint import NameTable
from chatglm3.config import ModelConfig
from chatglm3.model import ChatGLMModel


class Glm:
    """Eager, with PyTorch's attention; several sequences are a batch."""

    def __init__(self, model: ChatGLMModel, about: str) -> None:
        config = GlmConfig(**model.config.to_dict("glm"), attn_implementation="sdpa")
        with torch.device("meta"):
            glm = GlmForCausalLM(config)
        glm = glm.to_empty(device="cpu").to(model.dtype).eval()
        table = NameTable(model.config, "glm")
        state = dict(part for own, tensor in model.state_dict().items() for part in table.split(own, tensor))
        glm.load_state_dict(state, strict=False)
        glm.model.rotary_emb = type(glm.model.rotary_emb)(config)  # its frequencies are no weights
        self.glm = glm
        self.about = f"transformers {transformers.__version__}, {about}, PyTorch {torch.__version__}"

    def open(self, streams: int, context: int, room: int) -> None:
        self._cache, self._context = DynamicCache(), context
        if context:
            self._next(torch.arange(context)[None] % self.glm.config.vocab_size)
            self._cache.batch_repeat_interleave(streams)
        self._streams = streams

    def prompt(self, ids: list[int]) -> None:
        self._cache = DynamicCache()
        self._next(torch.tensor([ids]))

    def decode(self, tokens: int) -> Iterator[None]:
        ids = torch.arange(self._streams)[:, None]
        yield
        for _ in range(tokens):
            ids = self._next(ids)
            yield
        self._cache.crop(-tokens)

    def logits(self, ids: list[int]) -> list[float]:
        values: list[float] = self._step(torch.tensor([ids]))[0].float().tolist()
        return values

    def _next(self, ids: Tensor) -> Tensor:
        """ids [streams, tokens] to the next of each, [streams, 1]."""
        return self._step(ids).argmax(-1, keepdim=True)

    @torch.inference_mode()
    def _step(self, ids: Tensor) -> Tensor:
        logits = self.glm(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1]


def load(path: Path | None, config: ModelConfig, dtype: str, threads: int) -> Glm:
    """Random weights in `dtype`, the same as ours."""
    torch.set_num_threads(threads)
    return Glm(random_model(config, dtype=getattr(torch, dtype)), dtype)
