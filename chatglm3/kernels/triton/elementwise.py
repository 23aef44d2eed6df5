"""What lies between the matrix products, each in one pass over the data: norm, rotary and cache, SwiGLU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add_rms_norm(hidden, update, weight, out, eps, columns, HAS_UPDATE: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * columns
    column = tl.arange(0, WIDTH)
    inside = column < columns
    x = tl.load(hidden + row + column, mask=inside, other=0).to(tl.float32)
    if HAS_UPDATE:
        x += tl.load(update + row + column, mask=inside, other=0).to(tl.float32)
        rounded = x.to(hidden.dtype.element_ty)
        tl.store(hidden + row + column, rounded, mask=inside)
        x = rounded.to(tl.float32)
    x *= tl.rsqrt(tl.sum(x * x, 0) / columns + eps)
    x *= tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    tl.store(out + row + column, x.to(out.dtype.element_ty), mask=inside)


def add_rms_norm(hidden: Tensor, update: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Add `update` to `hidden` in place, if there is one, and return RMSNorm of the sum; all [N, columns]."""
    tokens, columns = hidden.shape
    out = torch.empty_like(hidden)
    _add_rms_norm[(tokens,)](
        hidden, hidden if update is None else update, weight, out, eps, columns,
        HAS_UPDATE=update is not None, WIDTH=triton.next_power_of_2(columns), num_warps=8,
    )  # fmt: skip
    return out


@triton.jit
def _rotate_and_store(
    qkv, positions, cos, sin, slots, keys, values,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr,
    PAIRS: tl.constexpr,
):  # fmt: skip
    """One head of one token: queries stay where they are, keys and values go to the cache."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    pair = tl.arange(0, PAIRS)
    inside = pair < HEAD_DIM // 2
    source = qkv + (token * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM + 2 * pair
    a = tl.load(source, mask=inside, other=0).to(tl.float32)
    b = tl.load(source + 1, mask=inside, other=0).to(tl.float32)
    # The tables hold cos, cos and -sin, sin for a pair; what is not rotated turns by nothing.
    turns = (pair < ROTARY // 2) & (head < HEADS + KV_HEADS)
    angle = tl.load(positions + token) * ROTARY + 2 * pair
    c = tl.load(cos + angle, mask=turns, other=1)
    s = tl.load(sin + angle + 1, mask=turns, other=0)
    target = source
    slot = tl.load(slots + token)
    if head >= HEADS:
        inside &= slot >= 0
        place = slot * KV_HEADS + (head - HEADS) % KV_HEADS
        pool = keys if head < HEADS + KV_HEADS else values
        target = pool + place * HEAD_DIM + 2 * pair
    kind = qkv.dtype.element_ty
    tl.store(target, (a * c - b * s).to(kind), mask=inside)
    tl.store(target + 1, (b * c + a * s).to(kind), mask=inside)


def rotate_and_store(
    qkv: Tensor,
    positions: Tensor,
    *,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Rotate queries and keys, and write keys and values to the cache. Returns the queries, a view of qkv.

    qkv: [N, heads + 2 kv_heads, head_dim], the queries rotated in place; cos, sin: the tables of
    `chatglm3.model.Rotary`; keys, values: [slots, kv_heads, head_dim] of one layer, in the dtype of qkv.
    Nothing is written for a slot below 0: a place in the batch that holds no token.
    """
    tokens, all_heads, head_dim = qkv.shape
    kv_heads = keys.shape[1]
    heads = all_heads - 2 * kv_heads
    _rotate_and_store[(tokens, all_heads)](
        qkv, positions, cos, sin, slots, keys, values,
        HEADS=heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim, ROTARY=cos.shape[-1],
        PAIRS=triton.next_power_of_2(head_dim // 2), num_warps=1,
    )  # fmt: skip
    return qkv[:, :heads]


@triton.jit
def _swiglu(gate_up, out, columns, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < columns
    gate = tl.load(gate_up + row * 2 * columns + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * columns + columns + column, mask=inside, other=0).to(tl.float32)
    tl.store(
        out + row * columns + column, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside
    )


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [N, 2 columns], gates first -> [N, columns]."""
    tokens, width = gate_up.shape
    out = gate_up.new_empty(tokens, width // 2)
    _swiglu[(tokens, triton.cdiv(width // 2, 1024))](gate_up, out, width // 2, WIDTH=1024, num_warps=4)
    return out
