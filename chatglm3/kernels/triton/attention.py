"""Attention over the paged cache: one kernel for decoding, for chunks of prompts, and for both in a batch.

A program takes a few consecutive queries of one sequence with all the heads that share a key/value head, so a
block of keys and values is read once for its whole group (for 16 heads of 6b: one token alone fills the rows
of a tensor core). It walks through the cache with an online softmax (FlashAttention, arXiv:2205.14135). Where
that makes too few programs to fill the device, the context is split among several, which leave partial
results for `_merge` (Flash-Decoding). The number of splits follows from the shapes alone, never from the
lengths on the device: nothing waits for the GPU, and a CUDA graph can be captured.
"""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 128
"""Most rows (queries x heads of a group) of a program: what tensor cores like for prompts."""

_ENTRIES = 64
"""Cache entries at a time."""

_MOST_SPLITS = 64


@triton.jit
def _attend(
    q, q_stride, keys, values, query_starts, context_lens, block_tables, table_stride, block_size,
    out, sums, splits, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_ROWS: tl.constexpr, HEAD_DIM: tl.constexpr,
    QUERIES: tl.constexpr, ENTRIES: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Queries of a sequence against a part of its cache.

    q: rows of q_stride, heads first. out: [tokens, heads, HEAD_DIM], or float32 [tokens, heads, splits,
    HEAD_DIM] of parts each normalized for itself, with sums [tokens, heads, splits]: the logarithm, to base
    2, of what a part was divided by; -inf where it saw nothing. scale: of the scores, with log2(e) in it.
    """
    sequence = tl.program_id(1) // KV_HEADS
    kv_head = tl.program_id(1) % KV_HEADS
    split = tl.program_id(2)
    first_query = tl.program_id(0) * QUERIES
    start = tl.load(query_starts + sequence)
    count = tl.load(query_starts + sequence + 1) - start
    if first_query >= count:
        return
    context = tl.load(context_lens + sequence)

    row = tl.arange(0, QUERIES * GROUP_ROWS)
    dim = tl.arange(0, HEAD_DIM)
    query = first_query + row // GROUP_ROWS
    member = row % GROUP_ROWS
    valid = (query < count) & (member < GROUP)
    head = kv_head * GROUP + member
    token = (start + query).to(tl.int64)
    own = context - count + query  # the query's own entry: the last one it sees
    wanted = tl.load(
        q + token[:, None] * q_stride + head[:, None] * HEAD_DIM + dim[None, :], mask=valid[:, None], other=0
    )

    visible = context - count + tl.minimum(first_query + QUERIES, count)
    share = tl.cdiv(tl.cdiv(visible, ENTRIES), splits) * ENTRIES
    begin = split * share
    end = tl.minimum(begin + share, visible)
    place = (token * (KV_HEADS * GROUP) + head) * splits + split
    if SPLIT and begin >= end:
        tl.store(sums + place, tl.full([QUERIES * GROUP_ROWS], float("-inf"), tl.float32), mask=valid)
        return

    peak = tl.full([QUERIES * GROUP_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES * GROUP_ROWS], tl.float32)
    mixed = tl.zeros([QUERIES * GROUP_ROWS, HEAD_DIM], tl.float32)
    for first in range(begin, end, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        inside = entry < end
        block = tl.load(block_tables + sequence * table_stride + entry // block_size, mask=inside, other=0)
        slot = block.to(tl.int64) * block_size + entry % block_size
        memory = (slot * KV_HEADS + kv_head) * HEAD_DIM
        key = tl.load(keys + memory[None, :] + dim[:, None], mask=inside[None, :], other=0)
        scores = tl.dot(wanted, key, input_precision="ieee") * scale
        seen = inside[None, :] & (entry[None, :] <= own[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        # A row that has seen nothing yet has -inf for its peak, and -inf - -inf is not a number.
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(scores - base[:, None])
        kept = tl.exp2(peak - base)
        total = total * kept + tl.sum(weights, 1)
        value = tl.load(values + memory[:, None] + dim[None, :], mask=inside[:, None], other=0)
        mixed = mixed * kept[:, None]
        mixed = tl.dot(weights.to(value.dtype), value, mixed, input_precision="ieee")
        peak = new_peak

    mixed = mixed / tl.where(total == 0, 1.0, total)[:, None]
    place = (token * (KV_HEADS * GROUP) + head) * splits + split
    tl.store(
        out + place[:, None] * HEAD_DIM + dim[None, :], mixed.to(out.dtype.element_ty), mask=valid[:, None]
    )
    if SPLIT:
        tl.store(sums + place, peak + tl.log2(total), mask=valid)


@triton.jit
def _merge(parts, sums, out, splits, HEAD_DIM: tl.constexpr, MOST: tl.constexpr):
    """The parts [.., splits, HEAD_DIM] of one query and head, weighted by their shares of its softmax."""
    place = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, MOST)
    dim = tl.arange(0, HEAD_DIM)
    size = tl.load(sums + place * splits + split, mask=split < splits, other=float("-inf"))
    peak = tl.max(size, 0)
    weight = tl.exp2(size - tl.where(peak == float("-inf"), 0.0, peak))
    part = tl.load(
        parts + (place * splits + split)[:, None] * HEAD_DIM + dim[None, :],
        mask=(weight > 0)[:, None],
        other=0,
    )
    total = tl.sum(weight, 0)
    mixed = tl.sum(part * weight[:, None], 0) / tl.where(total == 0, 1.0, total)
    tl.store(out + place * HEAD_DIM + dim, mixed.to(out.dtype.element_ty))


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    query_starts: Tensor,
    context_lens: Tensor,
    block_tables: Tensor,
    splits: int | None = None,
) -> Tensor:
    """Causal attention by cache index; the new keys and values are in the cache already.

    q: [N, heads, head_dim], rows may be apart; keys, values: [num_blocks, block_size, kv_heads, head_dim] of
    one layer; the others as in `chatglm3.attention.AttentionBatch` -> [N, heads, head_dim]. A sequence
    without any visible entry gives zeros. splits: parts of the context; by default so many that they fill the
    device.
    """
    tokens, heads, head_dim = q.shape
    _, block_size, kv_heads, _ = keys.shape
    sequences = len(context_lens)
    group = heads // kv_heads
    group_rows = triton.next_power_of_2(group)
    longest = tokens - sequences + 1  # queries of one sequence, at most
    queries = min(triton.next_power_of_2(longest), max(1, _ROWS // group_rows))
    queries = max(queries, 16 // group_rows)  # a tensor core has 16 rows
    tiles = triton.cdiv(longest, queries)
    programs = tiles * sequences * kv_heads
    if splits is None:
        splits = triton.next_power_of_2(max(1, 4 * _processors(q.device) // programs))
        splits = min(splits, _MOST_SPLITS)
    rows = queries * group_rows
    out = q.new_empty(tokens, heads, head_dim)
    parts, sums = out, out
    if splits > 1:
        parts = q.new_empty(tokens, heads, splits, head_dim, dtype=torch.float32)
        sums = q.new_empty(tokens, heads, splits, dtype=torch.float32)
    with torch.cuda.device_of(q):
        _attend[(tiles, sequences * kv_heads, splits)](
            q, q.stride(0), keys, values, query_starts, context_lens, block_tables, block_tables.stride(0),
            block_size, parts, sums, splits, math.log2(math.e) / math.sqrt(head_dim),
            KV_HEADS=kv_heads, GROUP=group, GROUP_ROWS=group_rows, HEAD_DIM=head_dim,
            QUERIES=queries, ENTRIES=_ENTRIES, SPLIT=splits > 1,
            num_warps=8 if rows >= 128 else 4, num_stages=2,
        )  # fmt: skip
        if splits > 1:
            _merge[(tokens * heads,)](
                parts, sums, out, splits, HEAD_DIM=head_dim, MOST=_MOST_SPLITS, num_warps=4
            )
    return out


@functools.cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of the device; a few on a CPU, where the kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
