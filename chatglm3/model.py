"""The ChatGLM3 network, forward only, on packed tokens of several sequences.

A decoder-only transformer: pre-norm RMSNorm (arXiv:1910.07467), grouped-query attention (arXiv:2305.13245)
with a rotary embedding on the first half of each head (arXiv:2104.09864), SwiGLU feed-forward
(arXiv:2002.05202), and an output layer of its own. The numbers come from `ModelConfig`; the names under which
published checkpoints hold these weights are in `chatglm3/checkpoint/names.py`.

Shapes: N packed tokens, H hidden_size, `heads` query heads, `kv` key/value heads, `d` head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatglm3.attention import AttentionBatch, KVCache, attend
from chatglm3.config import ModelConfig
from chatglm3.lora import LoraBatch


class Fused(Protocol):
    """Another way to compute the same, over the same weights: `chatglm3/fused.py` has it for CPUs."""

    def takes(self, cache: KVCache) -> bool:
        """Whether it can run over this cache."""

    def forward(self, embedded: Tensor, positions: Tensor, batch: AttentionBatch) -> Tensor:
        """Embeddings [N, H] to hidden states [N, H], float32, after the final norm."""

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [M, H] -> float32 logits [M, vocab_size]."""


class ChatGLMModel(nn.Module):
    """Tokens to hidden states, and hidden states to logits. Forward only: no parameter requires a gradient.

    The linear layers are plain attributes of each layer, so a quantized module can take their place.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # Not nn.Embedding(...): drawing its initial values on the meta device imports torch._dynamo, 1.3 s.
        self.embedding = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.hidden_size))
        self.rotary = Rotary(config)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
        self.final_norm = _norm(config) if config.final_norm else nn.Identity()
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.fused: Fused | None = None
        """All layers in one native call, where `chatglm3.fused.fuse` found that they can be."""
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where tokens and positions are expected."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of activations, and so of the cache; weights can be quantized."""
        return next(self.parameters()).dtype

    def forward(
        self, tokens: Tensor, positions: Tensor, batch: AttentionBatch, lora: LoraBatch | None = None
    ) -> Tensor:
        """Hidden states [N, H] after the final norm; keys and values of the tokens stay in the batch's cache.

        tokens, positions: [N] int64, with 0 <= tokens < vocab_size and 0 <= positions < max_seq_len. The
        caller checks both where they enter: a check here would make a GPU wait in every step.
        lora: adapters of some of the tokens.
        """
        hidden = self.embedding(tokens)  # [N, H]
        if self.fused is not None and lora is None and self.fused.takes(batch.cache):
            return self.fused.forward(hidden, positions, batch)
        cos, sin = self.rotary(positions)
        for layer in self.layers:
            hidden = layer(hidden, cos, sin, batch, lora)
        return self.final_norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [M, H] -> float32 logits [M, vocab_size]. Pass only the rows that are wanted."""
        if self.fused is not None:
            return self.fused.logits(hidden)
        return self.output(hidden).float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ChatGLMModel:
        self.fused = None  # the weights are about to move
        super()._apply(fn, recurse)
        return self


class Layer(nn.Module):
    """One transformer block: attention, then the feed-forward network, each added to its input."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        hidden, ffn, bias = config.hidden_size, config.ffn_hidden_size, config.linear_bias
        self.index = index
        self.heads = config.num_heads
        self.kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        self.residual_after_norm = config.residual_after_norm
        self.attention_norm = _norm(config)
        self.qkv = nn.Linear(hidden, config.query_size + 2 * config.kv_size, bias=config.qkv_bias)
        self.attention_out = nn.Linear(config.query_size, hidden, bias=bias)
        self.ffn_norm = _norm(config)
        self.gate_up = nn.Linear(hidden, 2 * ffn, bias=bias)
        self.down = nn.Linear(ffn, hidden, bias=bias)

    def forward(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, batch: AttentionBatch, lora: LoraBatch | None
    ) -> Tensor:
        """hidden: [N, H]; cos, sin: [N, 1, d // 2] -> [N, H]."""
        normed = self.attention_norm(hidden)
        residual = normed if self.residual_after_norm else hidden
        hidden = residual + self.attention(normed, cos, sin, batch, lora)
        normed = self.ffn_norm(hidden)
        residual = normed if self.residual_after_norm else hidden
        return residual + self.feed_forward(normed, lora)

    def attention(
        self, normed: Tensor, cos: Tensor, sin: Tensor, batch: AttentionBatch, lora: LoraBatch | None
    ) -> Tensor:
        """normed: [N, H] -> [N, H]."""
        qkv = self._linear("qkv", normed, lora).unflatten(1, (-1, self.head_dim))  # [N, heads + 2 kv, d]
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
        q, k = rotate(qk, cos, sin).split((self.heads, self.kv_heads), dim=1)
        return self._linear("attention_out", attend(self.index, q, k, v, batch).flatten(1), lora)

    def feed_forward(self, normed: Tensor, lora: LoraBatch | None) -> Tensor:
        """normed: [N, H] -> [N, H]."""
        gate, up = self._linear("gate_up", normed, lora).chunk(2, dim=-1)  # [N, ffn] each
        return self._linear("down", F.silu(gate) * up, lora)

    def _linear(self, name: str, x: Tensor, lora: LoraBatch | None) -> Tensor:
        """One of the four linears, with what adapters add to it."""
        y: Tensor = getattr(self, name)(x)
        return y if lora is None else lora.add(self.index, name, x, y)


class Rotary(nn.Module):
    """Cosines and sines of every position up to max_seq_len, computed once and kept in float32.

    Pair i of the rotated half turns by position * rope_theta^(-2i / rotary_dim).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.fill(torch.device("cpu"))

    def fill(self, device: torch.device) -> None:
        """Compute the tables [max_seq_len, 1, d // 2] on `device`, whatever the default device is."""
        dim = self.config.rotary_dim
        # In float32 step by step, as the published code does: at position 30000 other roundings would show.
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim
        frequencies = 1.0 / self.config.rope_theta**exponents  # [d // 4]
        positions = torch.arange(self.config.max_seq_len, dtype=torch.float32, device="cpu")
        angles = torch.outer(positions, frequencies)[:, None]  # [max_seq_len, 1, d // 4]
        cos, sin = angles.cos(), angles.sin()
        # A pair (a, b) becomes (a cos - b sin, b cos + a sin) = (a, b) * (cos, cos) + (b, a) * (-sin, sin).
        self.register_buffer("cos", torch.stack((cos, cos), dim=-1).flatten(-2).to(device), persistent=False)
        self.register_buffer("sin", torch.stack((-sin, sin), dim=-1).flatten(-2).to(device), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions: [N] -> cos, sin of each: [N, 1, d // 2]."""
        return self.cos.index_select(0, positions), self.sin.index_select(0, positions)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        # `.half()` and `.to(bfloat16)` move the weights to fewer bits; angles must keep theirs.
        super()._apply(fn, recurse)
        if self.cos.dtype != torch.float32:
            self.fill(self.cos.device)
        return self


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first half of each head, in place, in adjacent pairs (RoFormer, arXiv:2104.09864).

    x: [N, heads, d]; cos, sin: [N, 1, d // 2] as `Rotary` gives them. The second half passes through.
    """
    half = x[..., : cos.shape[-1]]
    pairs = half.float()
    swapped = pairs.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    half.copy_(torch.addcmul(pairs * cos, swapped, sin))
    return x


def _norm(config: ModelConfig) -> nn.Module:
    norm = nn.RMSNorm if config.norm == "rmsnorm" else nn.LayerNorm
    return norm(config.hidden_size, eps=config.norm_eps)
