"""Speculation changes how many tokens a step yields, and never which."""

from __future__ import annotations

import random
from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm3.attention import packed_batch
from chatglm3.engine import GREEDY, Engine, SamplingParams
from chatglm3.engine.speculation import PromptLookup, Speculation
from chatglm3.errors import InvalidParameterError
from tests.engine import test_constraint, test_engine
from tests.engine.test_constraint import Rising
from tests.engine.test_engine import empty, prompts, run
from tests.tiny import tiny_config, tiny_model

EAGER = {"speculate": 6, "row_cost": 1e-4}
"""Drafts whatever it can, even in a full batch."""

MODELS = [tiny_model(seed=seed) for seed in range(3)]


def repeating(count: int, ids: int, seed: int = 0) -> list[list[int]]:
    """Prompts in which short runs of a few ids come again and again."""
    rng = random.Random(seed)
    runs = [[rng.randrange(ids) for _ in range(rng.randint(2, 6))] for _ in range(4)]
    return [[token for _ in range(rng.randint(1, 12)) for token in rng.choice(runs)] for _ in range(count)]


sampling = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0, 0, 0.3, 1.0]),
    top_p=st.sampled_from([0.7, 1.0]),
    top_k=st.sampled_from([0, 3]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1, 1, 1.2, 0.8]),
    presence_penalty=st.sampled_from([0, 0, 0.5, -1.5]),
    frequency_penalty=st.sampled_from([0, 0.3, -0.5]),
    seed=st.integers(0, 10),
    max_tokens=st.integers(0, 40),
    n=st.sampled_from([1, 1, 2]),
    stop_ids=st.sets(st.integers(0, 12), max_size=2),
    logprobs=st.sampled_from([None, 0, 2]),
    prompt_logprobs=st.sampled_from([None, None, 1]),
    logit_bias=st.sampled_from([{}, {3: 4.0, 5: -100}]),
    grammar=st.sampled_from([None, None, Rising()]),
)


@settings(max_examples=15)
@given(
    data=st.data(), params=st.lists(sampling, min_size=1, max_size=5), vocabulary=st.sampled_from([9, 320])
)
def test_answers_are_those_without_it(data, params, vocabulary):
    model = data.draw(st.sampled_from(MODELS))
    vocabulary = 320 if any(own.grammar for own in params) else max(13, vocabulary)
    many = repeating(len(params), ids=min(vocabulary, 20), seed=data.draw(st.integers(0, 100)))
    expected = Engine(model, valid_vocab=vocabulary).generate(many, params)
    engine = Engine(
        model,
        valid_vocab=vocabulary,
        speculate=data.draw(st.integers(1, 9)),
        row_cost=data.draw(st.sampled_from([1e-4, 0.05, 0.5])),
        num_blocks=data.draw(st.sampled_from([40, 200])),
        block_size=4,
    )
    for got, wanted in zip(engine.generate(many, params), expected):
        for one, other in zip(got, wanted, strict=True):
            assert (one.ids, one.finish_reason, one.stop_id) == (
                other.ids,
                other.finish_reason,
                other.stop_id,
            )
            for mine, theirs in zip(one.logprobs or [], other.logprobs or [], strict=True):
                assert mine.token == theirs.token
                assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
                assert [token for token, _ in mine.top] == [token for token, _ in theirs.top]
    assert empty(engine)


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
    test_engine.test_a_mixed_batch_gives_each_its_own,
    test_engine.test_n_answers_share_the_prompt,
    test_engine.test_finish_reasons,
    test_engine.test_a_failing_step_can_be_tried_again,
    test_engine.test_streams_may_interleave,
]


@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda f: getattr(f, "func", f).__name__)
def test_the_engines_invariants_hold_with_it(invariant, monkeypatch):
    monkeypatch.setattr(test_engine, "Engine", partial(Engine, **EAGER))
    invariant(MODELS[0])


def test_grammars_hold_with_it(monkeypatch):
    monkeypatch.setattr(test_constraint, "Engine", partial(Engine, **EAGER))
    test_constraint.test_in_a_mixed_batch_everyone_gets_the_answer_it_gets_alone(MODELS[0])
    test_constraint.test_preempted_equals_undisturbed(MODELS[0])


def test_a_repeating_answer_takes_fewer_steps():
    params = GREEDY.replace(max_tokens=100, logit_bias={7: 30.0, 8: 15.0})
    engine = Engine(MODELS[0], speculate=8)
    [[answer]] = engine.generate([[7, 8]], params)
    stats = engine.stats
    assert len(answer.ids) == 100
    assert stats.steps < 30
    assert 70 < stats.accepted_tokens <= stats.drafted_tokens
    assert stats.computed_tokens == 2 + (stats.steps - 1) + stats.drafted_tokens
    assert answer.ids == Engine(MODELS[0]).generate([[7, 8]], params)[0][0].ids


def test_outputs_come_token_by_token_and_carry_what_they_carry_without():
    params = SamplingParams(temperature=0.5, seed=3, max_tokens=30, logprobs=1, n=2, logit_bias={7: 12.0})
    plain, eager = (Engine(MODELS[0], **options) for options in ({}, EAGER))
    outputs = []
    for engine in (plain, eager):
        request = engine.submit([7, 7, 7, 7], params)
        outputs.append(sorted(run(engine)[request], key=lambda output: output.index))
    assert eager.stats.steps < plain.stats.steps
    for one, other in zip(*outputs, strict=True):
        assert (one.token, one.index, one.finish_reason) == (other.token, other.index, other.finish_reason)
        assert one.cached_tokens == other.cached_tokens
        assert one.logprob.logprob == pytest.approx(other.logprob.logprob, abs=1e-4)


def test_the_sampled_distribution_is_the_models():
    """Chi-square over the first three tokens of 6000 answers, against products of the model's own softmax."""
    vocabulary, count, length = 4, 6000, 3
    model = tiny_model(tiny_config(vocab_size=vocabulary, max_seq_len=32), seed=1)
    prompt = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]
    params = SamplingParams(temperature=1.5, top_p=1, seed=5, n=count // 20, max_tokens=length + 1)
    engine = Engine(model, num_blocks=900, max_sequences=count // 20, max_batch_tokens=8192, **EAGER)
    answers = [one for seed in range(20) for one in engine.generate([prompt], params.replace(seed=seed))[0]]
    assert engine.stats.accepted_tokens > 1000

    expected = torch.ones((vocabulary,) * length)
    for past in (p for depth in range(length) for p in product(range(vocabulary), repeat=depth)):
        ids = torch.tensor([*prompt, *past])
        with torch.inference_mode():
            hidden = model(ids, torch.arange(len(ids)), packed_batch(model.config, [len(ids)]))
            chances = (model.logits(hidden[-1:])[0] / 1.5).softmax(0)
        expected[past] *= chances.view(-1, *[1] * (length - len(past) - 1))
    observed = torch.zeros_like(expected)
    for answer in answers:
        observed[tuple(answer.ids[:length])] += 1
    cells = expected * count
    assert abs(cells.sum() - count) < 1
    common = cells > 5
    distance = ((observed - cells)[common].square() / cells[common]).sum()
    degrees = int(common.sum()) - 1
    assert distance < degrees + 4 * (2 * degrees) ** 0.5


def test_drafts_are_what_followed_the_longest_match_last_time():
    lookup = PromptLookup()
    assert lookup.draft([1, 2, 3, 4, 5, 1, 2, 9, 3, 1, 2], 4, 0.01) == [9, 3, 1, 2]
    assert lookup.draft([1, 2, 3, 4, 5, 1, 2, 9, 3, 1, 2, 3], 2, 0.01) == [4, 5]
    assert PromptLookup().draft([1, 2, 3, 4], 4, 0.01) == []
    assert PromptLookup().draft([6, 5, 6, 5, 6], 3, 0.01) == [5, 6, 5]  # what goes round goes on


def test_what_does_not_hold_is_soon_drafted_no_more_and_comes_back():
    tokens, rng = [1, 2] * 4, random.Random(0)
    lookup, drafted = PromptLookup(), 0
    for _ in range(1000):
        draft = lookup.draft(tokens, 8, least_chance=0.05)
        if draft:
            lookup.learn(len(draft), 0)
        drafted += len(draft)
        tokens.append(rng.randrange(3, 20))
    assert drafted < 150  # of 1000 tokens, in all of which something matches
    for _ in range(1200):
        tokens += [40, 41, 42]
        if draft := lookup.draft(tokens, 8, least_chance=0.05):
            lookup.learn(len(draft), len(draft))
    assert len(lookup.draft(tokens, 8, least_chance=0.05)) >= 3


def test_a_draft_must_be_surer_among_more_answers():
    chances = [Speculation(8, 0.05).least_chance(rows) for rows in (1, 4, 16, 64)]
    assert chances[0] == 0.05
    assert chances == sorted(chances)
    assert 0.7 < chances[-1] < 1
    assert Speculation(8, 0.02).least_chance(4) < chances[1]


def test_drafts_never_cost_anyone_a_block():
    params = GREEDY.replace(max_tokens=40, logit_bias={7: 30.0})
    for blocks in (12, 15, 20, 29):
        plain, eager = (
            Engine(MODELS[0], num_blocks=blocks, block_size=4, **options) for options in ({}, EAGER)
        )
        few = [[7] * 9, [7] * 4, prompts(1)[0][:12]]
        assert eager.generate(few, params) == plain.generate(few, params)
        assert eager.stats.preemptions <= plain.stats.preemptions
        assert empty(eager)


@pytest.mark.parametrize("options", [{"speculate": -1}, {"row_cost": 0.0}, {"row_cost": 1.0}], ids=str)
def test_senseless_speculation_is_refused(options):
    with pytest.raises(InvalidParameterError, match=next(iter(options))):
        Engine(MODELS[0], **options)
