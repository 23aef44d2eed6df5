import random

import pytest
import torch

from chatglm3.adapters import Prefix
from chatglm3.engine import GREEDY, Engine, SamplingParams
from chatglm3.errors import InvalidParameterError, PromptTooLongError
from tests.tiny import tiny_config, tiny_model

SEEDED = SamplingParams(temperature=1.0, top_p=0.9, seed=17, max_tokens=20)
BOTH = [GREEDY.replace(max_tokens=20), SEEDED]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def prompts(count=6, seed=0, longest=90):
    rng = random.Random(seed)
    return [[rng.randrange(320) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


def ids_of(completions):
    return [[one.ids for one in answers] for answers in completions]


def empty(engine):
    """No request, no block in use, books in order."""
    engine.check()
    stats = engine.stats
    return not engine.has_work and stats.running == stats.waiting == stats.blocks_used == 0


def run(engine):
    """Step until there is no work; outputs by request."""
    outputs = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


@pytest.mark.parametrize("params", BOTH, ids=["greedy", "seeded"])
def test_batched_equals_alone(model, params):
    engine = Engine(model)
    alone = [Engine(model).generate([prompt], params)[0] for prompt in prompts()]
    assert engine.generate(prompts(), params) == alone
    assert empty(engine)


@pytest.mark.parametrize("params", BOTH, ids=["greedy", "seeded"])
def test_chunked_equals_whole(model, params):
    whole = Engine(model, max_batch_tokens=1000).generate(prompts(), params)
    assert Engine(model, max_batch_tokens=7, max_sequences=3).generate(prompts(), params) == whole


@pytest.mark.parametrize("params", BOTH, ids=["greedy", "seeded"])
@pytest.mark.parametrize("block_size", [1, 5, 16])
def test_cached_equals_uncached(model, params, block_size):
    shared = prompts(1, seed=3)[0] * 3
    family = [shared + [i] * i for i in range(1, 5)] + [shared]
    uncached = Engine(model, prefix_caching=False).generate(family, params)
    engine = Engine(model, block_size=block_size)
    assert engine.generate(family, params) == uncached
    before = engine.stats.prefix_hits
    assert engine.generate(family, params) == uncached
    assert engine.stats.prefix_hits - before >= sum(len(p) - block_size for p in family)
    assert empty(engine)


@pytest.mark.parametrize("params", BOTH, ids=["greedy", "seeded"])
def test_preempted_equals_undisturbed(model, params):
    params = params.replace(max_tokens=60, presence_penalty=0.5)
    few = prompts(8, longest=40)
    undisturbed = Engine(model).generate(few, params)
    engine = Engine(model, num_blocks=30, block_size=4)
    assert engine.generate(few, params) == undisturbed
    assert engine.stats.preemptions > 2
    assert empty(engine)


def test_a_mixed_batch_gives_each_its_own(model):
    rng = random.Random(5)
    kinds = [
        SamplingParams(
            temperature=rng.choice([0, 0.7, 1.3]),
            top_p=rng.choice([0.5, 1.0]),
            top_k=rng.choice([0, 5]),
            min_p=rng.choice([0, 0.05]),
            repetition_penalty=rng.choice([1, 1.3]),
            frequency_penalty=rng.choice([0, 0.4]),
            logit_bias=rng.choice([{}, {3: 4.0}]),
            seed=i,
            max_tokens=rng.randrange(1, 25),
        )
        for i in range(20)
    ]
    many = prompts(20)
    alone = [Engine(model).generate([prompt], params)[0] for prompt, params in zip(many, kinds)]
    assert Engine(model, max_batch_tokens=40, max_sequences=9).generate(many, kinds) == alone


@pytest.mark.parametrize("chunk", [5, 512])
def test_rescored_equals_generated(model, chunk):
    params = GREEDY.replace(max_tokens=15, logprobs=2)
    prompt = prompts(1, seed=8)[0]
    answer = Engine(model).generate([prompt], params)[0][0]
    assert [one.token for one in answer.logprobs] == answer.ids
    assert all(one.top[0] == (one.token, one.logprob) for one in answer.logprobs)
    engine = Engine(model, max_batch_tokens=chunk, max_sequences=1)
    score = SamplingParams(max_tokens=0, prompt_logprobs=2)
    engine.generate([prompt], score)  # what is in the cache must not shorten the scores
    rescored = engine.generate([prompt + answer.ids], score)[0][0]
    assert rescored.ids == []
    assert rescored.finish_reason == "length"
    assert len(rescored.prompt_logprobs) == len(prompt) + len(answer.ids)
    assert rescored.prompt_logprobs[0] is None
    for got, expected in zip(rescored.prompt_logprobs[len(prompt) :], answer.logprobs):
        assert got.token == expected.token
        assert got.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert [token for token, _ in got.top] == [token for token, _ in expected.top]


def test_scores_survive_preemption(model):
    params = SamplingParams(temperature=0, max_tokens=40, prompt_logprobs=0)
    few = prompts(5, longest=30)
    expected = [Engine(model).generate([prompt], params)[0][0] for prompt in few]
    engine = Engine(model, num_blocks=20, block_size=4, max_batch_tokens=8, max_sequences=8)
    for [got], one, prompt in zip(engine.generate(few, params), expected, few):
        assert got.ids == one.ids
        assert len(got.prompt_logprobs) == len(prompt)
        for a, b in zip(got.prompt_logprobs[1:], one.prompt_logprobs[1:]):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    assert engine.stats.preemptions


def test_n_answers_share_the_prompt(model):
    prompt = prompts(1, seed=2, longest=80)[0] * 2
    params = SEEDED.replace(n=4, prompt_logprobs=1)
    engine = Engine(model)
    answers = engine.generate([prompt], params)[0]
    assert [one.index for one in answers] == [0, 1, 2, 3]
    assert len({tuple(one.ids) for one in answers}) == 4
    assert engine.stats.prefix_hits == 3 * ((len(prompt) - 1) // 16 * 16)
    assert all(len(one.prompt_logprobs) == len(prompt) for one in answers)
    assert Engine(model, prefix_caching=False).generate([prompt], params)[0][3].ids == answers[3].ids
    assert Engine(model).generate([prompt], SEEDED)[0][0].ids == answers[0].ids  # the first is that of n=1
    assert empty(engine)


def test_seeds(model):
    engine = Engine(model)
    prompt = [5, 6, 7]
    one, same = engine.generate([prompt] * 2, SEEDED)
    assert one == same
    other, unseeded, again = engine.generate(
        [prompt] * 3, [SEEDED.replace(seed=18), SEEDED.replace(seed=None), SEEDED.replace(seed=None)]
    )
    assert len({tuple(answer[0].ids) for answer in (one, other, unseeded, again)}) == 4


def test_finish_reasons(model):
    engine = Engine(model)
    prompt = [1, 2, 3]
    free = engine.generate([prompt], GREEDY.replace(max_tokens=10))[0][0]
    assert (free.finish_reason, free.stop_id, len(free.ids)) == ("length", None, 10)
    stop = free.ids[4]
    length = free.ids.index(stop) + 1
    stopped = engine.generate([prompt], GREEDY.replace(max_tokens=10, stop_ids={stop, 319}))[0][0]
    assert (stopped.finish_reason, stopped.stop_id, stopped.ids) == ("stop", stop, free.ids[:length])
    assert stopped.content_ids == free.ids[: length - 1]
    # A stop id that is the last token allowed is still a stop.
    exact = engine.generate([prompt], GREEDY.replace(max_tokens=length, stop_ids=[stop]))[0][0]
    assert exact.finish_reason == "stop"


@pytest.mark.parametrize("length", [1, 39, 40])
def test_a_full_context_ends_the_answer(length):
    engine = Engine(tiny_model(tiny_config(max_seq_len=40)))
    answer = engine.generate([[3] * length], GREEDY)[0][0]
    assert answer.finish_reason == "length"
    # Even after a full context one token can be predicted: it needs no position of its own.
    assert length + len(answer.ids) == max(40, length + 1)
    with pytest.raises(PromptTooLongError, match=r"41 tokens.*40"):
        engine.submit([3] * 41)


def test_a_small_cache_bounds_the_context(model):
    engine = Engine(model, num_blocks=4, block_size=8)
    assert engine.max_context == 32
    answer = engine.generate([[3] * 10], GREEDY)[0][0]
    assert (len(answer.ids), answer.finish_reason) == (22, "length")
    assert answer.ids == Engine(model).generate([[3] * 10], GREEDY.replace(max_tokens=22))[0][0].ids
    with pytest.raises(PromptTooLongError, match=r"33 tokens.*32.*cache"):
        engine.submit([3] * 33)


def test_abort_frees_at_once_and_is_reported(model):
    engine = Engine(model, num_blocks=20, max_sequences=2)
    params = SEEDED.replace(max_tokens=100)
    running, forked, waiting = (
        engine.submit([i] * 40, params.replace(n=n)) for i, n in ((1, 1), (2, 3), (3, 1))
    )
    for _ in range(3):
        engine.step()
    used = engine.stats.blocks_used
    assert engine.abort(forked)
    assert engine.stats.blocks_used < used
    assert engine.abort(waiting)
    assert not engine.abort(waiting)
    assert not engine.abort(12345)
    engine.check()
    outputs = [o for o in engine.step() if o.finish_reason]
    assert [(o.request_id, o.index, o.token, o.finish_reason) for o in outputs] == [
        (forked, 0, None, "abort"),
        (forked, 1, None, "abort"),
        (forked, 2, None, "abort"),
        (waiting, 0, None, "abort"),
    ]
    answer = [o.token for o in run(engine)[running]]
    assert answer == Engine(model).generate([[1] * 40], params)[0][0].ids[-len(answer) :]
    assert empty(engine)


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("index", [0, 1])
def test_one_of_several_answers_can_be_aborted(model, steps, index):
    params = SEEDED.replace(n=3)
    expected = Engine(model).generate([[1, 2, 3]], params)[0]
    engine = Engine(model)
    request = engine.submit([1, 2, 3], params)
    outputs = [output for _ in range(steps) for output in engine.step()]
    assert engine.abort(request, index)
    assert not engine.abort(request, index)
    assert not engine.abort(request, 3)
    engine.check()
    outputs += run(engine)[request]
    for one in expected:
        parts = [output for output in outputs if output.index == one.index]
        ids = [output.token for output in parts if output.token is not None]
        assert parts[-1].finish_reason == ("abort" if one.index == index else "length")
        assert ids == (one.ids[: len(ids)] if one.index == index else one.ids)
    assert empty(engine)


def test_running_and_cached_tokens_are_told(model):
    engine = Engine(model, max_sequences=1)
    one, two = engine.submit([1] * 40, GREEDY.replace(max_tokens=3)), engine.submit([1] * 40, GREEDY)
    engine.step()
    assert engine.running == {one}
    engine.abort(one)
    first = [output for output in engine.step() if output.request_id == two]
    assert [output.cached_tokens for output in first] == [32]
    assert [output.cached_tokens for output in engine.step()] == [None]
    assert engine.running == {two}


def test_closing_a_stream_aborts(model):
    engine = Engine(model)
    stream = engine.stream([1, 2, 3], SEEDED.replace(n=2))
    assert engine.stats.running == 0  # not submitted before the first output is wanted
    next(stream)
    assert engine.stats.blocks_used
    stream.close()
    assert empty(engine)
    engine.stream([1, 2, 3]).close()
    assert empty(engine)


def test_streams_may_interleave(model):
    engine = Engine(model)
    few = prompts(3)
    expected = ids_of(engine.generate(few, SEEDED))
    submitted = engine.submit(few[2], SEEDED)
    one, two = engine.stream(few[0], SEEDED), engine.stream(few[1], SEEDED)
    got = [[], []]
    for _ in range(20):
        got[0].append(next(one).token)
        got[1].append(next(two).token)
    inner = engine.generate([few[1]], SEEDED)
    assert ids_of(inner) == [expected[1]]
    assert next(one, None) is None
    assert next(two, None) is None
    assert got == [expected[0][0], expected[1][0]]
    # Outputs of a submitted request are kept for `step`, whoever made them.
    assert [o.token for o in run(engine)[submitted]] == expected[2][0]
    assert empty(engine)


def test_bad_requests_are_refused_before_anything_runs(model):
    engine = Engine(model, valid_vocab=300)
    for prompt in ([], [320], [-1], [1.0], [True], ["a"]):
        with pytest.raises(InvalidParameterError):
            engine.submit(prompt)
    for params in (
        SamplingParams(stop_ids=[320]),
        SamplingParams(logit_bias={300: 1.0}),
        SamplingParams(logprobs=301),
        SamplingParams(prompt_logprobs=301),
    ):
        with pytest.raises(InvalidParameterError):
            engine.stream([1], params)  # at once, not when the first output is asked for
    with pytest.raises(InvalidParameterError, match="2 prompts have 1"):
        engine.generate([[1], [2]], [GREEDY])
    with pytest.raises(PromptTooLongError):
        engine.generate([[1], [2] * 600], GREEDY)
    assert engine.generate([], GREEDY) == []
    assert empty(engine)


@pytest.mark.parametrize(
    "options",
    [
        {"num_blocks": 1, "cache_bytes": 1},
        {"cache_bytes": 100},
        {"num_blocks": 0},
        {"block_size": 0},
        {"max_sequences": 0},
        {"max_batch_tokens": 3, "max_sequences": 4},
        {"valid_vocab": 321},
        {"valid_vocab": 0},
    ],
    ids=str,
)
def test_engines_that_cannot_work_are_refused(model, options):
    with pytest.raises(InvalidParameterError):
        Engine(model, **options)


def test_cache_bytes_is_never_exceeded(model):
    engine = Engine(model, cache_bytes=100_000)
    assert 0.9 * 100_000 < engine.cache_bytes <= 100_000


class Damaged(torch.nn.Module):
    """A model whose logits are NaN after token 7, or which fails when told to."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config, self.layers, self.fails = model, model.config, model.layers, False

    def forward(self, tokens, positions, batch, lora):
        if self.fails:
            raise RuntimeError("out of memory")
        hidden = self.inner(tokens, positions, batch, lora)
        return torch.where((tokens == 7)[:, None], torch.nan, hidden)

    def logits(self, hidden):
        return self.inner.logits(hidden)


def test_nan_ends_its_own_request_only(model):
    engine = Engine(Damaged(model))
    good, bad = engine.generate([[1, 2, 3], [4, 7]], GREEDY.replace(max_tokens=5, logprobs=1, n=2))
    assert [one.finish_reason for one in bad] == ["error", "error"]
    assert bad[0].ids == []
    assert "not finite" in bad[0].error
    expected = Engine(model).generate([[1, 2, 3]], GREEDY.replace(max_tokens=5))[0][0].ids
    if 7 not in expected:
        assert [one.ids for one in good] == [expected] * 2
    assert empty(engine)


def test_a_failing_step_can_be_tried_again(model):
    broken = Damaged(model)
    engine = Engine(broken)
    params = GREEDY.replace(max_tokens=6)
    request = engine.submit([1, 2, 3], params)
    first = engine.step()
    broken.fails = True
    for _ in range(2):
        with pytest.raises(RuntimeError):
            engine.step()
        engine.check()
    broken.fails = False
    tokens = [o.token for o in first + run(engine)[request]]
    assert tokens == Engine(model).generate([[1, 2, 3]], params)[0][0].ids


def test_generate_that_fails_leaves_nothing_behind(model):
    broken = Damaged(model)
    engine = Engine(broken)
    broken.fails = True
    with pytest.raises(RuntimeError):
        engine.generate(prompts(3), GREEDY)
    assert empty(engine)


def test_padded_vocabulary_is_never_sampled(model):
    answers = Engine(model, valid_vocab=20).generate(
        prompts(4), SamplingParams(temperature=3.0, top_p=1, max_tokens=50)
    )
    assert max(max(one.ids) for [one] in answers) < 20


def prefix_of(length, seed=1):
    config = tiny_config()
    shape = (config.num_layers, length, config.num_kv_heads, config.head_dim)
    generator = torch.Generator().manual_seed(seed)
    return Prefix(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))


@pytest.mark.parametrize("length", [1, 16, 21])
def test_prefix_changes_answers_and_sharing_keeps_them(model, length):
    params = GREEDY.replace(max_tokens=12)
    few = [*prompts(3), [9] * 40, [9] * 40 + [8]]
    prefix = prefix_of(length)
    alone = [Engine(model, prefix=prefix, prefix_caching=False).generate([p], params)[0] for p in few]
    engine = Engine(model, prefix=prefix, max_batch_tokens=16, max_sequences=4)
    assert engine.generate(few, params) == alone
    assert engine.generate(few, params) == alone
    assert engine.stats.prefix_hits
    assert alone != Engine(model).generate(few, params)
    assert engine.max_context == 512
    assert empty(engine)


def test_random_requests_leave_the_pool_whole(model):
    rng = random.Random(0)
    engine = Engine(model, num_blocks=24, block_size=4, max_batch_tokens=24, max_sequences=6)
    family = prompts(4, longest=40)
    expected, open_requests, streams = {}, {}, []
    for number in range(1000):
        if rng.random() < 0.25 and len(open_requests) < 12:
            prompt = rng.choice(family)[: rng.randrange(1, 40)]
            params = SamplingParams(
                temperature=rng.choice([0, 1]),
                seed=number,
                max_tokens=rng.randrange(0, 40),
                n=rng.choice([1, 1, 1, 3]),
            )
            open_requests[engine.submit(prompt, params)] = (prompt, params, [])
        if open_requests and rng.random() < 0.08:
            engine.abort(rng.choice(list(open_requests)))
        if rng.random() < 0.03:
            streams.append(engine.stream(rng.choice(family), SEEDED))
        if streams and rng.random() < 0.3:
            stream = rng.choice(streams)
            if next(stream, None) is None or rng.random() < 0.1:
                streams.remove(stream)
                stream.close()
        for output in engine.step():
            prompt, params, outputs = open_requests[output.request_id]
            outputs.append(output)
            if sum(o.finish_reason is not None for o in outputs) == params.n:
                del open_requests[output.request_id]
                if number % 10 == 0 and all(o.finish_reason != "abort" for o in outputs):
                    expected[tuple(prompt), params] = outputs
        engine.check()
    for stream in streams:
        stream.close()
    for request in open_requests:
        engine.abort(request)
    engine.step()
    assert empty(engine)
    assert engine.stats.preemptions
    assert expected
    for (prompt, params), outputs in expected.items():
        undisturbed = Engine(model).generate([list(prompt)], params)[0]
        for one in undisturbed:
            assert one.ids == [o.token for o in outputs if o.index == one.index and o.token is not None]


def test_stats_add_up(model):
    engine = Engine(model, num_blocks=40)
    engine.generate([[1] * 40, [2] * 40], GREEDY.replace(max_tokens=5))
    stats = engine.stats
    assert (stats.prompt_tokens, stats.generated_tokens) == (80, 10)
    assert stats.computed_tokens == 80 + 2 * 4  # the last token of an answer is never fed back
    assert stats.blocks_used + stats.blocks_cached + stats.blocks_free == 40
    assert stats.blocks_cached == 4
    assert stats.steps == 5


def test_completions_come_as_soon_as_those_before_them_are_complete() -> None:
    engine = Engine(tiny_model(), num_blocks=64)
    short, long = SamplingParams(temperature=0, max_tokens=2), SamplingParams(temperature=0, max_tokens=60)
    results = engine.generate_each([[1, 2, 3], [4, 5, 6]], [short, long])
    assert len(next(results)[0].ids) == 2
    assert engine.stats.running == 1
    results.close()  # type: ignore[attr-defined]
    assert engine.stats.blocks_used == 0
    engine.check()
