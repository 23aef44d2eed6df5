"""GPTQ (arXiv:2210.17323) over the `int4` layout: what choosing codes by calibration would bring.

Columns are rounded one after the other, and what each loses is made up for by those behind it, as far as
inputs that go together allow. The scales are found as without calibration.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatglm3.model import ChatGLMModel
from chatglm3.quant.groupwise import Groupwise

_DAMPING = 0.01
"""Added to the diagonal, as a share of its mean: inputs that hardly vary must not be relied on."""


class Moments:
    """Collects sum(x x^T) of the inputs of a model's linears while it runs, by their names."""

    def __init__(self, model: ChatGLMModel) -> None:
        self.of: dict[str, Tensor] = {}
        self._hooks = [
            module.register_forward_hook(partial(self._add, name))
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith("layers")
        ]

    def close(self) -> None:
        """Stop collecting."""
        for hook in self._hooks:
            hook.remove()

    def _add(self, name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0].float()
        self.of[name] = self.of.get(name, torch.zeros(())) + x.T @ x


def calibrated(weight: Tensor, moment: Tensor, group_size: int = 32) -> Tensor:
    """The weight [rows, columns] after int4 with codes chosen for inputs with this moment.

    moment: [columns, columns], as `Moments` collects it.
    """
    scheme = Groupwise(4, group_size)
    weight, columns = weight.clone(), weight.shape[1]
    moment = moment.double()
    moment.diagonal()[moment.diagonal() == 0] = 1  # an input that is always 0 says nothing
    moment.diagonal().add_(_DAMPING * moment.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    spread = torch.linalg.cholesky(inverse, upper=True).float()
    restored = torch.empty_like(weight)
    for start in range(0, columns, group_size):
        stop = min(start + group_size, columns)
        group = F.pad(weight[:, start:stop], (0, group_size - (stop - start)))
        scales = scheme.quantize(group)["scales"].float()
        inverses = torch.where(scales == 0, 0, 1 / scales)
        lost = torch.zeros(len(weight), stop - start)
        for column in range(start, stop):
            own = weight[:, column : column + 1]
            rounded = (own * inverses).round().clamp(-8, 7) * scales
            restored[:, column : column + 1] = rounded
            error = (own - rounded) / spread[column, column]
            weight[:, column:stop] -= error * spread[column, column:stop]
            lost[:, column - start : column - start + 1] = error
        weight[:, stop:] -= lost @ spread[start:stop, stop:]
    return restored
