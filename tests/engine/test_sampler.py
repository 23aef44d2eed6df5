import math

import pytest
import torch

from chatglm3.engine import SamplingParams
from chatglm3.engine.sampler import Sampler, SamplingState, score, uniform

CPU = torch.device("cpu")


class Fixed(SamplingState):
    """A state whose uniform number is given."""

    def __init__(self, params, vocab, number):
        super().__init__(params, [0], 0, vocab, CPU)
        self.number = number

    def uniform(self):
        return self.number


def state(params, vocab=64, prompt=(1, 2, 3)):
    return SamplingState(params, prompt, 0, vocab, CPU)


def random_logits(rows, vocab, seed=0, scale=2.0):
    return scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def distribution(logits, params):
    """The obvious way: sort, cut, renormalise, one token after the other. Returns {token: probability}."""
    weights = {i: math.exp((x - max(logits)) / params.temperature) for i, x in enumerate(logits)}
    order = sorted(weights, key=lambda i: (-weights[i], i))
    if params.top_k:
        order = order[: params.top_k]
    total, mass, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if params.top_p < 1 and mass >= params.top_p * total:
            break
        kept.append(i)
        mass += weights[i]
    kept = [i for i in kept if weights[i] >= params.min_p]
    total = sum(weights[i] for i in kept)
    return {i: weights[i] / total for i in kept}


def sweep(logits, params, draws=400):
    """Sample one row with evenly spread numbers: shares of tokens are probabilities, up to 1 / draws."""
    sampler = Sampler(len(logits), CPU)
    states = [Fixed(params, len(logits), (i + 0.5) / draws) for i in range(draws)]
    tokens = [s.token for s in sampler.sample(logits.expand(draws, -1).clone(), states)]
    return {token: tokens.count(token) / draws for token in set(tokens)}


TRUNCATIONS = [
    {"top_p": 1.0},
    {"top_p": 0.8},
    {"top_p": 0.999},
    {"top_p": 0.01},
    {"top_p": 1.0, "top_k": 1},
    {"top_p": 1.0, "top_k": 7},
    {"top_p": 1.0, "top_k": 10_000},
    {"top_p": 0.7, "top_k": 20},
    {"top_p": 1.0, "min_p": 0.1},
    {"top_p": 0.9, "min_p": 0.05},
    {"top_p": 0.9, "top_k": 30, "min_p": 0.02, "temperature": 1.7},
    {"top_p": 0.95, "temperature": 0.3},
    {"top_p": 0.9, "temperature": 100.0},
]


@pytest.mark.parametrize("options", TRUNCATIONS, ids=str)
@pytest.mark.parametrize("vocab", [50, 1000])
def test_sampling_follows_the_definition(options, vocab):
    logits = random_logits(1, vocab, seed=3)[0]
    params = SamplingParams(**{"temperature": 1.0} | options)
    expected, got = distribution(logits.tolist(), params), sweep(logits, params)
    assert set(got) <= set(expected)
    for token, share in expected.items():
        assert got.get(token, 0) == pytest.approx(share, abs=1 / 400 + 1e-6)
    assert {token for token, share in expected.items() if share > 1 / 400} <= set(got)


@pytest.mark.parametrize("options", TRUNCATIONS, ids=str)
def test_equal_logits_are_cut_exactly_and_by_id(options):
    vocab = 600
    params = SamplingParams(**{"temperature": 1.0} | options)
    logits = torch.zeros(vocab)
    logits[::3] = 1.0  # ties at two levels
    expected, got = distribution(logits.tolist(), params), sweep(logits, params, draws=3 * vocab)
    assert (
        {token for token, share in expected.items() if share > 1 / (3 * vocab)} <= set(got) <= set(expected)
    )


def test_rows_are_chosen_as_if_alone():
    vocab = 1000
    kinds = [SamplingParams(**{"temperature": 0.9, "seed": 5} | options) for options in TRUNCATIONS]
    kinds += [
        SamplingParams(temperature=0),
        SamplingParams(seed=1, repetition_penalty=1.5, top_p=1.0),
        SamplingParams(seed=2, logit_bias={5: 3.0}, presence_penalty=1.0, frequency_penalty=0.5, logprobs=3),
    ]
    logits = random_logits(len(kinds), vocab).bfloat16().float()  # many ties
    together = Sampler(vocab, CPU).sample(logits.clone(), [state(p, vocab) for p in kinds])
    for row, params in enumerate(kinds):
        alone = Sampler(vocab, CPU).sample(logits[row : row + 1].clone(), [state(params, vocab)])[0]
        assert together[row] == alone


def test_greedy_takes_the_first_of_the_largest():
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]])
    assert Sampler(4, CPU).sample(logits, [state(SamplingParams(temperature=0), 4)])[0].token == 1


@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=0), SamplingParams(temperature=5.0, top_p=1.0)]
)
def test_padded_rows_are_never_chosen(params):
    logits = torch.zeros(200, 64)
    logits[:, 60:] = 50.0
    states = [state(params, 60) for _ in range(200)]
    assert max(s.token for s in Sampler(60, CPU).sample(logits, states)) < 60


def test_statistics_of_whole_runs():
    """20,000 draws from one stream: a chi-square test at a level that a right sampler fails once in 1e6."""
    vocab, draws = 8, 20_000
    logits = random_logits(1, vocab, seed=1, scale=1.0)
    params = SamplingParams(temperature=1.0, top_p=1.0, seed=11)
    one, sampler, counts = state(params, vocab), Sampler(vocab, CPU), [0] * vocab
    for _ in range(draws // 100):
        states = [one_draw(one) for _ in range(100)]
        for chosen in sampler.sample(logits.expand(100, -1).clone(), states):
            counts[chosen.token] += 1
    expected = logits[0].softmax(-1) * draws
    chi_square = sum((count - float(e)) ** 2 / float(e) for count, e in zip(counts, expected))
    assert chi_square < 41  # 7 degrees of freedom


def one_draw(source):
    """A state that repeats the source's next number; the source moves on."""
    copy = state(source.params, 8)
    copy._draws = source._draws
    source.observe(0)
    return copy


def test_uniform_is_a_function_of_its_arguments_and_spread_evenly():
    numbers = [
        uniform(seed, stream, counter) for seed in (-1, 0, 3) for stream in (0, 1) for counter in range(500)
    ]
    assert len(set(numbers)) == len(numbers)
    assert numbers[7] == uniform(-1, 0, 7)
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(numbers)))
    assert uniform(-1, 0, 0) == uniform(2**64 - 1, 0, 0)  # the same 64 bits


def test_torch_generator_is_neither_read_nor_moved():
    logits = random_logits(4, 64)
    params = SamplingParams(seed=9)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Sampler(64, CPU).sample(logits.clone(), [state(params, 64) for _ in range(4)])
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert Sampler(64, CPU).sample(logits.clone(), [state(params, 64) for _ in range(4)]) == first


def edited(params, prompt, answer, logits):
    """The logits that the sampler would choose from."""
    one = state(params, logits.shape[-1], prompt)
    for token in answer:
        one.observe(token)
    row = logits.clone()
    one.edits.apply(row)
    return row


def test_penalties_and_bias_follow_their_definitions():
    logits = torch.tensor([2.0, -1.0, 0.5, -0.5, 1.0, 3.0])
    prompt, answer = [0, 1, 1], [2, 2, 3]
    got = edited(SamplingParams(repetition_penalty=2.0), prompt, answer, logits)
    assert got.tolist() == [1.0, -2.0, 0.25, -1.0, 1.0, 3.0]  # ids of the prompt and the answer
    got = edited(SamplingParams(repetition_penalty=0.5), prompt, answer, logits)
    assert got.tolist() == [4.0, -0.5, 1.0, -0.25, 1.0, 3.0]
    got = edited(SamplingParams(presence_penalty=0.5), prompt, answer, logits)
    assert got.tolist() == [2.0, -1.0, 0.0, -1.0, 1.0, 3.0]  # ids of the answer, once
    got = edited(SamplingParams(frequency_penalty=0.5), prompt, answer, logits)
    assert got.tolist() == [2.0, -1.0, -0.5, -1.0, 1.0, 3.0]  # for every occurrence
    got = edited(SamplingParams(logit_bias={4: -100.0, 0: 1.0}), prompt, answer, logits)
    assert got.tolist() == [3.0, -1.0, 0.5, -0.5, -99.0, 3.0]
    got = edited(
        SamplingParams(repetition_penalty=2.0, presence_penalty=0.5, logit_bias={2: 1.0}),
        prompt,
        answer,
        logits,
    )
    assert got.tolist() == [1.0, -2.0, 0.75, -1.5, 1.0, 3.0]  # the bias is not divided


def test_logprobs_are_of_the_models_own_distribution():
    logits = random_logits(2, 64)
    params = SamplingParams(seed=1, temperature=0.2, logit_bias={7: 50.0}, logprobs=4)
    chosen = Sampler(60, CPU).sample(logits.clone(), [state(params, 60), state(SamplingParams(), 60)])
    assert chosen[1].logprob is None
    assert chosen[0].token == chosen[0].logprob.token == 7
    expected = logits[0].log_softmax(-1)
    assert chosen[0].logprob.logprob == pytest.approx(float(expected[7]), abs=1e-5)
    best = expected[:60].sort(descending=True)
    assert [token for token, _ in chosen[0].logprob.top] == best.indices[:4].tolist()
    assert [value for _, value in chosen[0].logprob.top] == pytest.approx(best.values[:4].tolist(), abs=1e-5)


def test_score_lists_as_many_as_each_row_asks_for():
    scores = score(random_logits(3, 64), torch.tensor([1, 2, 3]), [0, 2, 5], 64)
    assert [len(s.top) for s in scores] == [0, 2, 5]


@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=0), SamplingParams(), SamplingParams(top_p=1.0)]
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_is_not_finite_gets_no_token_and_harms_no_other(params, value):
    params = params.replace(seed=4)
    logits = random_logits(3, 64)
    expected = Sampler(64, CPU).sample(logits.clone(), [state(params, 64) for _ in range(3)])
    logits[1, 5] = value
    got = Sampler(64, CPU).sample(logits.clone(), [state(params, 64) for _ in range(3)])
    assert got[1].token is None
    assert (got[0], got[2]) == (expected[0], expected[2])
