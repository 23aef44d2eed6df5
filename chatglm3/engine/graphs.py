"""Decoding steps as CUDA graphs: some 300 small kernels go to the GPU in one call.

A graph repeats exactly what was captured: the same kernels on the same memory. So there is one for each of a
few batch sizes, over buffers that are allocated once; a batch in between is filled up with places that hold
no token. A graph is captured when its size is first wanted (about half a second), after two ordinary runs in
which Triton compiles its kernels and chooses their sizes (seconds to a minute the first time on a machine; it
keeps them on disk). See https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs for the rules that are
followed here.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chatglm3.attention import KVCache
from chatglm3.fused_cuda import CudaNetwork
from chatglm3.model import ChatGLMModel

_STEP = 16
"""Above this size, a size every so many: up to here a step costs about the same."""


class DecodeGraphs:
    """A decoding step for every number of sequences."""

    def __init__(self, step: Callable[[int], Tensor], most: int) -> None:
        """step: logits [size, vocab] of the first `size` places of the input buffers; most: sequences."""
        sizes = {size for size in (1, 2, 4, 8) if size < most}
        self._sizes = sorted(sizes | set(range(_STEP, most, _STEP)) | {most})
        self._step = step
        self._replays: dict[int, Callable[[], Tensor]] = {}
        self._pool: Any = None

    @staticmethod
    def wanted(model: ChatGLMModel, cache: KVCache) -> bool:
        """Whether the model's steps can be captured; `CHATGLM3_CUDA_GRAPHS=off` says that they shall not."""
        fused = model.fused if type(model) is ChatGLMModel else None
        return (
            isinstance(fused, CudaNetwork)
            and fused.takes(cache)
            and os.environ.get("CHATGLM3_CUDA_GRAPHS") != "off"
        )

    def size_for(self, sequences: int) -> int:
        """Places of the graph that computes so many sequences."""
        return self._sizes[bisect_left(self._sizes, sequences)]

    def run(self, sequences: int) -> Tensor:
        """Logits [sequences, vocab], valid until the next run. The places up to `size_for` must be filled."""
        size = self.size_for(sequences)
        if size not in self._replays:
            self._replays[size] = self._capture(size)
        return self._replays[size]()[:sequences]

    def _capture(self, size: int) -> Callable[[], Tensor]:
        # What a first run does besides its work (compiling, measuring, making handles) must not be captured.
        # It runs on a stream of its own, as the capture will. Running twice writes the same to the cache
        # twice.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step(size)
        torch.cuda.current_stream().wait_stream(stream)
        # Graphs that run one after the other can share their temporary memory.
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads, which never touch this stream, may go on meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._step(size)

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay
