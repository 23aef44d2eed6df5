"""The P-Tuning v2 prefix of a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

import torch

from chatglm3.checkpoint.load import stored_dtype
from chatglm3.checkpoint.names import PREFIX_ENCODER
from chatglm3.checkpoint.read import stored_tensors
from chatglm3.config import ModelConfig
from chatglm3.errors import CheckpointError
from chatglm3.prefix import Prefix


def load_prefix(
    folder: str | Path,
    config: ModelConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Prefix | None:
    """The prefix in `folder`, alone or beside a whole model; None where the config has no `pre_seq_len`.

    config: instead of the folder's config.json. dtype: the stored one where None. Raises ConfigError and
    CheckpointError where the config asks for a prefix that is missing, damaged or of another network.
    """
    config = config or ModelConfig.from_folder(folder)
    if not config.prefix_length:
        return None
    encoder = {
        name.removeprefix(PREFIX_ENCODER): stored.read()
        for name, stored in stored_tensors(Path(folder)).items()
        if name.startswith(PREFIX_ENCODER)
    }
    if not encoder:
        raise CheckpointError(
            f"{folder}: config.json has pre_seq_len {config.prefix_length}, but no {PREFIX_ENCODER}* is in "
            "the weights; take the folder that P-Tuning wrote, or remove pre_seq_len"
        )
    try:
        return Prefix.from_encoder(encoder, config).to(device, dtype or stored_dtype(config))
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
