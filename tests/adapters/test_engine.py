"""Many adapters in one engine: each answer is the one that its adapter gives alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from chatglm3.adapters import Adapter, Lora, Prefix, StoredLora, read_adapter
from chatglm3.attention import packed_batch
from chatglm3.checkpoint import load_model, save_model
from chatglm3.config import ModelConfig
from chatglm3.engine import GREEDY, Engine, SamplingParams
from chatglm3.errors import InvalidParameterError
from chatglm3.lora import LoraBatch
from chatglm3.model import ChatGLMModel
from chatglm3.quant import QuantConfig, quantize_linear
from tests.adapters.files import lora_tensors, random_lora, write_lora
from tests.tiny import tiny_config, tiny_model

CONFIG = tiny_config()
PROMPTS = [[7, 30, 12, 99, 41], list(range(60, 100)), [5, 5, 260], list(range(7, 30))]


def random_prefix(config: ModelConfig, length: int, seed: int) -> Prefix:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, config.num_layers, length, config.num_kv_heads, config.head_dim)
    return Prefix(*torch.randn(shape, generator=generator).unbind())


@pytest.fixture(scope="module")
def model() -> ChatGLMModel:
    return tiny_model(CONFIG)


@pytest.fixture(scope="module")
def adapters(model: ChatGLMModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    save_model(model, CONFIG, folder / "base")

    def lora(name: str, layout: Any, seed: int) -> Lora:
        stored = read_adapter(random_lora(folder / name, CONFIG, layout, seed), folder / "base", CONFIG)
        assert isinstance(stored, StoredLora)
        return stored.on(model)

    return {
        "poet": lora("poet", "glm", 1),
        "clerk": lora("clerk", "chatglm", 2),
        "short": random_prefix(CONFIG, 5, 3),
        "long": random_prefix(CONFIG, 21, 4),
    }


def with_adapter(params: SamplingParams, name: str | None) -> SamplingParams:
    return params.replace(adapter=name)


def test_a_batch_of_all_adapters_gives_what_each_gives_alone(
    model: ChatGLMModel, adapters: dict[str, Adapter]
) -> None:
    params = GREEDY.replace(max_tokens=12, logprobs=0)
    wanted = list(itertools.product(PROMPTS, [None, *adapters]))
    mixed = Engine(model, adapters=adapters, max_batch_tokens=24, max_sequences=12)
    together = mixed.generate(
        [prompt for prompt, _ in wanted], [with_adapter(params, name) for _, name in wanted]
    )
    mixed.check()
    alone, answers = Engine(model, adapters=adapters, prefix_caching=False), set()
    for (prompt, name), completions in zip(wanted, together):
        (expected,) = alone.generate([prompt], with_adapter(params, name))
        assert completions[0].ids == expected[0].ids, (prompt, name)
        ours = torch.tensor([entry.logprob for entry in completions[0].logprobs or ()])
        theirs = torch.tensor([entry.logprob for entry in expected[0].logprobs or ()])
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
        answers.add((tuple(prompt), tuple(completions[0].ids)))
    assert len(answers) == len(wanted)  # every adapter says something of its own


def test_rows_without_an_adapter_are_those_of_the_model_alone_bit_for_bit(
    adapters: dict[str, Adapter],
) -> None:
    model = tiny_model(CONFIG)  # not the one of the engines, which may have taken another kernel
    rows = [torch.tensor(prompt) for prompt in PROMPTS]
    lengths = [len(row) for row in rows]
    tokens, positions = torch.cat(rows), torch.cat([torch.arange(n) for n in lengths])
    poet = adapters["poet"]
    assert isinstance(poet, Lora)
    lora = LoraBatch.build([None, poet, None, poet], lengths, "cpu")
    plain = model(tokens, positions, packed_batch(CONFIG, lengths)).split(lengths)
    mixed = model(tokens, positions, packed_batch(CONFIG, lengths), lora).split(lengths)
    assert [torch.equal(a, b) for a, b in zip(plain, mixed)] == [True, False, True, False]
    assert LoraBatch.build([None] * 4, lengths, "cpu") is None  # and nothing is computed for them


def test_an_adapter_without_updates_is_the_model(model: ChatGLMModel, tmp_path: Path) -> None:
    save_model(model, CONFIG, tmp_path / "base")
    tensors = {k: v if "lora_A" in k else 0 * v for k, v in lora_tensors(CONFIG).items()}
    stored = read_adapter(write_lora(tmp_path / "zero", tensors), tmp_path / "base", CONFIG)
    assert isinstance(stored, StoredLora)
    engine = Engine(model, adapters={"zero": stored.on(model)})
    params = GREEDY.replace(max_tokens=8)
    assert engine.generate(PROMPTS, with_adapter(params, "zero")) == engine.generate(PROMPTS, params)


def test_cached_blocks_are_those_of_the_same_adapter_only(
    model: ChatGLMModel, adapters: dict[str, Adapter]
) -> None:
    engine = Engine(model, adapters=adapters, block_size=4)
    params = GREEDY.replace(max_tokens=2)
    prompt = PROMPTS[1]
    for name in (None, *adapters):
        hits = engine.stats.prefix_hits
        (first,) = engine.generate([prompt], with_adapter(params, name))
        assert engine.stats.prefix_hits == hits, name
        (again,) = engine.generate([prompt], with_adapter(params, name))
        assert engine.stats.prefix_hits > hits, name
        assert first[0].ids == again[0].ids


def test_a_preempted_answer_with_an_adapter_is_the_same(
    model: ChatGLMModel, adapters: dict[str, Adapter]
) -> None:
    params = [with_adapter(GREEDY.replace(max_tokens=30), name) for name in (None, "poet", "clerk", "long")]
    roomy = Engine(model, adapters=adapters)
    narrow = Engine(model, adapters=adapters, num_blocks=26, block_size=4, prefix_caching=False)
    expected = roomy.generate(PROMPTS, params)
    assert [c[0].ids for c in narrow.generate(PROMPTS, params)] == [c[0].ids for c in expected]
    assert narrow.stats.preemptions > 0
    narrow.check()


def test_the_default_adapter_answers_requests_that_name_none(
    model: ChatGLMModel, adapters: dict[str, Adapter]
) -> None:
    engine = Engine(model, adapters=adapters, default_adapter="poet")
    params = GREEDY.replace(max_tokens=6)
    assert engine.generate(PROMPTS, params) == engine.generate(PROMPTS, with_adapter(params, "poet"))
    assert engine.adapters == list(adapters)


def test_the_context_has_room_for_the_longest_prefix(
    model: ChatGLMModel, adapters: dict[str, Adapter]
) -> None:
    engine = Engine(model, adapters=adapters, num_blocks=8, block_size=16)
    assert engine.max_context == 8 * 16 - 21
    assert Engine(model, adapters=adapters).max_context == CONFIG.max_seq_len


def test_unknown_adapters_are_named(model: ChatGLMModel, adapters: dict[str, Adapter]) -> None:
    engine = Engine(model, adapters=adapters)
    with pytest.raises(InvalidParameterError, match="adapter is 'pet', but there is 'poet', 'clerk'"):
        engine.submit([1], SamplingParams(adapter="pet"))
    with pytest.raises(InvalidParameterError, match="none is loaded"):
        Engine(model).submit([1], SamplingParams(adapter="poet"))
    with pytest.raises(InvalidParameterError, match="give an adapter's name"):
        SamplingParams(adapter=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterError, match="default_adapter is 'pet'"):
        Engine(model, adapters=adapters, default_adapter="pet")
    with pytest.raises(InvalidParameterError, match="prefix of its own"):
        Engine(model, prefix=random_prefix(CONFIG, 3, 0), adapters=adapters)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("scheme", ["int8", "int4", "published-int8", "published-int4"])
def test_over_quantized_layers(tmp_path: Path, scheme: str, dora: bool) -> None:
    """The adapter sees the weights that the codes stand for."""
    quantized, plain = tiny_model(CONFIG), tiny_model(CONFIG)
    policy = QuantConfig(scheme, embedding=None, output=None)
    for name, linear in plain.named_modules():
        if isinstance(linear, nn.Linear) and (wanted := policy.scheme_for(name)) is not None:
            small = quantize_linear(linear.weight, linear.bias, wanted)  # not packed: the exact reference
            quantized.set_submodule(name, small)
            linear.weight.copy_(small.dequantize())
    save_model(plain, CONFIG, tmp_path / "base")
    tensors = lora_tensors(CONFIG)
    if dora:
        for name, tensor in list(tensors.items()):
            if "lora_B" in name:
                stem = name.removesuffix("lora_B.weight")
                tensors[f"{stem}lora_magnitude_vector"] = 1 + tensor.abs().sum(dim=1)
    folder = write_lora(tmp_path / "lora", tensors, use_dora=dora)
    stored = read_adapter(folder, tmp_path / "base", CONFIG)
    assert isinstance(stored, StoredLora)

    def logits(model: ChatGLMModel) -> torch.Tensor:
        ids = torch.tensor(PROMPTS[1])
        lora = LoraBatch.build([stored.on(model)], [len(ids)], "cpu")
        return model.logits(model(ids, torch.arange(len(ids)), packed_batch(CONFIG, [len(ids)]), lora))

    torch.testing.assert_close(logits(quantized), logits(plain), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("layout", ["chatglm", "glm"])
def test_updates_are_added_to_the_weights_they_are_named_for(tmp_path: Path, layout: Any) -> None:
    """Both layouts' names, against the sums written out."""
    save_model(tiny_model(CONFIG), CONFIG, tmp_path / "base", layout=layout)
    from safetensors.torch import load_file, save_file

    tensors = lora_tensors(CONFIG, layout)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    for name in [name for name in tensors if "lora_A" in name]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        weights[f"{module}.weight"] += 8 / 4 * tensors[name.replace("_A", "_B")] @ tensors[name]
    (tmp_path / "summed").mkdir()
    save_file(weights, tmp_path / "summed" / "model.safetensors")
    (tmp_path / "summed" / "config.json").write_bytes((tmp_path / "base" / "config.json").read_bytes())
    stored = read_adapter(write_lora(tmp_path / "lora", tensors), tmp_path / "base", CONFIG)
    assert isinstance(stored, StoredLora)
    model = load_model(tmp_path / "base")
    params = GREEDY.replace(max_tokens=10)
    adapted = Engine(model, adapters={"x": stored.on(model)}, default_adapter="x")
    summed = Engine(load_model(tmp_path / "summed"))
    assert [c[0].ids for c in adapted.generate(PROMPTS, params)] == [
        c[0].ids for c in summed.generate(PROMPTS, params)
    ]
