"""The numbers that define a network, read from a published `config.json`.

Two layouts are in use. The *ChatGLM* layout is the one of the original repositories (`num_layers`,
`padded_vocab_size`, `rope_ratio`, ...). The *Glm* layout is the one of transformers' native
`GlmForCausalLM` (`num_hidden_layers`, `vocab_size`, `rope_theta`, ...), which the training and export
tools of the field take. Both lead to the same `ModelConfig`, and `ModelConfig` writes both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chatglm3.errors import ConfigError

ROPE_BASE = 10000.0
"""Rotary base of ChatGLM3-6B; `rope_ratio` multiplies it."""

Layout = Literal["chatglm", "glm"]


@dataclass(frozen=True)
class ModelConfig:
    """Shape and options of one ChatGLM3-architecture network."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    """Heads of K and V ("multi-query groups"); each serves num_heads // num_kv_heads query heads."""
    head_dim: int
    ffn_hidden_size: int
    """Width of one SwiGLU half; `gate_up` has twice as many rows."""
    vocab_size: int
    """Rows of the embedding and the output layer (the padded vocabulary)."""
    max_seq_len: int
    """Tokens of context the model was trained for."""
    rope_theta: float = ROPE_BASE
    norm_eps: float = 1e-5
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    final_norm: bool = True
    residual_after_norm: bool = False
    """Take the residual after the norm instead of before it (no published checkpoint does)."""
    qkv_bias: bool = True
    qkv_per_head: bool = False
    """The ChatGLM layout stores the rows of q, k, v head by head (no multi-query attention), not one after
    another. Only names and files are concerned (chatglm3/checkpoint): the network has one order."""
    linear_bias: bool = False
    """Bias on the attention output and both feed-forward projections."""
    eos_token_ids: tuple[int, ...] = (2,)
    pad_token_id: int = 0
    dtype: str = "float16"
    """Dtype of the stored weights, as torch spells it."""
    quantization_bit: int | None = None
    """4 or 8 where the checkpoint is in the *published* per-row quantized layout."""
    quantization: Mapping[str, Any] | None = None
    """Where the checkpoint is in our group-wise quantized layout: `{"scheme": "int4", ...}`."""
    prefix_length: int = 0
    """P-Tuning v2: number of learnt key/value positions before the first token (`pre_seq_len`)."""
    prefix_projection: bool = False

    def __post_init__(self) -> None:
        sizes = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "ffn_hidden_size",
                 "vocab_size", "max_seq_len")  # fmt: skip
        for name in sizes:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"config: {name} is {value!r}, but must be a positive integer")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"config: {self.num_heads} attention heads cannot share {self.num_kv_heads} key/value heads "
                "evenly"
            )
        if self.head_dim % 4:
            raise ConfigError(f"config: head_dim is {self.head_dim}; rotary pairs need a multiple of 4")
        if self.qkv_per_head and self.num_kv_heads != self.num_heads:
            raise ConfigError(
                "config: q, k, v stored head by head need as many key/value heads as query heads"
            )
        if self.quantization_bit not in (None, 4, 8):
            raise ConfigError(
                f"config: quantization_bit is {self.quantization_bit}; published layouts have 4 or 8"
            )
        if not isinstance(self.prefix_length, int) or self.prefix_length < 0:
            raise ConfigError(f"config: pre_seq_len is {self.prefix_length!r}; it is a number of tokens")

    @property
    def rotary_dim(self) -> int:
        """Dimensions of each head that are rotated: the first half."""
        return self.head_dim // 2

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or all value) heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that the cache holds for each token, over all layers, K and V."""
        return self.num_layers * 2 * self.kv_size

    @property
    def num_parameters(self) -> int:
        """Weights of the network, biases and norms included, a P-Tuning prefix not."""
        hidden, ffn = self.hidden_size, self.ffn_hidden_size
        norm = hidden * (1 if self.norm == "rmsnorm" else 2)
        qkv_rows = self.query_size + 2 * self.kv_size
        linears = hidden * (qkv_rows + self.query_size + 3 * ffn)
        biases = qkv_rows * self.qkv_bias + (hidden + 2 * ffn + hidden) * self.linear_bias
        embeddings = 2 * self.vocab_size * hidden
        return embeddings + self.num_layers * (linears + biases + 2 * norm) + norm * self.final_norm

    @classmethod
    def from_folder(cls, folder: str | Path) -> ModelConfig:
        """Read `config.json` of a checkpoint folder. Raises ConfigError with the file's name."""
        path = Path(folder) / "config.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path} does not exist; a checkpoint folder needs its config.json") from None
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path} is not valid JSON ({error}); download it again") from None
        try:
            return cls.from_dict(data)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, data: Any) -> ModelConfig:
        """Read either published layout from the parsed JSON."""
        if not isinstance(data, dict):
            raise ConfigError(f"config: expected a JSON object, found {type(data).__name__}")
        model_type = data.get("model_type")
        if model_type == "chatglm":
            return cls._from_chatglm(data)
        if model_type == "glm":
            return cls._from_glm(data)
        raise ConfigError(
            f"config: model_type is {model_type!r}, but this package runs 'chatglm' (the original layout) "
            "and 'glm' (transformers' native layout); was another model's folder given?"
        )

    @classmethod
    def _from_chatglm(cls, data: dict[str, Any]) -> ModelConfig:
        if "add_bias_linear" not in data and "position_encoding_2d" in data:
            raise ConfigError("config: this is ChatGLM-6B (the first generation), a different network")
        heads = _size(data, "num_attention_heads")
        hidden = _size(data, "hidden_size")
        # Without multi-query attention every query head has a key/value head of its own.
        multi_query = data.get("multi_query_attention", False)
        kv_heads = data.get("multi_query_group_num", 1) if multi_query else heads
        return cls(
            num_layers=_size(data, "num_layers"),
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=_size(data, "kv_channels") if "kv_channels" in data else hidden // heads,
            ffn_hidden_size=_size(data, "ffn_hidden_size"),
            vocab_size=_size(data, "padded_vocab_size"),
            max_seq_len=_size(data, "seq_length"),
            rope_theta=ROPE_BASE * _number(data, "rope_ratio", 1),
            norm_eps=_number(data, "layernorm_epsilon", 1e-5),
            norm="rmsnorm" if data.get("rmsnorm", True) else "layernorm",
            final_norm=data.get("post_layer_norm", True),
            residual_after_norm=data.get("apply_residual_connection_post_layernorm", False),
            qkv_bias=data.get("add_qkv_bias", False) or data.get("add_bias_linear", False),
            qkv_per_head=not multi_query,
            linear_bias=data.get("add_bias_linear", False),
            quantization_bit=data.get("quantization_bit") or None,
            prefix_length=data.get("pre_seq_len") or 0,
            prefix_projection=bool(data.get("prefix_projection", False)),
            **_common(data),
        )

    @classmethod
    def _from_glm(cls, data: dict[str, Any]) -> ModelConfig:
        heads = _size(data, "num_attention_heads")
        hidden = _size(data, "hidden_size")
        rope = data.get("rope_parameters") or {}  # transformers 5 nests what version 4 kept at the top
        rotary = rope.get("partial_rotary_factor", data.get("partial_rotary_factor", 0.5))
        if rotary != 0.5:
            raise ConfigError(
                f"config: partial_rotary_factor is {rotary}; this architecture rotates half of each head"
            )
        if rope.get("rope_type", "default") != "default":
            raise ConfigError(f"config: rope_type is {rope['rope_type']!r}; this architecture has 'default'")
        if data.get("tie_word_embeddings"):
            raise ConfigError("config: tie_word_embeddings is true; ChatGLM3 has a separate output layer")
        if data.get("hidden_act", "silu") != "silu":
            raise ConfigError(f"config: hidden_act is {data['hidden_act']!r}; this architecture has 'silu'")
        return cls(
            num_layers=_size(data, "num_hidden_layers"),
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=data.get("num_key_value_heads") or heads,
            head_dim=data.get("head_dim") or hidden // heads,
            ffn_hidden_size=_size(data, "intermediate_size"),
            vocab_size=_size(data, "vocab_size"),
            max_seq_len=_size(data, "max_position_embeddings"),
            rope_theta=_number({**data, **rope}, "rope_theta", ROPE_BASE),
            norm_eps=_number(data, "rms_norm_eps", 1e-5),
            qkv_bias=data.get("attention_bias", True),
            **_common(data),
        )

    def to_dict(self, layout: Layout = "chatglm") -> dict[str, Any]:
        """The `config.json` of this network in either layout. Raises ConfigError for options Glm lacks."""
        return self._to_chatglm() if layout == "chatglm" else self._to_glm()

    def _to_chatglm(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "model_type": "chatglm",
            "architectures": ["ChatGLMModel"],
            "add_bias_linear": self.linear_bias,
            "add_qkv_bias": self.qkv_bias,
            "apply_query_key_layer_scaling": True,
            "apply_residual_connection_post_layernorm": self.residual_after_norm,
            "attention_dropout": 0.0,
            "attention_softmax_in_fp32": True,
            "ffn_hidden_size": self.ffn_hidden_size,
            "fp32_residual_connection": False,
            "hidden_dropout": 0.0,
            "hidden_size": self.hidden_size,
            "kv_channels": self.head_dim,
            "layernorm_epsilon": self.norm_eps,
            "multi_query_attention": not self.qkv_per_head,
            "multi_query_group_num": self.num_kv_heads,
            "num_attention_heads": self.num_heads,
            "num_layers": self.num_layers,
            "original_rope": True,
            "padded_vocab_size": self.vocab_size,
            "post_layer_norm": self.final_norm,
            "rmsnorm": self.norm == "rmsnorm",
            "seq_length": self.max_seq_len,
        }
        ratio = self.rope_theta / ROPE_BASE
        if ratio != 1:
            data["rope_ratio"] = int(ratio) if ratio == int(ratio) else ratio
        if self.quantization_bit:
            data["quantization_bit"] = self.quantization_bit
        if self.prefix_length:
            data |= {"pre_seq_len": self.prefix_length, "prefix_projection": self.prefix_projection}
        return data | self._common_dict()

    def _to_glm(self) -> dict[str, Any]:
        if self.norm != "rmsnorm" or self.linear_bias or self.residual_after_norm or not self.final_norm:
            raise ConfigError("config: the Glm layout has RMSNorm, a final norm and bias on q, k, v only")
        if self.prefix_length or self.quantization_bit or self.quantization:
            raise ConfigError("config: the Glm layout holds neither a P-Tuning prefix nor quantized weights")
        return {
            "model_type": "glm",
            "architectures": ["GlmForCausalLM"],
            "attention_bias": self.qkv_bias,
            "attention_dropout": 0.0,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.ffn_hidden_size,
            "max_position_embeddings": self.max_seq_len,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": self.norm_eps,
            "vocab_size": self.vocab_size,
            # Both spellings: transformers 5 reads the nested one, version 4 and other readers the flat ones.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": self.rope_theta,
                "partial_rotary_factor": 0.5,
            },
            "rope_theta": self.rope_theta,
            "partial_rotary_factor": 0.5,
        } | self._common_dict()

    def _common_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "eos_token_id": self.eos_token_ids[0]
            if len(self.eos_token_ids) == 1
            else list(self.eos_token_ids),
            "pad_token_id": self.pad_token_id,
            "tie_word_embeddings": False,
            "torch_dtype": self.dtype,
            "use_cache": True,
        }
        if self.quantization:
            data["quantization_config"] = {"quant_method": "chatglm3", **self.quantization}
        return data


def _size(data: dict[str, Any], key: str) -> int:
    if key not in data:
        raise ConfigError(
            f"config: {key!r} is missing; this is not a complete config.json of this architecture"
        )
    value = data[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"config: {key} is {value!r}, but must be a positive integer")
    return value


def _number(data: dict[str, Any], key: str, default: float) -> float:
    value = data.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ConfigError(f"config: {key} is {value!r}, but must be a positive number")
    return float(value)


def _common(data: dict[str, Any]) -> dict[str, Any]:
    """The keys that both layouts spell alike."""
    eos = data.get("eos_token_id")
    if eos is None:
        eos = 2
    found: dict[str, Any] = {
        "eos_token_ids": tuple(eos) if isinstance(eos, list) else (eos,),
        "pad_token_id": data.get("pad_token_id") or 0,
        "dtype": str(data.get("dtype") or data.get("torch_dtype") or "float16").removeprefix("torch."),
    }
    quantization = data.get("quantization_config")
    if quantization:
        if quantization.get("quant_method") != "chatglm3":
            raise ConfigError(
                f"config: weights quantized by {quantization.get('quant_method')!r} cannot be read; take the "
                "original weights and quantize them with `chatglm3 quantize`"
            )
        found["quantization"] = {k: v for k, v in quantization.items() if k != "quant_method"}
    return found
