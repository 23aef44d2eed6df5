"""Our engine, as `benchmarks.peers.worker` asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from chatglm3 import __version__
from chatglm3.attention import AttentionBatch, KVCache
from chatglm3.benchmark import random_model
from chatglm3.checkpoint import load_model
from chatglm3.config import ModelConfig
from chatglm3.engine import GREEDY, Engine
from chatglm3.loading import make_engine
from chatglm3.model import ChatGLMModel


class Ours:
    """The engine with several sequences, greedy, without speculation."""

    engine: Engine

    def __init__(self, model: ChatGLMModel, about: str) -> None:
        self.model = model
        self.about = f"chatglm3 {__version__}, {about}, PyTorch {torch.__version__}"

    def open(self, streams: int, context: int, room: int) -> None:
        """The prompts are alike but for their last tokens, and so each is computed once."""
        per_token = KVCache.bytes_per_token(self.model.config, self.model.dtype)
        cache_bytes = per_token * streams * (room + 32)  # a last block each, and one to copy from
        self.engine = make_engine(self.model, cache_bytes=cache_bytes, speculate=0)
        vocab = self.model.config.vocab_size
        shared = [(11 * i + 3) % vocab for i in range(context - 1)]
        self._prompts = [[*shared, row % vocab] for row in range(streams)]
        if context:
            self.engine.generate(self._prompts[:1], GREEDY.replace(max_tokens=0))

    def prompt(self, ids: list[int]) -> None:
        self.engine.generate([ids], GREEDY.replace(max_tokens=1))

    def decode(self, tokens: int) -> Iterator[None]:
        started = self.engine.stats.generated_tokens + len(self._prompts)
        for prompt in self._prompts:
            self.engine.submit(prompt, GREEDY.replace(max_tokens=tokens + 1))
        while self.engine.stats.generated_tokens < started:
            self.engine.step()
        yield
        while self.engine.has_work:
            self.engine.step()
            yield

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> list[float]:
        cache = KVCache(self.model.config, num_blocks=-(-len(ids) // 16), dtype=self.model.dtype)
        batch = AttentionBatch.build(cache, [len(ids)], [len(ids)], [list(range(cache.num_blocks))])
        hidden = self.model(torch.tensor(ids), torch.arange(len(ids)), batch)
        values: list[float] = self.model.logits(hidden[-1:])[0].tolist()
        return values


def load(path: Path | None, config: ModelConfig, dtype: str, threads: int) -> Ours:
    """path: a folder of `our_file`; None: random weights in `dtype`."""
    torch.set_num_threads(threads)
    if path is None:
        return Ours(random_model(config, dtype=getattr(torch, dtype)), dtype)
    config = replace(ModelConfig.from_folder(path), max_seq_len=config.max_seq_len)
    return Ours(load_model(path, dtype=torch.bfloat16, config=config), "int4 in groups of 32, output int8")
