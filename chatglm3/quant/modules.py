"""Modules that hold a quantized weight in place of `nn.Linear` and `nn.Embedding`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from chatglm3.quant.kernels import PackedWeight, pack, reference_matmul
from chatglm3.quant.scheme import PlainTensors, Scheme


class QuantizedWeight(nn.Module):
    """A weight [rows, columns] held as the plain tensors of a scheme, or packed for a kernel.

    The plain tensors are buffers, named as the scheme names them (`qweight`, `scales`); that is what
    `state_dict` holds, before and after packing. `.to(dtype)` changes the dtype of activations only, never
    that of scales.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        scheme: Scheme,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.rows = rows
        self.columns = columns
        self.scheme = scheme
        self.dtype = dtype
        """Dtype of activations."""
        self._packed: PackedWeight | None = None
        for name, (shape, kind) in scheme.layout(rows, columns, dtype).items():
            self.register_buffer(name, torch.empty(shape, dtype=kind, device=device))

    def quantize_(self, weight: Tensor) -> None:
        """Take over weight [rows, columns], on its device. Raises CheckpointError on inf and nan."""
        if weight.shape != (self.rows, self.columns):
            raise ValueError(f"a weight {tuple(weight.shape)} was given for [{self.rows}, {self.columns}]")
        self._packed = None
        self._buffers.update(self.scheme.quantize(weight))

    def plain(self) -> PlainTensors:
        """The tensors of the plain layout; exact whether packed or not."""
        if self._packed is not None:
            return self._packed.unpack()
        return {name: tensor for name, tensor in self._buffers.items() if tensor is not None}

    def dequantize(self) -> Tensor:
        """The whole weight [rows, columns] in the scheme's own dtype."""
        return self.scheme.dequantize(self.plain(), self.columns)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: tensor for name, tensor in self.plain().items()})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move to another device or activation dtype; scales keep theirs, for they belong to the codes."""
        plain, was_packed = self.plain(), self._packed is not None
        self._packed = None
        self._buffers.update(dict.fromkeys(plain))
        super()._apply(fn, recurse)
        probe = fn(torch.empty(0, dtype=self.dtype, device=plain["qweight"].device))
        self.dtype = probe.dtype
        for name, tensor in plain.items():
            # From meta there is nothing to copy: `to_empty` asks for memory only. (`empty_like` on a meta
            # tensor would import sympy, a third of a second of every start.)
            self._buffers[name] = (
                torch.empty(tensor.shape, dtype=tensor.dtype, device=probe.device)
                if tensor.is_meta
                else tensor.to(probe.device)
            )
        if was_packed:
            self._pack()
        return self

    def _pack(self) -> None:
        if self._packed is None:
            plain = self.plain()
            self._packed = pack(self.scheme, plain, self.columns, self.dtype)
            if self._packed is not None:
                self._buffers.update(dict.fromkeys(plain))

    def extra_repr(self) -> str:
        """Shape and scheme, for `print(model)`."""
        return f"{self.columns} -> {self.rows}, {self.scheme}"


class QuantLinear(QuantizedWeight):
    """`nn.Linear` over a quantized weight: x [..., in_features] to [..., out_features]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: Scheme,
        *,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(out_features, in_features, scheme, dtype=dtype, device=device)
        empty = torch.empty(out_features, dtype=dtype, device=device) if bias else None
        self.bias = None if empty is None else nn.Parameter(empty, requires_grad=False)

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return self.columns

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.rows

    def prepare(self) -> None:
        """Pack for the fastest kernel of the tensors' device; forward works without it, more slowly."""
        self._pack()

    @property
    def packed(self) -> PackedWeight | None:
        """The form that a kernel reads, where the weight is in one."""
        return self._packed

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] to [..., out_features], in the dtype of x."""
        tokens = x.reshape(-1, self.columns)
        if self._packed is not None and not x.requires_grad:
            y = self._packed.matmul(tokens)
        else:
            y = reference_matmul(tokens, self.scheme, self.plain(), self.columns)
        if self.bias is not None:
            y = y + self.bias
        return y.unflatten(0, x.shape[:-1])


class QuantEmbedding(QuantizedWeight):
    """`nn.Embedding` over a quantized weight: only the rows looked up are dequantized."""

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [...] to [..., columns] in the activation dtype."""
        looked_up = {name: tensor[ids.flatten()] for name, tensor in self.plain().items()}
        return self.scheme.dequantize(looked_up, self.columns).to(self.dtype).unflatten(0, ids.shape)
