"""The whole network as one native call a step, for models on a CPU.

`fuse` gathers where a model's weights lie; its forward pass then goes through `kernels/src/network.cpp`,
which computes what `model.py` says, in float32 between the weights. What the native code does not know
(LayerNorm, weights of a published per-row scheme, adapters, other devices) runs through `model.py` as before.
"""

from __future__ import annotations

import ctypes
import threading
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from chatglm3.attention import AttentionBatch, KVCache
from chatglm3.kernels import Native, choose
from chatglm3.kernels.matrix import PackedMatrix, Workspace
from chatglm3.kernels.structures import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    INT8,
    Batch,
    Cache,
    LayerWeights,
    Matrix,
    NetworkWeights,
)
from chatglm3.model import ChatGLMModel, Layer
from chatglm3.quant import QuantLinear

_FORMATS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


def fuse(model: ChatGLMModel) -> None:
    """Let `model` run natively from now on, where it can.

    The weights of its linears may change in place afterwards, as long as they are not quantized; of norms and
    biases that are not float32 there is a copy. None may be replaced; `.to()` ends it.
    """
    native = choose().native
    if native is not None and _fits(model):
        model.fused = FusedNetwork(model, native)


class FusedNetwork:
    """A model's weights as the native code sees them."""

    def __init__(self, model: ChatGLMModel, native: Native) -> None:
        config = model.config
        self._native = native
        self._workspace = Workspace(native)
        self._lock = threading.Lock()
        """Held while native code uses the workspace: two engines over one model may run in two threads."""
        self._kept: list[Tensor] = []
        """Every tensor that a pointer points into."""
        self._caches: WeakKeyDictionary[KVCache, Cache] = WeakKeyDictionary()
        layers = (LayerWeights * config.num_layers)()
        for layer, weights in zip(model.layers, layers, strict=True):
            assert isinstance(layer, Layer)
            for name in ("qkv", "attention_out", "gate_up", "down"):
                setattr(weights, name, self._matrix(getattr(layer, name)))
            weights.attention_norm = self._floats(layer.attention_norm.get_parameter("weight"))
            weights.ffn_norm = self._floats(layer.ffn_norm.get_parameter("weight"))
        self._output = self._matrix(model.output)
        self._network = NetworkWeights(
            layers=layers,
            final_norm=self._floats(model.final_norm.get_parameter("weight")) if config.final_norm else None,
            cos=self._floats(model.rotary.cos),
            sin=self._floats(model.rotary.sin),
            num_layers=config.num_layers,
            hidden=config.hidden_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            ffn=config.ffn_hidden_size,
            rotary=config.rotary_dim,
            norm_eps=config.norm_eps,
        )

    def takes(self, cache: KVCache) -> bool:
        """Whether the native code reads and writes such a cache."""
        return type(cache) is KVCache and cache.device.type == "cpu" and cache.dtype in _FORMATS

    def forward(self, embedded: Tensor, positions: Tensor, batch: AttentionBatch) -> Tensor:
        """Embeddings [N, H] to hidden states [N, H], float32, after the final norm."""
        # Its own memory: the native code works in place.
        hidden = embedded.float() if embedded.dtype != torch.float32 else embedded.clone()
        positions, tables = positions.long().contiguous(), batch.block_tables.contiguous()
        native_batch = Batch(
            positions=positions.data_ptr(),
            slots=batch.slots.data_ptr(),
            query_starts=batch.query_starts.data_ptr(),
            context_lens=batch.context_lens.data_ptr(),
            block_tables=tables.data_ptr(),
            tokens=len(hidden),
            sequences=len(batch.context_lens),
            table_stride=tables.shape[1],
        )
        with self._lock:
            done = self._native.forward(
                self._workspace.handle,
                self._network,
                self._cache(batch.cache),
                native_batch,
                torch.get_num_threads(),
                hidden.data_ptr(),
            )
        if not done:
            raise MemoryError(f"no memory is left to compute {len(hidden)} tokens")
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [M, H] -> float32 logits [M, vocab_size]."""
        hidden = hidden.float().contiguous()
        out = torch.empty(len(hidden), self._output.rows)
        with self._lock:
            done = self._native.multiply(
                self._workspace.handle,
                self._output,
                hidden.data_ptr(),
                len(hidden),
                torch.get_num_threads(),
                out.data_ptr(),
            )
        if not done:
            raise MemoryError(f"no memory is left for the logits of {len(hidden)} tokens")
        return out

    def __deepcopy__(self, memo: object) -> None:
        """A copy of the model has weights elsewhere: it starts without."""

    def _matrix(self, linear: nn.Linear | QuantLinear) -> Matrix:
        bias = None if linear.bias is None else self._floats(linear.bias)
        if isinstance(linear, QuantLinear):
            packed = linear.packed
            assert isinstance(packed, PackedMatrix)
            self._kept += [packed.weight, packed.scales]
            matrix = Matrix.from_buffer_copy(packed.matrix)
            matrix.bias = bias
            return matrix
        self._kept.append(linear.weight)
        return Matrix(
            weight=linear.weight.data_ptr(),
            bias=bias,
            rows=linear.out_features,
            columns=linear.in_features,
            format=_FORMATS[linear.weight.dtype],
        )

    def _floats(self, tensor: Tensor) -> int:
        """Where the tensor lies in float32; its own memory if it is float32 already."""
        floats = tensor.detach().float().contiguous()
        self._kept.append(floats)
        return floats.data_ptr()

    def _cache(self, cache: KVCache) -> Cache:
        known = self._caches.get(cache)
        if known is None:
            pointers = ctypes.c_void_p * len(cache.keys)
            known = self._caches[cache] = Cache(
                keys=pointers(*(keys.data_ptr() for keys in cache.keys)),
                values=pointers(*(values.data_ptr() for values in cache.values)),
                block_size=cache.block_size,
                format=INT8 if cache.int8 else _FORMATS[cache.dtype],
            )
        return known


def _fits(model: ChatGLMModel) -> bool:
    """Whether the native code computes all that this model consists of."""
    if type(model) is not ChatGLMModel:
        return False  # whose forward pass may be another
    config = model.config
    if config.norm != "rmsnorm" or config.residual_after_norm or model.device.type != "cpu":
        return False
    linears: list[nn.Module] = [model.output]
    for layer in model.layers:
        assert isinstance(layer, Layer)
        linears += [layer.qkv, layer.attention_out, layer.gate_up, layer.down]
    return all(_linear_fits(linear) for linear in linears)


def _linear_fits(linear: nn.Module) -> bool:
    if isinstance(linear, QuantLinear):
        return isinstance(linear.packed, PackedMatrix)
    return (
        type(linear) is nn.Linear and linear.weight.dtype in _FORMATS and bool(linear.weight.is_contiguous())
    )
