"""Keys and values in 8 bits: half the memory, the same invariants, nearly the same answers."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from chatglm3.attention import AttentionBatch, KVCache, attend
from chatglm3.engine import GREEDY, Engine, SamplingParams
from tests.engine import test_engine
from tests.engine.test_engine import prefix_of, prompts
from tests.tiny import tiny_config, tiny_model

MODEL = tiny_model()


def test_a_vector_comes_back_within_half_a_step_of_its_scale():
    config = tiny_config()
    cache = KVCache(config, num_blocks=3, block_size=4, int8=True)
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 6, 2, 16, generator=generator) * torch.logspace(-8, 8, 6)[:, None, None]
    keys[3] = 0
    slots = torch.tensor([7, 0, 3, 11, 4, 5])
    cache.write(1, slots, keys, values)
    for wanted, got in zip((keys, values), cache.read(1, slots)):
        steps = wanted.abs().amax(-1, keepdim=True) / 127
        assert ((wanted - got).abs() <= 0.5001 * steps).all()
        assert ((wanted - got).abs().amax(-1) > 0).sum() > 5  # that it is rounded at all
    assert cache.read(0, slots)[0].abs().max() == 0
    cache.write(1, slots[:1], keys[:1], values[:1])
    assert torch.equal(cache.read(1, slots[1:])[0], cache.read(1, slots)[0][1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_halves(dtype):
    config = tiny_config(head_dim=128, num_heads=2)
    plain, small = (KVCache(config, 5, 16, dtype, int8=int8) for int8 in (False, True))
    assert small.nbytes / plain.nbytes == pytest.approx(1.03 / dtype.itemsize, rel=0.01)
    for cache in (plain, small):
        assert cache.nbytes == 5 * 16 * KVCache.bytes_per_token(config, dtype, int8=cache.int8)
    engines = [Engine(MODEL, cache_bytes=200_000, int8_cache=int8) for int8 in (False, True)]
    assert all(190_000 < engine.cache_bytes <= 200_000 for engine in engines)
    assert engines[1].stats.blocks_free > 3 * engines[0].stats.blocks_free  # of float32, 16 values a head


def test_attention_over_it_is_attention_over_what_it_holds():
    config = tiny_config(num_layers=1)
    generator = torch.Generator().manual_seed(1)
    lens, contexts, tables = [3, 1, 8, 2], [9, 6, 8, 11], [[0, 1, 2], [3, 4], [5, 6], [7, 8, 9]]
    q = torch.randn(sum(lens), 4, 16, generator=generator)
    k, v = torch.randn(2, sum(lens), 2, 16, generator=generator)
    past = torch.randn(2, 40, 2, 16, generator=generator)
    outs = []
    for int8 in (True, False):
        cache = KVCache(config, num_blocks=10, block_size=4, int8=int8)
        cache.write(0, torch.arange(40), *past)
        batch = AttentionBatch.build(cache, lens, contexts, tables)
        if int8:
            outs.append(attend(0, q, k, v, batch))
            past, (k, v) = cache.read(0, torch.arange(40)), cache.read(0, batch.slots)
        else:
            outs.append(attend(0, q, k, v, batch))
    torch.testing.assert_close(outs[0], outs[1], atol=2e-6, rtol=0)


INVARIANTS = [
    *(
        partial(test, params=params)
        for params in test_engine.BOTH
        for test in (
            test_engine.test_batched_equals_alone,
            test_engine.test_chunked_equals_whole,
            partial(test_engine.test_cached_equals_uncached, block_size=5),
            test_engine.test_preempted_equals_undisturbed,
        )
    ),
    partial(test_engine.test_rescored_equals_generated, chunk=5),
]


@pytest.mark.parametrize("speculate", [0, 5])
@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda f: getattr(f, "func", f).__name__)
def test_the_engines_invariants_hold_with_it(invariant, speculate, monkeypatch):
    options = {"int8_cache": True, "speculate": speculate, "row_cost": 1e-4}
    monkeypatch.setattr(test_engine, "Engine", partial(Engine, **options))
    invariant(MODEL)


def test_scores_hardly_move():
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    many = prompts(6, longest=200)
    plain, small = (Engine(MODEL, int8_cache=int8).generate(many, params) for int8 in (False, True))
    moved = [
        abs(one.logprob - other.logprob)
        for [got], [wanted] in zip(small, plain)
        for one, other in zip(got.prompt_logprobs[1:], wanted.prompt_logprobs[1:])
    ]
    assert 0 < sum(moved) / len(moved) < 0.02


def test_a_prefix_fits_in():
    engine = Engine(MODEL, prefix=prefix_of(21), int8_cache=True, max_batch_tokens=64)
    few = prompts(3)
    params = GREEDY.replace(max_tokens=5)
    assert engine.generate(few, params) == [engine.generate([ids], params)[0] for ids in few]
