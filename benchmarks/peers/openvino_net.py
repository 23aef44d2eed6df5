"""OpenVINO on a CPU, as `benchmarks.peers.worker` asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from chatglm3.config import ModelConfig

_BATCH = 512
"""Tokens of a prompt that one call computes, as many as in a step of ours."""


class OpenVino:
    """With its defaults for a single user; several sequences are a batch."""

    about = f"OpenVINO {ov.__version__}, int4 in groups of 128, output int8"

    def __init__(self, folder: Path, config: ModelConfig, threads: int) -> None:
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self._request = ov.Core().compile_model(folder / "model.xml", "CPU", options).create_infer_request()
        self._vocab = config.vocab_size

    def open(self, streams: int, context: int, room: int) -> None:
        """What steps add stays: OpenVINO's states cannot be cut cheaply, and a few tokens cost nothing."""
        self._request.reset_state()
        self._length, self._streams = 0, streams
        if context:
            self._compute([(11 * i + 3) % self._vocab for i in range(context)])
        if streams > 1:
            self._step(np.zeros((streams, 1), np.int64), np.zeros(streams, np.int32))

    def prompt(self, ids: list[int]) -> None:
        self._request.reset_state()
        self._length = 0
        self._compute(ids).argmax()

    def decode(self, tokens: int) -> Iterator[None]:
        ids = np.arange(self._streams)
        yield
        for _ in range(tokens):
            ids = self._step(ids[:, None], np.arange(self._streams, dtype=np.int32)).argmax(-1)
            yield

    def logits(self, ids: list[int]) -> list[float]:
        return self._compute(ids)[0].tolist()

    def _compute(self, ids: list[int]) -> NDArray[np.float32]:
        """A prompt in the only sequence; the logits of its last token, [1, vocab]."""
        for start in range(0, len(ids), _BATCH):
            logits = self._step(np.array([ids[start : start + _BATCH]]), np.zeros(1, np.int32))
        return logits

    def _step(self, ids: NDArray[np.int64], rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """ids [streams, tokens] to the logits of the last ones, [streams, vocab]."""
        positions = np.arange(self._length, self._length + ids.shape[1])
        self._request.infer({"ids": ids, "positions": positions, "rows": rows})
        self._length += ids.shape[1]
        return self._request.get_output_tensor().data


def load(path: Path | None, config: ModelConfig, dtype: str, threads: int) -> OpenVino:
    """path: the folder that `openvino_file` wrote."""
    if path is None:
        raise ValueError("OpenVINO needs a model's folder")
    return OpenVino(path, config, threads)
