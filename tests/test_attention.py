"""The reference attention against a plain loop, over batches of every kind the engine makes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from chatglm3.attention import AttentionBatch, KVCache, attend, packed_batch
from chatglm3.errors import InvalidParameterError
from tests.tiny import tiny_config

CONFIG = tiny_config(num_layers=1, num_heads=6, num_kv_heads=2, head_dim=8)
BLOCK_SIZE = 4


@dataclass
class Step:
    """A batch whose earlier cache entries are filled, with its new queries, keys and values."""

    batch: AttentionBatch
    q: Tensor
    k: Tensor
    v: Tensor
    past: list[tuple[Tensor, Tensor]]
    """Keys and values of each sequence that were there before."""


def make_step(query_lens: list[int], context_lens: list[int], seed: int = 0, fill: float = torch.nan) -> Step:
    """Random tensors in blocks in random order; every slot that belongs to no sequence holds `fill`."""
    generator = torch.Generator().manual_seed(seed)
    counts = [-(-context // BLOCK_SIZE) for context in context_lens]
    blocks = list(range(sum(counts) + 2))
    random.Random(seed).shuffle(blocks)
    tables = [[blocks.pop() for _ in range(count)] for count in counts]
    cache = KVCache(CONFIG, sum(counts) + 2, BLOCK_SIZE)
    cache.keys[0].fill_(fill)
    cache.values[0].fill_(fill)
    batch = AttentionBatch.build(cache, query_lens, context_lens, tables)
    past = []
    for queries, context, table in zip(query_lens, context_lens, tables, strict=True):
        k, v = torch.randn(2, context - queries, 2, 8, generator=generator)
        slots = torch.tensor([table[i // BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE for i in range(len(k))])
        cache.write(0, slots.long(), k, v)
        past.append((k, v))
    q = torch.randn(sum(query_lens), 6, 8, generator=generator)
    k, v = torch.randn(2, sum(query_lens), 2, 8, generator=generator)
    return Step(batch, q, k, v, past)


def by_hand(step: Step) -> Tensor:
    """Attention of each query and head on its own, in float64."""
    out = torch.empty_like(step.q)
    starts = step.batch.query_starts.tolist()
    for s, (past_k, past_v) in enumerate(step.past):
        keys = torch.cat((past_k, step.k[starts[s] : starts[s + 1]])).double()
        values = torch.cat((past_v, step.v[starts[s] : starts[s + 1]])).double()
        for token in range(starts[s], starts[s + 1]):
            visible = len(past_k) + token - starts[s] + 1
            for head in range(6):
                seen_keys, seen_values = keys[:visible, head // 3], values[:visible, head // 3]
                weights = torch.softmax(seen_keys @ step.q[token, head].double() / 8**0.5, dim=0)
                out[token, head] = (weights @ seen_values).float()
    return out


@pytest.mark.parametrize(
    ("query_lens", "context_lens"),
    [
        pytest.param([5], [5], id="a whole prompt"),
        pytest.param([1], [1], id="one token"),
        pytest.param([3, 7, 1, 8], [3, 7, 1, 8], id="several prompts"),
        pytest.param([1, 1, 1], [9, 4, 1], id="decoding"),
        pytest.param([1, 1, 1], [3, 530, 1100], id="decoding at very different lengths"),
        pytest.param([4], [11], id="a chunk of a prompt"),
        pytest.param([1, 5, 1, 3, 1], [6, 5, 600, 9, 2], id="decoding, a prompt and a chunk in one step"),
    ],
)
def test_attention_is_what_its_definition_says(query_lens: list[int], context_lens: list[int]) -> None:
    step = make_step(query_lens, context_lens)
    out = attend(0, step.q, step.k, step.v, step.batch)
    torch.testing.assert_close(out, by_hand(step), atol=2e-6, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_random_batches(seed: int) -> None:
    rng = random.Random(seed)
    context_lens = [rng.randint(1, 40) for _ in range(rng.randint(1, 6))]
    query_lens = [rng.choice([1, rng.randint(1, context)]) for context in context_lens]
    step = make_step(query_lens, context_lens, seed)
    out = attend(0, step.q, step.k, step.v, step.batch)
    torch.testing.assert_close(out, by_hand(step), atol=2e-6, rtol=0)


def test_new_keys_and_values_go_to_their_slots_and_nowhere_else() -> None:
    step = make_step([2, 1], [6, 3], fill=7.0)
    cache = step.batch.cache
    before = cache.slot_keys[0].clone(), cache.slot_values[0].clone()
    attend(0, step.q, step.k, step.v, step.batch)
    for written, old, new in zip((cache.slot_keys[0], cache.slot_values[0]), before, (step.k, step.v)):
        assert torch.equal(written[step.batch.slots], new)
        others = torch.ones(len(old), dtype=torch.bool)
        others[step.batch.slots] = False
        assert torch.equal(written[others], old[others])


def test_slots_follow_the_block_table() -> None:
    cache = KVCache(CONFIG, num_blocks=8, block_size=4)
    batch = AttentionBatch.build(cache, [3, 1], [6, 2], [[5, 2], [7]])
    assert batch.slots.tolist() == [5 * 4 + 3, 2 * 4, 2 * 4 + 1, 7 * 4 + 1]
    assert batch.query_starts.tolist() == [0, 3, 4]
    assert batch.context_lens.tolist() == [6, 2]
    assert batch.block_tables.tolist() == [[5, 2], [7, 0]]


def test_a_packed_batch_leaves_room_for_the_prefix() -> None:
    batch = packed_batch(CONFIG, [3, 1], prefix_length=2)
    size = batch.cache.block_size
    assert size == 5
    assert batch.slots.tolist() == [2, 3, 4, size + 2]
    assert batch.context_lens.tolist() == [5, 3]


def test_the_cache_takes_the_memory_it_says() -> None:
    config = tiny_config(num_layers=3)
    cache = KVCache(config, num_blocks=5, block_size=16, dtype=torch.bfloat16)
    assert cache.nbytes == 5 * 16 * config.kv_values_per_token * 2
    assert cache.keys[0].shape == (5, 16, config.num_kv_heads, config.head_dim)


def test_a_cache_that_holds_nothing_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="0 blocks"):
        KVCache(CONFIG, num_blocks=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_the_cpu() -> None:
    query_lens, context_lens = [1, 5, 1, 3, 1], [6, 5, 600, 9, 2]
    step = make_step(query_lens, context_lens, fill=0.0)
    cache = KVCache(CONFIG, step.batch.cache.num_blocks, BLOCK_SIZE, device="cuda")
    cache.write(0, torch.arange(len(cache.slot_keys[0]), device="cuda"), *(
        slots[0].cuda() for slots in (step.batch.cache.slot_keys, step.batch.cache.slot_values)
    ))  # fmt: skip
    tables = step.batch.block_tables.tolist()
    batch = AttentionBatch.build(cache, query_lens, context_lens, tables)
    out = attend(0, step.q.cuda(), step.k.cuda(), step.v.cuda(), batch)
    torch.testing.assert_close(out.cpu(), by_hand(step), atol=1e-5, rtol=0)
