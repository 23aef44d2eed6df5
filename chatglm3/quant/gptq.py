"""Codes and scales of `int4` chosen for the inputs that a weight meets (GPTQ, arXiv:2210.17323).

Rounding a weight W [rows, columns] to the nearest codes makes E = W - Q as small as it can be. What a layer's
answers lose is not E but E x, and over inputs x with the second moment H = mean(x x^T) that is
tr(E H E^T): where inputs go together, what one column loses others can make up for.

With H = M M^T, M upper triangular, the loss is |E M|^2, and column j of E M has only the columns of E up to j
in it. So columns are rounded one after the other, each from the value that makes up best for those before it,
and the loss grows by the square of what that loses times M[j, j]. (This is GPTQ seen as the nearest-plane
algorithm of lattices, arXiv:2507.18553; it needs no inverse of H.) Which scale is best for a group shows only
when it has been rounded: a few are tried, each to the group's end, and every row keeps the best one.

The result is in the plain layout of `Groupwise`, so nothing that reads or multiplies it knows the difference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from chatglm3.errors import CheckpointError
from chatglm3.quant.groupwise import Groupwise, nearest_codes, pack_nibbles, stored_scales
from chatglm3.quant.scheme import PlainTensors, row_blocks

_RANGES = (6.2, 6.8, 7.4, 7.8, 8.2, 8.6, 9.2)
"""Codes that the largest weight of a group would get before clipping, each a scale to try."""

_DAMPING = 0.2
"""Added to H's diagonal, as a share of its mean: a direction that few samples took will still be taken later.
GPTQ's usual 0.01 leaves nano up to twice the KL where there are fewer tokens than a weight has columns, and
is no better where there are thirty times as many."""

_BLOCK = 1 << 22
"""Weights in work at a time; each takes some 20 bytes."""


def quantize_for(scheme: Groupwise, weight: Tensor, moment: Tensor) -> PlainTensors:
    """`scheme.quantize(weight)` for inputs with this second moment; scheme has 4 bits.

    weight: [rows, columns]; moment: [columns, columns], mean of x x^T, on the weight's device.
    Memory: two or three float32 matrices of the moment's size for a short while, then one. Raises
    CheckpointError on inf and nan in the weight, and for a moment that is none.
    """
    rows, columns = weight.shape
    size = scheme.group_size
    if not weight.isfinite().all():
        raise CheckpointError("a weight to be quantized holds inf or nan; the checkpoint is damaged")
    factor = _factor(moment)
    plain = {
        name: torch.empty(shape, dtype=dtype, device=weight.device)
        for name, (shape, dtype) in scheme.layout(rows, columns, weight.dtype).items()
    }
    groups = [slice(start, min(start + size, columns)) for start in range(0, columns, size)]
    for block in row_blocks(rows, columns, _BLOCK if weight.device.type == "cpu" else _BLOCK << 6):
        codes, scales = _in_order(weight[block].float(), factor, groups)
        plain["qweight"][block] = pack_nibbles(F.pad(codes, (0, -columns % size)))
        plain["scales"][block] = scales
    return plain


def _factor(moment: Tensor) -> Tensor:
    """M [columns, columns], float32 and upper triangular: H = M M^T, once H's diagonal is damped.

    The damping keeps H's condition below 5 * columns, far from what float32 cannot factor.
    """
    # 0: nothing was ever given to it, and all directions are alike.
    mean = float(moment.diagonal().mean()) or 1.0
    # Cholesky's own factor is lower triangular; that of H read backwards is M read backwards.
    backwards = moment.float().flip(0, 1)
    backwards.diagonal().add_(_DAMPING * mean)
    factor, failed = torch.linalg.cholesky_ex(backwards)
    if failed or not factor.isfinite().all():
        raise CheckpointError(
            "the inputs of a layer have no usable second moment; calibrate with other or more text, or "
            "quantize without calibration"
        )
    return factor.flip(0, 1)


def _in_order(weight: Tensor, factor: Tensor, groups: list[slice]) -> tuple[Tensor, Tensor]:
    """For weight [rows, columns]: codes [rows, columns], as floats, and scales [rows, groups]."""
    rows = len(weight)
    codes, lost = torch.empty_like(weight), torch.empty_like(weight)
    scales = weight.new_empty((rows, len(groups)))
    for number, group in enumerate(groups):
        own = factor[group, group]
        carried = (lost[:, : group.start] @ factor[: group.start, group]).T  # [size, rows]
        tried = _scales_to_try(
            weight[:, group].T + carried / own.diagonal()[:, None], own.diagonal().square()
        )
        found, missed, loss = _round_group(weight[:, group].T, carried, own, tried)
        best = loss.argmin(dim=0, keepdim=True)  # [1, rows]
        chosen = best.expand(len(own), 1, rows)
        codes[:, group] = found.gather(1, chosen).squeeze(1).T
        lost[:, group] = missed.gather(1, chosen).squeeze(1).T
        scales[:, number] = tried.gather(0, best).squeeze(0)
    return codes, scales


def _scales_to_try(target: Tensor, importance: Tensor) -> Tensor:
    """target: [size, rows], importance: [size] -> scales [tries, rows] as they are stored.

    Each range's scale is fitted twice by least squares to the codes that it gives.
    """
    high, low = target.amax(0), target.amin(0)
    largest = torch.where(high > -low, high, low)
    scales = stored_scales(torch.stack([largest / -span for span in _RANGES])).float()
    weighted = target * importance[:, None]
    for _ in range(2):
        codes = nearest_codes(target[:, None], scales, bits=4)  # [size, tries, rows]
        squares = (codes.square() * importance[:, None, None]).sum(0)
        products = (codes * weighted[:, None]).sum(0)
        scales = stored_scales(torch.where(squares == 0, 0, products / squares)).float()
    return scales


def _round_group(
    weight: Tensor, carried: Tensor, factor: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Round one group at each of several scales.

    weight: [size, rows]; carried: [size, rows], columns of E M from the groups before; factor: [size, size];
    scales: [tries, rows] -> codes and E, [size, tries, rows] each, and the group's loss [tries, rows].
    """
    carried = carried[:, None].repeat(1, len(scales), 1)
    codes, lost = torch.empty_like(carried), torch.empty_like(carried)
    loss = torch.zeros_like(scales)
    for j in range(len(weight)):
        step = factor[j, j]
        target = weight[j] + carried[j] / step
        codes[j] = nearest_codes(target, scales, bits=4)
        restored = codes[j] * scales
        loss += ((target - restored) * step).square_()
        lost[j] = weight[j] - restored
        carried[j + 1 :].addcmul_(factor[j, j + 1 :, None, None], lost[j])
    return codes, lost, loss
