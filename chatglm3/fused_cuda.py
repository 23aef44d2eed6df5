"""The network on CUDA: the linears of the model, and Triton kernels for all that lies between them.

`fuse` puts it in the place of the layers' own forward pass (`chatglm3/model.py` says what is computed); what
it does not know (LayerNorm, adapters, other devices) runs through `model.py` as before. It asks the GPU for
nothing back, so a step can be captured as a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chatglm3.attention import AttentionBatch, KVCache
from chatglm3.kernels.triton import available, fits
from chatglm3.model import ChatGLMModel, Layer


def fuse(model: ChatGLMModel) -> None:
    """Let `model` run through Triton's kernels from now on, where it can; `.to()` ends it."""
    if type(model) is ChatGLMModel and available(model.device) and _fits(model):
        model.fused = CudaNetwork(model)


class CudaNetwork:
    """A model's forward pass in ten kernels a layer."""

    def __init__(self, model: ChatGLMModel) -> None:
        from chatglm3.kernels.triton import attention, elementwise

        self._model = model
        self._attend = attention.attend
        self._kernels = elementwise

    def takes(self, cache: KVCache) -> bool:
        """Whether the kernels read and write such a cache."""
        model = self._model
        return not cache.int8 and cache.device == model.device and cache.dtype == model.dtype

    def forward(self, embedded: Tensor, positions: Tensor, batch: AttentionBatch) -> Tensor:
        """Embeddings [N, H], which are overwritten, to hidden states [N, H] as `ChatGLMModel.forward`.

        A slot below 0 is not written, and a sequence with a context of 0 sees nothing: so a batch can be
        filled up to a size for which there is a CUDA graph.
        """
        with torch.cuda.device_of(embedded):
            return self._forward(embedded, positions, batch)

    def _forward(self, embedded: Tensor, positions: Tensor, batch: AttentionBatch) -> Tensor:
        model, cache, kernels = self._model, batch.cache, self._kernels
        eps, head_dim = model.config.norm_eps, model.config.head_dim
        hidden, update = embedded, None
        for index, layer in enumerate(model.layers):
            assert isinstance(layer, Layer)
            normed = kernels.add_rms_norm(hidden, update, layer.attention_norm.weight, eps)
            q = kernels.rotate_and_store(
                layer.qkv(normed).unflatten(1, (-1, head_dim)),
                positions,
                cos=model.rotary.cos,
                sin=model.rotary.sin,
                slots=batch.slots,
                keys=cache.slot_keys[index],
                values=cache.slot_values[index],
            )
            mixed = self._attend(
                q,
                cache.keys[index],
                cache.values[index],
                query_starts=batch.query_starts,
                context_lens=batch.context_lens,
                block_tables=batch.block_tables,
            )
            update = layer.attention_out(mixed.flatten(1))
            normed = kernels.add_rms_norm(hidden, update, layer.ffn_norm.weight, eps)
            update = layer.down(kernels.swiglu(layer.gate_up(normed)))
        if not model.config.final_norm:
            return hidden if update is None else hidden + update
        return kernels.add_rms_norm(hidden, update, model.final_norm.weight, eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [M, H] -> float32 logits [M, vocab_size]."""
        return self._model.output(hidden).float()

    def __deepcopy__(self, memo: object) -> None:
        """A copy of the model has weights elsewhere: it starts without."""


def _fits(model: ChatGLMModel) -> bool:
    """Whether the kernels compute all that this model consists of."""
    config = model.config
    return (
        config.norm == "rmsnorm"
        and not config.residual_after_norm
        and model.dtype in (torch.bfloat16, torch.float16)
        and fits(config.head_dim)
    )
