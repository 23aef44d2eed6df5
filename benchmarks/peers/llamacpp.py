"""llama.cpp through the low-level interface of llama-cpp-python, as `benchmarks.peers.worker` asks for it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from chatglm3.config import ModelConfig

_BATCH = 512
"""Tokens of a prompt that one call computes, as many as in a step of ours."""


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Its progress is not wanted here."""


class LlamaCpp:
    """With its defaults; each sequence has a part of the cache of its own, as in llama-batched-bench."""

    about = f"llama-cpp-python {llama_cpp.__version__}, Q4_0, output Q6_K"

    def __init__(self, file: Path, config: ModelConfig, threads: int) -> None:
        llama_cpp.llama_log_set(_silent, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {file}")
        self._vocab, self._threads = config.vocab_size, threads
        self._context: llama_cpp.llama_context_p | None = None
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)

    def open(self, streams: int, context: int, room: int) -> None:
        if self._context:
            llama_cpp.llama_free(self._context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = streams * -(-room // 256) * 256, streams
        params.n_batch = params.n_ubatch = _BATCH
        params.n_threads = params.n_threads_batch = self._threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp makes no context of {streams} x {room} tokens")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._streams, self._length = streams, context
        if context:
            self._compute([(11 * i + 3) % self._vocab for i in range(context)])
            for row in range(1, streams):
                llama_cpp.llama_memory_seq_cp(self._memory, 0, row, -1, -1)

    def prompt(self, ids: list[int]) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)
        self._compute(ids).argmax()

    def decode(self, tokens: int) -> Iterator[None]:
        ids = list(range(self._streams))
        rows = range(self._streams)
        yield
        for position in range(self._length, self._length + tokens):
            self._decode([(token, position, row, True) for row, token in enumerate(ids)])
            ids = [int(self._logits(row).argmax()) for row in rows]
            yield
        for row in rows:
            llama_cpp.llama_memory_seq_rm(self._memory, row, self._length, -1)

    def logits(self, ids: list[int]) -> list[float]:
        return self._compute(ids).tolist()

    def _compute(self, ids: list[int]) -> NDArray[np.float32]:
        """A prompt in the first sequence; the logits of its last token, [vocab]."""
        for start in range(0, len(ids), _BATCH):
            part = ids[start : start + _BATCH]
            last = start + len(part) == len(ids)
            entries = [(token, start + i, 0, last and i == len(part) - 1) for i, token in enumerate(part)]
            self._decode(entries)
        return self._logits(-1)

    def _decode(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """entries: (token, position, sequence, whether its logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, (token, position, row, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
        result = llama_cpp.llama_decode(self._context, batch)
        if result:
            raise RuntimeError(f"llama_decode returned {result} for {len(entries)} tokens")

    def _logits(self, row: int) -> NDArray[np.float32]:
        """Of one entry of the last batch, in llama.cpp's own memory: [vocab]."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, shape=(self._vocab,))


def load(path: Path | None, config: ModelConfig, dtype: str, threads: int) -> LlamaCpp:
    """path: the file that `gguf_file` wrote."""
    if path is None:
        raise ValueError("llama.cpp needs a GGUF file")
    return LlamaCpp(path, config, threads)
