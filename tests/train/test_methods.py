"""What is trained computes what it should: the base, packed rows, prefixes, frozen quantized weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import GlmForCausalLM

from chatglm3.attention import packed_batch
from chatglm3.checkpoint import load_model, save_model
from chatglm3.kernels import Choice
from chatglm3.quant import QuantConfig, kernels
from chatglm3.train.answers import greedy_answers
from chatglm3.train.base import TrainableGlm, load_base
from chatglm3.train.config import parse_config
from chatglm3.train.encode import Example
from chatglm3.train.methods import Trained, prepare_model, trained_parameters
from chatglm3.train.rows import Collator, LengthGrouped, Row, pack
from tests.tiny import tiny_config, tiny_model, write_tiny_checkpoint

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"dropout": 0}},
    "dora": {"method": "lora", "lora": {"dropout": 0, "dora": True}},
    "qlora": {"method": "qlora", "lora": {"dropout": 0}},
    "ptuning": {"method": "ptuning", "ptuning": {"length": 5}},
    "projection": {"method": "ptuning", "ptuning": {"length": 5, "projection": True}},
    "full": {"method": "full"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def make(folder: Path, name: str) -> Trained:
    config = parse_config({"model": str(folder), "output": "o", "train": "t"} | METHODS[name])
    torch.manual_seed(0)
    base = load_base(folder, quantize="int4" if config.method == "qlora" else None)
    model = prepare_model(base, config).train()
    with torch.no_grad():  # an update that begins at 0 would hide mistakes
        for parameter in model.parameters():
            if parameter.requires_grad and config.trains_adapter:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def examples(*lengths: int) -> list[Example]:
    numbers = random.Random(0)
    return [
        Example([numbers.randrange(3, 300) for _ in range(n)], [False] + [i % 3 > 0 for i in range(1, n)])
        for n in lengths
    ]


def gradients(model: Trained, batch: dict[str, Any]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    inputs = {name: value for name, value in batch.items() if name != "where"}
    loss = model(**inputs, num_items_in_batch=10).loss
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", ["chatglm", "glm"])
def test_the_base_computes_what_inference_computes(tmp_path: Path, layout: Any) -> None:
    ours = tiny_model()
    save_model(ours, ours.config, tmp_path, layout=layout)
    theirs = load_base(tmp_path).eval()
    ids = torch.arange(3, 40)
    with torch.inference_mode():
        expected = ours.logits(ours(ids, torch.arange(len(ids)), packed_batch(ours.config, [len(ids)])))
        assert torch.allclose(theirs(input_ids=ids[None]).logits[0], expected, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in theirs.parameters())


@pytest.mark.parametrize("scheme", [QuantConfig("int4"), QuantConfig("int8"), QuantConfig.published(4)])
def test_a_quantized_folder_is_taken_as_it_is(
    tmp_path: Path, scheme: QuantConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "choose", lambda: Choice(None, "native kernels round activations"))
    plain, quantized = tmp_path / "plain", tmp_path / "quantized"
    save_model(tiny_model(), tiny_config(), plain)
    ours = load_model(plain, quantize=scheme)
    config = ours.config
    if "published" in scheme.scheme:
        bits = int(scheme.scheme[-1])
        config = tiny_config(quantization_bit=bits)
    save_model(ours, config, quantized)
    theirs = load_base(quantized).eval()
    ids = torch.arange(3, 40)
    with torch.inference_mode():
        expected = ours.logits(ours(ids, torch.arange(len(ids)), packed_batch(ours.config, [len(ids)])))
        assert torch.allclose(theirs(input_ids=ids[None]).logits[0], expected, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_only_what_the_method_names_is_trained_and_in_fp32(folder: Path, name: str) -> None:
    model = make(folder, name)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    _, found = gradients(model, Collator(0)([Row([e], ["a"]) for e in examples(9, 6)]))
    assert set(found) == set(trained)
    parts = {"lora": "lora_", "dora": "lora_", "qlora": "lora_", "ptuning": "prompt_encoder"}
    part = parts.get(name, "prompt_encoder" if name == "projection" else "")
    assert all(part in n for n in trained)
    assert trained_parameters(model) == sum(p.numel() for p in trained.values())


@pytest.mark.parametrize("name", METHODS)
def test_packed_rows_learn_what_separate_rows_learn(folder: Path, name: str) -> None:
    model = make(folder, name)
    parts = examples(9, 6, 7, 12)
    separate = Collator(0)([Row([e], ["a"]) for e in parts])
    packed = Collator(0, packed=True)([Row(parts[:2], ["a", "b"]), Row(parts[2:], ["c", "d"])])
    assert packed["where"] == ["a", "b", "c", "d"]
    loss, expected = gradients(model, separate)
    packed_loss, found = gradients(model, packed)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    for parameter, gradient in expected.items():
        assert torch.allclose(found[parameter], gradient, rtol=1e-3, atol=1e-5), parameter


@pytest.mark.parametrize("name", METHODS)
def test_gradient_checkpointing_changes_nothing(folder: Path, name: str) -> None:
    model = make(folder, name)
    batch = Collator(0, packed=True)([Row(examples(9, 6), ["a", "b"])])
    loss, expected = gradients(model, batch)
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, found = gradients(model, batch)
    assert again == loss
    assert all(torch.equal(found[parameter], gradient) for parameter, gradient in expected.items())


def test_the_loss_is_transformers_own(folder: Path) -> None:
    model = load_base(folder)
    batch = Collator(0)([Row([e], ["a"]) for e in examples(9, 6)])
    inputs = {"input_ids": batch["input_ids"], "labels": batch["labels"]}
    expected = GlmForCausalLM.forward(model, **inputs).loss
    assert model(**inputs).loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_batch_with_nothing_to_learn_has_loss_zero_and_a_gradient(folder: Path) -> None:
    model = make(folder, "lora")
    batch = Collator(0)([Row([Example([5, 6, 7], [False] * 3)], ["a"])])
    loss, found = gradients(model, batch)
    assert loss == 0
    assert all(not gradient.any() for gradient in found.values())


@pytest.mark.parametrize("name", ["lora", "dora", "ptuning", "projection"])
def test_peft_loads_the_adapter_and_computes_the_same(folder: Path, tmp_path: Path, name: str) -> None:
    model = make(folder, name).eval()
    ids = torch.arange(3, 23).view(2, 10)
    with torch.inference_mode():
        ours = model(input_ids=ids).logits
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    plain = GlmForCausalLM(model.config)
    plain.set_attn_implementation("sdpa")
    plain.load_state_dict(load_base(folder).state_dict())
    theirs = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    with torch.inference_mode():
        found = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.allclose(found, ours, atol=1e-4)
    with torch.inference_mode():
        assert not torch.allclose(load_base(folder)(input_ids=ids).logits, ours, atol=1e-2)


@pytest.mark.parametrize("name", ["lora", "ptuning"])
def test_answers_of_a_batch_are_those_of_each_prompt_alone(folder: Path, name: str) -> None:
    model = make(folder, name).eval()
    prompts = [example.ids for example in examples(4, 9, 6)]
    alone = [greedy_answers(model, [prompt], {2}, 8, 0)[0] for prompt in prompts]
    assert greedy_answers(model, prompts, {2}, 8, 0) == alone
    ids = list(prompts[0])  # and those of no cache at all
    for token in alone[0]:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits
        assert int(logits[0, -1].argmax()) == token
        ids.append(token)


def test_packs_hold_every_sample_once_and_keep_to_the_size() -> None:
    lengths = [random.Random(1).randrange(1, 100) for _ in range(200)]
    groups = pack(lengths, 128)
    assert sorted(i for group in groups for i in group) == list(range(200))
    assert all(sum(lengths[i] for i in group) <= 128 for group in groups)
    assert len(groups) <= 1.05 * sum(lengths) / 128 + 1
    with pytest.raises(ValueError, match="sample 1 has 9 tokens"):
        pack([3, 9], 8)


def test_batches_of_one_length_hold_every_row_once_in_a_repeatable_order() -> None:
    lengths = [random.Random(2).randrange(1, 1000) for _ in range(403)]
    sampler = LengthGrouped(lengths, 4, seed=0)
    order = list(sampler)
    assert sorted(order) == list(range(403))
    assert list(LengthGrouped(lengths, 4, seed=0)) == order
    sampler.set_epoch(1)
    assert list(sampler) != order
    spread = [max(lengths[i] for i in order[s : s + 4]) - min(lengths[i] for i in order[s : s + 4])
              for s in range(0, 400, 4)]  # fmt: skip
    assert sum(spread) / len(spread) < 50


def test_the_base_is_not_held_twice(folder: Path) -> None:
    """Every weight of the network lies in one place, and none is left on the meta device."""
    model = load_base(folder, dtype=torch.bfloat16)
    assert isinstance(model, TrainableGlm)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(places)) == len(places)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
