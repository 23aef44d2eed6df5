"""Paged attention, rotary with cache write, norm and SwiGLU in Triton against PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from chatglm3.attention import AttentionBatch, KVCache, attend
from chatglm3.model import Rotary, rotate
from tests.kernels.triton_device import DEVICE, DTYPES, assert_close
from tests.tiny import tiny_config

from chatglm3.kernels.triton import attention, elementwise  # isort: skip  (after the check for Triton)

LENGTHS = {
    "decoding": ([1, 1, 1], [1, 33, 131]),
    "a prompt": ([19], [19]),
    "a chunk": ([11], [90]),
    "drafts": ([4, 3], [70, 3]),
    "short": ([2, 1], [9, 20]),
    "both": ([1, 9, 1], [65, 83, 2]),
}
"""name: (new tokens, cache entries) of each sequence."""


class Case:
    """A cache of random content, sequences on shuffled blocks of it, and their projections."""

    def __init__(self, name, dtype=torch.float32, *, heads=4, kv_heads=2, head_dim=16, block_size=16):
        torch.manual_seed(0)
        queries, contexts = LENGTHS[name]
        self.config = tiny_config(num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim, num_layers=1)
        self.cache = KVCache(self.config, 60, block_size, dtype, DEVICE)
        self.cache.keys[0].normal_()
        self.cache.values[0].normal_()
        free = torch.randperm(60).tolist()
        tables = [[free.pop() for _ in range(-(-length // block_size))] for length in contexts]
        self.batch = AttentionBatch.build(self.cache, queries, contexts, tables)
        tokens, self.heads, self.kv_heads = sum(queries), heads, kv_heads
        self.q = torch.randn(tokens, heads, head_dim, device=DEVICE).to(dtype)
        self.k = torch.randn(tokens, kv_heads, head_dim, device=DEVICE).to(dtype)
        self.v = torch.randn(tokens, kv_heads, head_dim, device=DEVICE).to(dtype)

    def reference(self):
        """In float32, by the reference on the CPU; writes the new keys and values to the cache."""
        cache = KVCache(self.config, 60, self.cache.block_size)
        cache.keys[0].copy_(self.cache.keys[0])
        cache.values[0].copy_(self.cache.values[0])
        names = ("slots", "query_starts", "context_lens", "block_tables")
        batch = AttentionBatch(cache, **{name: getattr(self.batch, name).cpu() for name in names})
        out = attend(0, self.q.cpu().float(), self.k.cpu().float(), self.v.cpu().float(), batch)
        self.cache.write(0, self.batch.slots, self.k, self.v)
        return out

    def attend(self, **options):
        return attention.attend(
            self.q,
            self.cache.keys[0],
            self.cache.values[0],
            query_starts=self.batch.query_starts,
            context_lens=self.batch.context_lens,
            block_tables=self.batch.block_tables,
            **options,
        )


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("name", LENGTHS)
def test_attention_equals_the_reference(name, splits):
    case = Case(name)
    expected = case.reference()
    assert_close(case.attend(splits=splits).cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(16, 1, 32), (6, 2, 16), (2, 2, 64)])
def test_attention_in_16_bits_with_other_groups_of_heads(dtype, heads, kv_heads, head_dim):
    case = Case("decoding", dtype, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    expected = case.reference()
    assert_close(case.attend().cpu(), expected)


@pytest.mark.parametrize(("name", "block_size"), [("short", 1), ("drafts", 5), ("decoding", 64)])
def test_blocks_of_any_size(name, block_size):
    case = Case(name, block_size=block_size)
    expected = case.reference()
    assert_close(case.attend(splits=2).cpu(), expected)


@pytest.mark.parametrize("splits", [1, 2])
def test_a_place_without_entries_gives_zeros(splits):
    case = Case("decoding")
    expected = case.reference()
    case.batch.context_lens[1] = 0
    out = case.attend(splits=splits).cpu()
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert_close(out[[0, 2]], expected[[0, 2]])


def test_rotary_and_cache_write_equal_the_reference():
    case = Case("both")
    rotary = Rotary(case.config).to(DEVICE)
    positions = torch.randint(0, case.config.max_seq_len, (len(case.q),), device=DEVICE)
    qkv = torch.cat((case.q, case.k, case.v), dim=1)
    qk = rotate(torch.cat((case.q, case.k), dim=1), *rotary(positions))
    q, k = qk.split((case.heads, case.kv_heads), dim=1)
    slots = case.batch.slots.clone()
    slots[3] = -1
    keys, values = case.cache.slot_keys[0], case.cache.slot_values[0]
    written = slots >= 0
    wanted = [pool.index_copy(0, slots[written], new[written]) for pool, new in ((keys, k), (values, case.v))]
    out = elementwise.rotate_and_store(
        qkv, positions, cos=rotary.cos, sin=rotary.sin, slots=slots, keys=keys, values=values
    )
    assert_close(out, q)
    assert_close(keys, wanted[0])
    assert torch.equal(values, wanted[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_and_swiglu_equal_pytorch(dtype):
    torch.manual_seed(0)
    hidden, update = (torch.randn(5, 48, device=DEVICE).to(dtype) for _ in range(2))
    weight = torch.rand(48, device=DEVICE).to(dtype)
    first = elementwise.add_rms_norm(hidden, None, weight, 1e-5)
    assert_close(first, F.rms_norm(hidden.float(), (48,), weight.float(), 1e-5))
    total = hidden + update
    second = elementwise.add_rms_norm(hidden, update, weight, 1e-5)
    assert torch.equal(hidden, total)
    assert_close(second, F.rms_norm(total.float(), (48,), weight.float(), 1e-5))
    gate, up = torch.randn(2, 3, 1100, device=DEVICE).to(dtype)
    assert_close(elementwise.swiglu(torch.cat((gate, up), dim=1)), F.silu(gate.float()) * up.float())
