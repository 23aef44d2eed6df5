"""A LoRA adapter as its files hold it, and what becomes of it: updates beside the weights, or new weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from chatglm3.errors import CheckpointError
from chatglm3.lora import Lora, LowRank
from chatglm3.model import ChatGLMModel
from chatglm3.quant import QuantLinear

LINEARS = ("qkv", "attention_out", "gate_up", "down")
"""Those of a layer, which can have updates while the model runs."""


@dataclass(frozen=True, eq=False)
class Update:
    """B A for some rows of one of our weights, in float32."""

    rows: slice
    a: Tensor
    """[r, columns]"""
    b: Tensor
    """[rows, r], with the adapter's scaling in it."""
    magnitude: Tensor | None = None
    """[rows] of DoRA (arXiv:2402.09353): the lengths that the rows of the sum are brought to."""


@dataclass(frozen=True, eq=False)
class StoredLora:
    """Everything that an adapter changes, under our names."""

    path: Path
    updates: Mapping[str, Sequence[Update]]
    """By module: "layers.0.qkv", ..., "embedding", "output"."""
    replaced: Mapping[str, Sequence[tuple[slice, Tensor]]]
    """Rows of tensors ("layers.0.qkv.bias") that were trained as a whole."""

    @property
    def num_values(self) -> int:
        """Numbers that it holds."""
        pieces = [t for updates in self.updates.values() for u in updates for t in (u.a, u.b, u.magnitude)]
        pieces += [values for replaced in self.replaced.values() for _, values in replaced]
        return sum(piece.numel() for piece in pieces if piece is not None)

    def weight(self, name: str, tensor: Tensor) -> Tensor:
        """Our tensor `name` with the adapter in it, in its own dtype; computed in float32."""
        module, _, leaf = name.rpartition(".")
        updates = self.updates.get(module, ()) if leaf == "weight" else ()
        replaced = self.replaced.get(name, ())
        if not updates and not replaced:
            return tensor
        new = tensor.to(torch.float32, copy=True)
        for rows, values in replaced:
            new[rows] = values
        for update in updates:
            new[update.rows] += update.b @ update.a
            if update.magnitude is not None:
                new[update.rows] *= _gain(update, new[update.rows])[:, None]
        return new.to(tensor.dtype)

    def on(self, model: ChatGLMModel) -> Lora:
        """The updates for a model that runs, on its device and in its dtype.

        Raises CheckpointError where the adapter changes more than the layers' linears.
        """
        linears = {f"layers.{i}.{name}" for i in range(model.config.num_layers) for name in LINEARS}
        others = {*self.updates, *self.replaced} - linears - {f"{linear}.bias" for linear in linears}
        if others:
            raise CheckpointError(
                f"{self.path} changes {', '.join(sorted(others)[:3])}, which can't be kept apart from what "
                "other requests see; merge it into a model of its own: chatglm3 merge BASE ADAPTER OUT"
            )
        return Lora(
            [
                {
                    name: self._low_rank(f"layers.{i}.{name}", getattr(layer, name), model)
                    for name in LINEARS
                    if f"layers.{i}.{name}" in self.updates or f"layers.{i}.{name}.bias" in self.replaced
                }
                for i, layer in enumerate(model.layers)
            ]
        )

    def _low_rank(self, name: str, linear: nn.Linear | QuantLinear, model: ChatGLMModel) -> LowRank:
        """All updates of one linear as one: their A below each other, their B in blocks."""
        updates = self.updates.get(name, ())
        a = torch.cat([torch.zeros(0, linear.in_features), *(update.a for update in updates)])
        b = torch.zeros(linear.out_features, len(a))
        first = 0
        for update in updates:
            b[update.rows, first : first + len(update.a)] = update.b
            first += len(update.a)
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.float().cpu()
        gain, shift = _gains(updates, linear), self.weight(f"{name}.bias", bias)
        shift = shift - (bias if gain is None else gain * bias)
        tensors = (a, b, gain, shift if shift.any() else None)
        placed = (None if tensor is None else tensor.to(model.device, model.dtype) for tensor in tensors)
        return LowRank(*placed)  # type: ignore[arg-type]  # a and b are there


def _gains(updates: Sequence[Update], linear: nn.Linear | QuantLinear) -> Tensor | None:
    """What DoRA multiplies the rows of a linear by; None without DoRA."""
    if all(update.magnitude is None for update in updates):
        return None
    gains = torch.ones(linear.out_features)
    weight = linear.dequantize() if isinstance(linear, QuantLinear) else linear.weight
    for update in updates:
        if update.magnitude is not None:
            gains[update.rows] = _gain(update, weight[update.rows].float().cpu() + update.b @ update.a)
    return gains


def _gain(update: Update, weight: Tensor) -> Tensor:
    """Of the rows of one update. weight: theirs [rows, columns], B A included."""
    assert update.magnitude is not None
    return update.magnitude / torch.linalg.norm(weight, dim=1)
