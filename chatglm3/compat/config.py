"""`AutoConfig` and `model.config`: the numbers of a network under their published names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from chatglm3.compat.folders import find_folder
from chatglm3.config import ModelConfig
from chatglm3.errors import InvalidParameterError


class ChatGLMConfig(SimpleNamespace):
    """A published config.json as attributes: `seq_length`, `num_layers`, `padded_vocab_size`, ..."""

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        trust_remote_code: bool = False,
        pre_seq_len: int | None = None,
        prefix_projection: bool = False,
        revision: str | None = None,
        token: str | None = None,
    ) -> ChatGLMConfig:
        """The configuration of a model: a folder, a hub's id, or "nano".

        pre_seq_len, prefix_projection: of a P-Tuning v2 prefix that `model.transformer.prefix_encoder` will
        be given.
        """
        config = ModelConfig.from_folder(find_folder(name, revision=revision, token=token, weights=False))
        if pre_seq_len is not None:
            config = replace(config, prefix_length=pre_seq_len, prefix_projection=prefix_projection)
        return cls.of(config)

    @classmethod
    def of(cls, config: ModelConfig) -> ChatGLMConfig:
        """Our configuration under the published names."""
        return cls(**{"pre_seq_len": None, **config.to_dict("chatglm"), "vocab_size": config.vocab_size})

    def applied_to(self, found: ModelConfig) -> ModelConfig:
        """The checkpoint's configuration with this one's prefix; nothing else may differ."""
        wanted = replace(
            found,
            prefix_length=self.pre_seq_len or 0,
            prefix_projection=getattr(self, "prefix_projection", False),
        )
        if ChatGLMConfig.of(wanted) != self:
            raise InvalidParameterError("config differs from the checkpoint's config.json; change it there")
        return wanted

    def to_dict(self) -> dict[str, Any]:
        """The keys and values."""
        return dict(vars(self))
