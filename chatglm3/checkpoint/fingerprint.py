"""Which base model an adapter was trained on, told by the weights themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from chatglm3.checkpoint.load import Checkpoint
from chatglm3.config import ModelConfig


def base_fingerprint(folder: str | Path) -> str:
    """SHA-256 over the network's shape and the first row of every weight, in hexadecimal.

    The ChatGLM and the Glm layout of the same weights, in any number of files, have the same fingerprint; a
    quantized, a merged or a further trained copy has another one. Reads a few kilobytes of each tensor.
    Raises ConfigError and CheckpointError where the folder is no whole checkpoint.
    """
    config = ModelConfig.from_folder(folder)
    digest = hashlib.sha256()
    for name, row in Checkpoint(folder, config).first_rows():
        digest.update(f"{name} {tuple(row.shape)} ".encode())
        digest.update(row.to(torch.float32).contiguous().numpy().tobytes())
    digest.update(f"{config.rope_theta} {config.norm_eps}".encode())
    return digest.hexdigest()
