"""Attention over a paged key/value cache, with packed tokens of several sequences.

The cache is one pool of blocks (vLLM, arXiv:2309.06180). A *slot* is the place of one token in it:
`block * block_size + offset`. A sequence owns the blocks that its row of `block_tables` names, and its cache
entry i lives at offset `i % block_size` of its block number `i // block_size`.

A query sees the entries up to its own: causality follows the *index in the cache*, while the rotary embedding
(model.py) follows the *position* that the caller gave. The two differ where a P-Tuning prefix fills the first
entries of a sequence, or where positions are odd.

`attend` is the PyTorch reference that every faster kernel is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from chatglm3.config import ModelConfig
from chatglm3.errors import InvalidParameterError
from chatglm3.kernels import triton

_SMALL_CONTEXT = 512
"""Below this many entries padding costs less than one more call."""

_FEW_QUERIES = 16
"""Up to so many queries a sequence, sequences with equally many are computed together."""

_SCALE_BYTES = 4
"""Behind the codes of an int8 entry: its scale, float32."""


class KVCache:
    """Keys and values of all layers, allocated once: a pool of `num_blocks` blocks of `block_size` tokens.

    keys[layer], values[layer]: [num_blocks, block_size, kv_heads, head_dim]. Keys are stored after rotary.

    With `int8` each token's key and value of each head is a vector of codes -127..127 with a scale of its
    own, max|x| / 127. The arrays are int8 [num_blocks, block_size, kv_heads, head_dim + 4]: the codes, and
    the float32 scale in the last four bytes, so that one read brings both.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int = 16,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        int8: bool = False,
    ) -> None:
        """dtype: of the keys and values that come and go, and without `int8` of those that are held."""
        if num_blocks < 1 or block_size < 1:
            raise InvalidParameterError(
                f"a cache of {num_blocks} blocks of {block_size} tokens holds nothing; both must be 1 or more"
            )
        width = config.head_dim + _SCALE_BYTES if int8 else config.head_dim
        shape = (config.num_layers, num_blocks, block_size, config.num_kv_heads, width)
        held = torch.int8 if int8 else dtype
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        self.int8 = int8
        self.device = torch.device(device)
        self.keys = list(torch.zeros(shape, dtype=held, device=device))
        self.values = list(torch.zeros(shape, dtype=held, device=device))
        # The same memory by slot: [num_blocks * block_size, kv_heads, head_dim].
        self.slot_keys = [keys.flatten(0, 1) for keys in self.keys]
        self.slot_values = [values.flatten(0, 1) for values in self.values]

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys, values [N, kv_heads, head_dim] of one layer at slots [N] (int64)."""
        if self.int8:
            keys, values = _to_int8(keys), _to_int8(values)
        self.slot_keys[layer].index_copy_(0, slots, keys)
        self.slot_values[layer].index_copy_(0, slots, values)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of one layer's keys and values at slots [N] (int64): [N, kv_heads, head_dim] in `dtype`."""
        keys = self.slot_keys[layer].index_select(0, slots)
        values = self.slot_values[layer].index_select(0, slots)
        return (_from_int8(keys, self.dtype), _from_int8(values, self.dtype)) if self.int8 else (keys, values)

    @staticmethod
    def bytes_per_token(config: ModelConfig, dtype: torch.dtype, *, int8: bool = False) -> int:
        """What one token takes, over all layers."""
        if int8:
            heads = config.kv_values_per_token // config.head_dim
            return heads * (config.head_dim + _SCALE_BYTES)
        return config.kv_values_per_token * dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(t.nbytes for t in (*self.keys, *self.values))


def _to_int8(x: Tensor) -> Tensor:
    """x [..., d] as int8 [..., d + 4]: codes and their scale. A vector of zeros has scale 0."""
    scales = x.abs().amax(-1, keepdim=True).float() / 127
    inverse = torch.where(scales == 0, 0, scales.reciprocal())
    codes = (x.float() * inverse).round_().clamp_(-127, 127).to(torch.int8)
    return torch.cat((codes, scales.view(torch.int8)), dim=-1)


def _from_int8(entries: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo `_to_int8`: [..., d + 4] to [..., d]."""
    codes, scales = entries.split((entries.shape[-1] - _SCALE_BYTES, _SCALE_BYTES), dim=-1)
    return (codes.float() * scales.contiguous().view(torch.float32)).to(dtype)


@dataclass(frozen=True, eq=False)
class AttentionBatch:
    """What one forward step needs to know about its S sequences and their N packed tokens.

    `AttentionBatch.build` makes it from plain lists; the tensors are what kernels take.
    """

    cache: KVCache
    slots: Tensor
    """[N] int64: where each token's key and value are written."""
    query_starts: Tensor
    """[S + 1] int32: tokens query_starts[s] : query_starts[s + 1] belong to sequence s."""
    context_lens: Tensor
    """[S] int32: cache entries visible to the last query of each sequence, itself included."""
    block_tables: Tensor
    """[S, max_blocks] int32: blocks of each sequence, in order; what is past its context is not read."""

    @classmethod
    def build(
        cls,
        cache: KVCache,
        query_lens: Sequence[int],
        context_lens: Sequence[int],
        block_tables: Sequence[Sequence[int]],
    ) -> AttentionBatch:
        """S sequences with query_lens[s] new tokens each, the last of which sees context_lens[s] entries."""
        size = cache.block_size
        slots = [
            table[i // size] * size + i % size
            for queries, context, table in zip(query_lens, context_lens, block_tables, strict=True)
            for i in range(context - queries, context)
        ]
        width = max(len(table) for table in block_tables)
        tables = [[*table, *[0] * (width - len(table))] for table in block_tables]
        return cls(
            cache=cache,
            slots=torch.tensor(slots, dtype=torch.int64, device=cache.device),
            query_starts=torch.tensor([0, *accumulate(query_lens)], dtype=torch.int32, device=cache.device),
            context_lens=torch.tensor(list(context_lens), dtype=torch.int32, device=cache.device),
            block_tables=torch.tensor(tables, dtype=torch.int32, device=cache.device),
        )

    @cached_property
    def reference_plan(self) -> list[_Padded | _Chunk]:
        """The pieces that the reference computes one by one; made once, shared by all layers."""
        return _plan(self)


@dataclass(frozen=True, eq=False)
class _Padded:
    """Sequences with T queries each, T small, padded to one length: the step of decoding."""

    rows: Tensor
    """[B * T]: their tokens in the packed batch."""
    entries: Tensor
    """[B * L]: slots of their cache entries; past a sequence's end its last entry again."""
    mask: Tensor
    """[B, 1, T, L], in the cache's dtype: 0 where a query sees an entry, else -inf."""


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Several consecutive queries of one sequence."""

    start: int
    stop: int
    entries: Tensor | None
    """[L]: slots of the sequence's cache entries; None where the queries themselves are the whole context."""
    mask: Tensor | None
    """[T, L], in the cache's dtype: 0 where a query sees an entry, else -inf; None where `entries` is."""


def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, batch: AttentionBatch) -> Tensor:
    """Write the new keys and values of one layer to the cache, then attend causally by cache index.

    q: [N, heads, head_dim]; k, v: [N, kv_heads, head_dim] -> [N, heads, head_dim]. Query head h reads
    key/value head h // (heads // kv_heads) (grouped-query attention, arXiv:2305.13245); scores are divided by
    sqrt(head_dim).
    """
    cache = batch.cache
    cache.write(layer, batch.slots, k, v)
    if triton.available(q.device) and triton.fits(q.shape[-1]) and not cache.int8:
        from chatglm3.kernels.triton.attention import attend as attend_on_cuda

        return attend_on_cuda(
            q,
            cache.keys[layer],
            cache.values[layer],
            query_starts=batch.query_starts,
            context_lens=batch.context_lens,
            block_tables=batch.block_tables,
        )
    pieces = batch.reference_plan
    if len(pieces) == 1 and isinstance(pieces[0], _Padded):  # every sequence decodes
        return _attend_padded(q, *cache.read(layer, pieces[0].entries), pieces[0].mask)
    out = torch.empty_like(q)
    for piece in pieces:
        if isinstance(piece, _Padded):
            seen = cache.read(layer, piece.entries)
            out[piece.rows] = _attend_padded(q[piece.rows], *seen, piece.mask)
            continue
        span = slice(piece.start, piece.stop)
        if piece.entries is not None:
            seen = cache.read(layer, piece.entries)
        elif cache.int8:  # as a later chunk or a decoding step will see them
            seen = cache.read(layer, batch.slots[span])
        else:
            seen = k[span], v[span]
        out[span] = _attend_chunk(q[span], *seen, piece.mask)
    return out


def _attend_padded(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """q: [B * T, heads, d]; keys, values: [B * L, kv, d]; mask: [B, 1, T, L] -> [B * T, heads, d]."""
    _, heads, head_dim = q.shape
    sequences, _, queries, length = mask.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    shape = (sequences, length, kv_heads, head_dim)
    keys, values = keys.view(shape).transpose(1, 2), values.view(shape).transpose(1, 2)  # [B, kv, L, d]
    # The heads that share a key/value head take the place of queries.
    if queries == 1:
        grouped = q.reshape(sequences, kv_heads, group, head_dim)
        return F.scaled_dot_product_attention(grouped, keys, values, mask).reshape(q.shape)
    grouped = q.view(sequences, queries, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
    out = F.scaled_dot_product_attention(grouped, keys, values, mask.repeat(1, 1, group, 1))
    return out.unflatten(2, (group, queries)).permute(0, 3, 1, 2, 4).reshape(q.shape)


def _attend_chunk(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """q: [T, heads, d]; keys, values: [L, kv, d] -> [T, heads, d]. Without a mask T equals L."""
    length, heads, head_dim = q.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    # Key/value heads take the place of a batch, and the heads that share one read it without a copy.
    grouped = q.view(length, kv_heads, group, head_dim).permute(1, 2, 0, 3)  # [kv, group, T, d]
    keys = keys.transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1)  # [kv, group, L, d]
    values = values.transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1)
    out = F.scaled_dot_product_attention(grouped, keys, values, mask, is_causal=mask is None)
    return out.permute(2, 0, 1, 3).reshape(length, heads, head_dim)


def _plan(batch: AttentionBatch) -> list[_Padded | _Chunk]:
    starts = batch.query_starts.tolist()
    contexts = batch.context_lens.tolist()
    pieces: list[_Padded | _Chunk] = []
    decoding: dict[tuple[int, int], list[int]] = {}
    for s, context in enumerate(contexts):
        queries = starts[s + 1] - starts[s]
        if queries <= _FEW_QUERIES and (queries == 1 or queries < context):
            # Lengths of one power of two are padded together: less than half of what is read is padding.
            decoding.setdefault((queries, max(context, _SMALL_CONTEXT).bit_length()), []).append(s)
        else:
            pieces.append(_plan_chunk(batch, s, starts[s], starts[s + 1], context))
    for (queries, _), sequences in decoding.items():
        pieces.append(_plan_padded(batch, sequences, queries, max(contexts[s] for s in sequences)))
    return pieces


def _plan_padded(batch: AttentionBatch, sequences: list[int], queries: int, length: int) -> _Padded:
    device, size = batch.slots.device, batch.cache.block_size
    chosen = torch.tensor(sequences, device=device)
    last = batch.context_lens[chosen, None].long() - 1  # [B, 1]
    index = torch.arange(length, device=device)  # [L]
    visible = index.minimum(last)  # [B, L]
    blocks = batch.block_tables[chosen].long().gather(1, visible // size)
    query = torch.arange(queries, device=device)
    own = (last - (queries - 1) + query)[..., None]  # [B, T, 1]: the cache index of each query
    mask = torch.zeros((len(sequences), queries, length), device=device).masked_fill_(index > own, -torch.inf)
    return _Padded(
        rows=(batch.query_starts[chosen, None].long() + query).flatten(),
        entries=(blocks * size + visible % size).flatten(),
        mask=mask[:, None].to(batch.cache.dtype),
    )


def _plan_chunk(batch: AttentionBatch, sequence: int, start: int, stop: int, context: int) -> _Chunk:
    length = stop - start
    if length == context:
        return _Chunk(start, stop, None, None)
    device, size = batch.slots.device, batch.cache.block_size
    index = torch.arange(context, device=device)
    entries = batch.block_tables[sequence].long()[index // size] * size + index % size
    own = torch.arange(context - length, context, device=device)  # the cache index of each query
    mask = torch.zeros(length, context, device=device).masked_fill_(index > own[:, None], -torch.inf)
    return _Chunk(start, stop, entries, mask.to(batch.cache.dtype))


def packed_batch(
    config: ModelConfig,
    lengths: Sequence[int],
    *,
    prefix_length: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    int8: bool = False,
) -> AttentionBatch:
    """Whole sequences with a cache of their own: for scoring and tests, where no engine is wanted.

    Sequence s has lengths[s] tokens and owns block s. Its first `prefix_length` entries, slots
    `s * block_size + i`, are left for the caller to fill (`chatglm3.prefix.write_prefix`).
    """
    contexts = [prefix_length + length for length in lengths]
    cache = KVCache(config, len(lengths), max(contexts), dtype, device, int8=int8)
    return AttentionBatch.build(cache, lengths, contexts, [[s] for s in range(len(lengths))])
