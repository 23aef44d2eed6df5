"""The fused network against the modules of `model.py`: batches, caches and weights of every kind."""

from __future__ import annotations

import copy
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from chatglm3 import fused
from chatglm3.attention import AttentionBatch, KVCache
from chatglm3.fused import FusedNetwork
from chatglm3.kernels import Native
from chatglm3.model import ChatGLMModel
from chatglm3.quant import QuantConfig, quantize_model
from tests.tiny import tiny_config, tiny_model

BLOCK_SIZE = 4
ODD = {"hidden_size": 40, "num_heads": 6, "head_dim": 12, "ffn_hidden_size": 52, "vocab_size": 301}
ONE_GROUP = {"num_heads": 16, "num_kv_heads": 1, "head_dim": 8}


class Steps:
    """One batch after another over a cache, the same for every way to compute."""

    def __init__(
        self, model: ChatGLMModel, dtype: torch.dtype, contexts: list[int], seed: int, int8: bool = False
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        counts = [-(-context // BLOCK_SIZE) for context in contexts]
        blocks = list(range(sum(counts) + 1))
        random.Random(seed).shuffle(blocks)
        self.model = model
        self.tables = [[blocks.pop() for _ in range(count)] for count in counts]
        self.cache = KVCache(model.config, sum(counts) + 1, BLOCK_SIZE, dtype, int8=int8)
        for tensor in (*self.cache.keys, *self.cache.values):
            tensor.view(torch.uint8).fill_(255)  # nan: what belongs to no sequence must not be read
        self.tokens = torch.randint(model.config.vocab_size, (max(contexts),), generator=generator)

    def run(self, query_lens: list[int], contexts: list[int]) -> Tensor:
        batch = AttentionBatch.build(self.cache, query_lens, contexts, self.tables)
        spans = [slice(context - length, context) for length, context in zip(query_lens, contexts)]
        tokens = torch.cat([self.tokens[span] for span in spans])
        positions = torch.cat([torch.arange(span.start, span.stop) for span in spans])
        return self.model(tokens, positions, batch)


def pair(native: Native, model: ChatGLMModel) -> tuple[ChatGLMModel, ChatGLMModel]:
    """The model as it is, and fused for the given kernels."""
    model.fused = None
    other = copy.deepcopy(model)
    other.fused = FusedNetwork(other, native)
    return model, other


def compare(
    models: tuple[ChatGLMModel, ChatGLMModel],
    steps: list[Any],
    dtype: torch.dtype,
    *,
    seed: int = 0,
    int8: bool = False,
) -> float:
    """Largest difference of hidden states over the steps, relative to their size; also checks the caches."""
    contexts = [max(values) for values in zip(*(contexts for _, contexts in steps))]
    runs = [Steps(model, dtype, contexts, seed, int8) for model in models]
    worst = 0.0
    for query_lens, seen in steps:
        expected, found = (run.run(query_lens, seen).float() for run in runs)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        worst = max(worst, float((expected - found).abs().max() / expected.abs().max()))
    for kind in ("keys", "values"):
        for expected, found in zip(getattr(runs[0].cache, kind), getattr(runs[1].cache, kind)):
            untouched = [(tensor.view(torch.uint8) == 255).all(-1) for tensor in (expected, found)]
            assert torch.equal(*untouched)
    return worst


MIXED = [
    ([5, 1, 9], [5, 1, 9]),
    ([1, 1, 1], [6, 2, 10]),
    ([7, 1, 3], [13, 3, 13]),
    ([1, 20, 1], [14, 23, 14]),
]


@pytest.mark.parametrize("sizes", [{}, ODD, ONE_GROUP], ids=["tiny", "odd sizes", "one group"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_prompts_chunks_and_decoding_in_one_batch(
    native: Native, sizes: dict[str, int], dtype: torch.dtype
) -> None:
    models = pair(native, tiny_model(tiny_config(**sizes)))
    if dtype == torch.float32:
        assert compare(models, MIXED, dtype) < 1e-5
        return
    # The reference runs in the cache's dtype throughout; the native code only keeps the cache in it.
    half = models[0].to(dtype)
    difference = compare((half, pair(native, copy.deepcopy(half))[1]), MIXED, dtype)
    assert difference < {torch.bfloat16: 0.1, torch.float16: 0.01}[dtype]


@pytest.mark.parametrize("sizes", [{}, ODD, ONE_GROUP], ids=["tiny", "odd sizes", "one group"])
def test_a_cache_in_8_bits(native: Native, sizes: dict[str, int]) -> None:
    """Codes that differ by one where a quotient lies at .5 are all that may differ."""
    models = pair(native, tiny_model(tiny_config(**sizes)))
    assert compare(models, MIXED, torch.float32, int8=True) < 0.01


@pytest.mark.parametrize("tokens", range(1, 21))
def test_every_number_of_tokens(native: Native, tokens: int) -> None:
    models = pair(native, tiny_model())
    assert compare(models, [([tokens], [tokens]), ([1], [tokens + 1])], torch.float32) < 1e-5


@pytest.mark.parametrize("context", [31, 32, 33, 65, 300, 512, 513, 1600])
def test_long_contexts(native: Native, context: int) -> None:
    """Several tiles of entries, prompts of several tiles of rows, and entries divided among threads."""
    models = pair(native, tiny_model(tiny_config(max_seq_len=2048)))
    steps = [([context - 1], [context - 1]), ([1], [context])]
    assert compare(models, steps, torch.float32) < 2e-5


@pytest.mark.parametrize("seed", range(6))
def test_random_batches(native: Native, seed: int) -> None:
    rng = random.Random(seed)
    contexts = [0] * rng.randint(1, 6)
    steps = []
    for _ in range(5):
        query_lens = [rng.choice([1, rng.randint(1, 30)]) for _ in contexts]
        contexts = [context + length for context, length in zip(contexts, query_lens)]
        steps.append((query_lens, contexts))
    assert compare(pair(native, tiny_model(seed=seed)), steps, torch.float32, seed=seed) < 1e-5


@pytest.mark.parametrize("sizes", [{}, ODD], ids=["tiny", "odd sizes"])
@pytest.mark.parametrize("config", [QuantConfig("int4"), QuantConfig("int8", 64), QuantConfig("int4", 128)])
def test_quantized_networks(
    native: Native, sizes: dict[str, int], config: QuantConfig, monkeypatch: Any
) -> None:
    """Against the same packed linears, called one by one from PyTorch."""
    monkeypatch.setattr("chatglm3.quant.kernels.native_kernels", lambda device: native)
    model = tiny_model(tiny_config(**sizes))
    quantize_model(model, config)
    assert (
        compare(pair(native, model), MIXED, torch.float32) < 0.02
    )  # roundings of activations that differ by one


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits(native: Native, rows: int, dtype: torch.dtype) -> None:
    model, other = pair(native, tiny_model(tiny_config(**ODD)).to(dtype))
    hidden = torch.randn(rows, 40, generator=torch.Generator().manual_seed(rows))
    expected = hidden.double() @ model.output.weight.double().T
    torch.testing.assert_close(other.logits(hidden).double(), expected, atol=1e-5, rtol=1e-5)


def test_a_token_does_not_depend_on_its_neighbours(native: Native) -> None:
    """Bit for bit: what else is in the batch, and how many threads there are, changes nothing."""
    _, model = pair(native, tiny_model(tiny_config(max_seq_len=2048)))
    contexts = [1200, 33, 5]
    together = Steps(model, torch.float32, contexts, 0)
    prompts = together.run([c - 1 for c in contexts], [c - 1 for c in contexts])
    decoded = together.run([1, 1, 1], contexts)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        start = 0
        for i, context in enumerate(contexts):
            alone = Steps(model, torch.float32, contexts, 0)
            alone.tables = [together.tables[i]]
            assert torch.equal(alone.run([context - 1], [context - 1]), prompts[start : start + context - 1])
            assert torch.equal(alone.run([1], [context])[0], decoded[i])
            start += context - 1
    finally:
        torch.set_num_threads(before)


def test_what_a_token_does_not_see_leaves_no_trace(native: Native) -> None:
    """Not even the weight of 1e-38 that rounding up the softmax's zero would give it."""
    _, model = pair(native, tiny_model())
    model.embedding.weight[5] = 0
    for layer in model.layers:
        layer.qkv.bias.zero_()
    steps = Steps(model, torch.float32, [40], 0)
    steps.tokens[0] = 5  # its value is 0, so any other would show
    assert torch.equal(steps.run([1], [1])[0], steps.run([40], [40])[0])


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("row", [0, 7, -1, -8, -17, -24], ids=["q", "q7", "v7", "v0", "k7", "k0"])
def test_what_is_no_number_is_not_taken_for_one(native: Native, row: int, int8: bool) -> None:
    """A damaged weight: every token that attention reaches with it is nan, as in the reference."""
    model = tiny_model()
    model.layers[0].qkv.weight[row] = torch.nan
    for one in pair(native, model):
        steps = Steps(one, torch.float32, [37], 0, int8)
        assert steps.run([36], [36]).isnan().all()
        assert steps.run([1], [37]).isnan().all()


def test_positions_of_any_layout(native: Native) -> None:
    _, model = pair(native, tiny_model())
    cache = KVCache(model.config, 3, BLOCK_SIZE)
    batch = AttentionBatch.build(cache, [9], [9], [[0, 1, 2]])
    tokens, positions = torch.arange(9), torch.arange(9)
    expected = model(tokens, positions, batch)
    assert torch.equal(model(tokens, positions.int(), batch), expected)
    assert torch.equal(model(tokens, torch.stack((positions, positions), 1)[:, 0], batch), expected)


def test_two_threads_over_one_model(native: Native) -> None:
    """Two engines may share a model; each computes what it would alone."""
    _, model = pair(native, tiny_model(tiny_config(hidden_size=256, num_layers=4)))
    lengths = [150, 60]
    runs = [Steps(model, torch.float32, [length], seed) for seed, length in enumerate(lengths)]
    expected = [run.run([length], [length]) for run, length in zip(runs, lengths)]

    def repeat(i: int) -> bool:
        return all(torch.equal(runs[i].run([lengths[i]], [lengths[i]]), expected[i]) for _ in range(30))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(repeat, range(2)))


def test_changes_in_place_are_seen_and_moving_ends_it(native: Native) -> None:
    model, other = pair(native, tiny_model())
    for module in (model, other):
        module.layers[0].qkv.weight.mul_(0.5)
        module.layers[1].attention_norm.weight.mul_(2)
    assert compare((model, other), MIXED, torch.float32) < 1e-5
    assert copy.deepcopy(other).fused is None
    assert other.bfloat16().fused is None


@pytest.mark.parametrize("odd", [{"norm": "layernorm"}, {"residual_after_norm": True}])
def test_other_networks_run_through_their_modules(odd: dict[str, Any]) -> None:
    model = tiny_model(tiny_config(**odd))
    fused.fuse(model)
    assert model.fused is None
