import random

import pytest

from chatglm3.engine import SamplingParams
from chatglm3.engine.cache import BlockPool
from chatglm3.engine.scheduler import Scheduler
from chatglm3.engine.sequence import Sequence
from chatglm3.engine.speculation import Speculation

BLOCK = 4


def scheduler(num_blocks=100, budget=32, rows=8, **options):
    pool = BlockPool(num_blocks, BLOCK, **options)
    return Scheduler(
        pool,
        max_batch_tokens=budget,
        max_sequences=rows,
        max_entries=num_blocks * BLOCK,
        speculation=Speculation(0, 0.05),
    )


def sequence(number, length, **options):
    prompt = [(number * 7919 + i) % 1000 for i in range(length)]
    return Sequence(number, 0, prompt, SamplingParams(), None, max_length=10**6, **options)


def step(s):
    """One step in which every sampled token is 1. Returns {request: tokens computed}."""
    batch = s.next_batch()
    sampling = [chunk.sequence for chunk in batch if chunk.samples]
    s.commit(batch)
    for one in sampling:
        one.tokens.append(1)
    s.check()
    assert sum(length for _, length in batch) <= s.max_batch_tokens
    return {chunk.sequence.request_id: chunk.length for chunk in batch}


def test_a_prompt_is_computed_in_chunks_and_then_decoded():
    s = scheduler(budget=10)
    s.add(sequence(0, 25))
    assert [step(s) for _ in range(4)] == [{0: 10}, {0: 10}, {0: 5}, {0: 1}]


def test_decodes_come_first_and_prompts_fill_the_budget():
    s = scheduler(budget=10)
    s.add(sequence(0, 5))
    step(s)
    s.add(sequence(1, 30))
    assert [step(s) for _ in range(4)] == [{0: 1, 1: 9}, {0: 1, 1: 9}, {0: 1, 1: 9}, {0: 1, 1: 3}]


def test_a_short_prompt_starts_at_once_beside_long_ones():
    s = scheduler(num_blocks=1000, budget=32, rows=16)
    for number in range(8):
        s.add(sequence(number, 400))
    for _ in range(3):
        step(s)
    s.add(sequence(8, 8))
    waited = next(steps for steps in range(100) if step(s).get(8))
    assert waited <= 8  # one admission a step, in order of age; each long prompt needs 12 steps of its own


def test_long_prompts_go_on_under_a_flood_of_short_ones():
    s = scheduler(num_blocks=1000, budget=32, rows=16)
    s.add(sequence(0, 300))
    served = 0
    for number in range(1, 25):
        s.add(sequence(number, 30))
        served += step(s).get(0, 0)
        for one in [one for one in s.running if one.request_id and one.remaining == 1]:
            s.remove(one)
    assert served >= 24 * 32 / 8  # of about five prompts at a time, which want more than there is


def test_prompts_take_turns():
    s = scheduler(budget=8)
    for number in range(3):
        s.add(sequence(number, 40))
    totals = {0: 0, 1: 0, 2: 0}
    for _ in range(9):
        for number, length in step(s).items():
            totals[number] += length
    assert max(totals.values()) - min(totals.values()) <= 8


def test_equal_prefixes_are_computed_once():
    s = scheduler(budget=64)
    first, second = sequence(0, 21), sequence(1, 21)
    second.tokens[:20] = first.tokens[:20]
    s.add(first)
    assert step(s) == {0: 21}
    s.add(second)
    assert step(s) == {0: 1, 1: 1}
    assert second.block_table[:5] == first.block_table[:5]
    assert (s.prefix_queries, s.prefix_hits) == (42, 20)


def test_a_whole_prompt_in_the_cache_still_computes_its_last_token():
    s = scheduler()
    s.add(sequence(0, 20))
    step(s)
    again = sequence(1, 20)
    again.tokens = list(s.running[0].tokens[:20])
    s.add(again)
    assert step(s)[1] == BLOCK


def test_a_prompt_waits_until_all_its_blocks_are_there():
    s = scheduler(num_blocks=10)
    first, second = sequence(0, 24), sequence(1, 24)
    s.add(first)
    s.add(second)
    assert step(s) == {0: 24}
    assert step(s) == {0: 1}
    assert s.waiting == [second]
    s.remove(first)
    assert step(s) == {1: 24}


def test_the_newest_is_preempted_and_comes_back_with_its_tokens():
    s = scheduler(num_blocks=7, budget=32)
    for number in range(2):
        s.add(sequence(number, 8))
    step(s)
    old, new = s.running
    while not s.preemptions:
        step(s)
    assert s.waiting == [new]
    kept = list(new.tokens)
    s.add(sequence(2, 4))
    step(s)
    assert s.waiting[0] is new  # older than the third
    s.remove(old)
    step(s)
    assert new.row >= 0
    assert new.tokens[: len(kept)] == kept
    assert s.running[0] is new


def test_rows_bound_what_runs():
    s = scheduler(rows=2)
    for number in range(3):
        s.add(sequence(number, 4))
    step(s)
    assert (len(s.running), len(s.waiting)) == (2, 1)


def test_a_prefix_fills_the_first_entries():
    s = scheduler()
    s.add(sequence(0, 9, prefix_length=6, namespace="adapter"))
    assert step(s) == {0: 9}
    one = s.running[0]
    assert (one.computed, len(one.block_table)) == (15, 4)
    assert [one.content(block, BLOCK) for block in range(4)] == [
        [],
        one.tokens[:2],
        one.tokens[2:6],
        one.tokens[6:],
    ]
    other = sequence(1, 9, namespace=None)
    other.tokens = list(one.tokens[:9])
    s.add(other)
    step(s)
    assert not set(other.block_table) & set(one.block_table)
    same = sequence(2, 9, prefix_length=6, namespace="adapter")
    same.tokens = list(one.tokens[:9])
    s.add(same)
    step(s)
    assert same.block_table[:3] == one.block_table[:3]


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_random_work_leaves_the_pool_whole(seed, caching):
    rng = random.Random(seed)
    s = scheduler(num_blocks=24, budget=16, rows=6, prefix_caching=caching)
    number = 0
    for _ in range(1000):
        if rng.random() < 0.3 and len(s.waiting) < 10:
            one = sequence(rng.randrange(4), rng.randrange(1, 60))  # few contents: many shared prefixes
            one.request_id = number = number + 1
            s.add(one)
        if (live := s.running + s.waiting) and rng.random() < 0.1:
            s.remove(rng.choice(live))
        if s.running or s.waiting:
            assert step(s)
        for one in [one for one in s.running if len(one.tokens) > 80]:
            s.remove(one)
    assert s.preemptions
    assert bool(s.prefix_hits) == caching
    for one in s.running + s.waiting:
        s.remove(one)
    s.check()
    assert s.pool.available == 24
