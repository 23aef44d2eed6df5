"""Calibrated int4: nearer to the original on the same bits, the same file format, the same every time."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatglm3.attention import packed_batch
from chatglm3.calibration import calibrated_weights, calibration_samples, write_calibrated
from chatglm3.calibration.samples import FEWEST_TOKENS, MOST_TOKENS
from chatglm3.checkpoint import Checkpoint, load_model, save_model
from chatglm3.config import ModelConfig
from chatglm3.errors import CheckpointError, DeviceError, InvalidParameterError, TrainingDataError
from chatglm3.model import ChatGLMModel
from chatglm3.quant import QuantConfig, is_quantized
from chatglm3.quant.gptq import quantize_for
from chatglm3.quant.groupwise import GROUP_SIZES, Groupwise
from tests.tiny import tiny_config, tiny_model, tiny_tokenizer, write_tiny_checkpoint

INT4 = QuantConfig("int4")


def correlated_inputs(count: int, columns: int, seed: int = 0) -> Tensor:
    """[count, columns]: like activations, most of them in a quarter as many directions as columns."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(columns // 4, columns, generator=torch.Generator().manual_seed(99))
    hidden = torch.randn(count, columns // 4, generator=generator) @ directions
    return hidden + 0.3 * torch.randn(count, columns, generator=generator)


def moment_of(x: Tensor) -> Tensor:
    return x.T @ x / len(x)


def normal_weight(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) * 0.02


def output_error(weight: Tensor, restored: Tensor, x: Tensor) -> float:
    return float((x @ (weight - restored).T).square().sum() / (x @ weight.T).square().sum())


@pytest.mark.parametrize("size", GROUP_SIZES)
def test_outputs_lose_less_than_half_of_what_nearest_codes_lose(size: int) -> None:
    scheme, columns = Groupwise(4, size), 300  # the last group is short
    weight = normal_weight(64, columns)
    plain = quantize_for(scheme, weight, moment_of(correlated_inputs(2000, columns)))
    unseen = correlated_inputs(500, columns, seed=7)
    nearest = scheme.dequantize(scheme.quantize(weight), columns)
    chosen = scheme.dequantize(plain, columns)
    assert output_error(weight, chosen, unseen) < 0.5 * output_error(weight, nearest, unseen)
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in plain.items()}
    assert found == scheme.layout(64, columns, torch.float32)
    padding = F.pad(torch.ones(64, columns), (0, -columns % size)) == 0
    everything = scheme.dequantize(plain, plain["qweight"].shape[1] * 2)
    assert (everything[padding] == 0).all()


def test_inputs_that_have_nothing_in_common_need_no_calibration() -> None:
    """H = 1: the loss is that of the weights, and the wider search for scales can only lower it."""
    weight = normal_weight(128, 256)
    scheme = Groupwise(4)
    errors = [
        float((weight - scheme.dequantize(plain, 256)).square().sum() / weight.square().sum())
        for plain in (quantize_for(scheme, weight, torch.eye(256)), scheme.quantize(weight))
    ]
    assert 0.9 * errors[1] < errors[0] <= errors[1]


def test_it_finds_weights_that_codes_express() -> None:
    scheme = Groupwise(4)
    weight = scheme.dequantize(scheme.quantize(normal_weight(32, 96)), 96)
    plain = quantize_for(scheme, weight, moment_of(correlated_inputs(1000, 96)))
    x = correlated_inputs(100, 96, seed=3)
    assert output_error(weight, scheme.dequantize(plain, 96), x) < 2e-4


def test_rows_and_runs_are_independent() -> None:
    weight, moment = normal_weight(48, 96), moment_of(correlated_inputs(500, 96))
    weight[3] = 0
    whole = quantize_for(Groupwise(4), weight, moment)
    again = quantize_for(Groupwise(4), weight, moment)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert (Groupwise(4).dequantize(whole, 96)[3] == 0).all()


@pytest.mark.parametrize(
    "moment",
    [torch.zeros(64, 64), torch.ones(64, 64) * 1e6, torch.diag(torch.arange(64.0) % 2)],
    ids=["nothing", "one direction", "dead inputs"],
)
def test_moments_without_full_rank_are_damped(moment: Tensor) -> None:
    weight = normal_weight(16, 64)
    restored = Groupwise(4).dequantize(quantize_for(Groupwise(4), weight, moment), 64)
    assert restored.isfinite().all()
    assert (weight - restored).abs().max() < 0.06


def test_damage_is_named() -> None:
    weight, moment = normal_weight(16, 64), torch.eye(64)
    bad = weight.clone()
    bad[3, 3] = torch.inf
    with pytest.raises(CheckpointError, match="inf or nan; the checkpoint is damaged"):
        quantize_for(Groupwise(4), bad, moment)
    with pytest.raises(CheckpointError, match="no usable second moment"):
        quantize_for(Groupwise(4), weight, moment * torch.nan)


def test_a_damaged_network_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    model = tiny_model()
    model.layers[1].ffn_norm.weight.data[5] = torch.inf
    save_model(model, model.config, tmp_path / "plain")
    samples = random_samples(model.config.vocab_size, 4, seed=1)
    with pytest.raises(CheckpointError, match=r"give inf or nan to layers\.1\.gate_up"):
        write_calibrated(tmp_path / "plain", tmp_path / "out", INT4, samples)
    assert not list((tmp_path / "out").iterdir())


def outlier_model(config: ModelConfig) -> ChatGLMModel:
    """A tiny random network; a few columns of each linear are 8 times as large."""
    model = tiny_model(config)
    generator = torch.Generator().manual_seed(5)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith("layers"):
            columns = torch.randperm(module.in_features, generator=generator)[: module.in_features // 32]
            module.weight.data[:, columns] *= 8
            module.weight.data /= module.in_features**0.5 * 0.3
    return model


def random_samples(vocab_size: int, count: int, seed: int) -> list[list[int]]:
    """Of different lengths, so that some are computed together."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab_size, (60 + 7 * i,), generator=generator).tolist() for i in range(count)]


def log_probabilities(model: ChatGLMModel, samples: list[list[int]]) -> Tensor:
    batch = packed_batch(model.config, [len(ids) for ids in samples])
    positions = torch.cat([torch.arange(len(ids)) for ids in samples])
    hidden = model(torch.tensor([i for ids in samples for i in ids]), positions, batch)
    return model.logits(hidden).double().log_softmax(dim=1)


def restored(model: ChatGLMModel, weights: dict[str, Tensor]) -> ChatGLMModel:
    """The model with the linears of its layers as these tensors have them."""
    changed = copy.deepcopy(model)
    for name, module in changed.named_modules():
        if f"{name}.qweight" in weights and name.startswith("layers"):
            plain = {part: weights[f"{name}.{part}"] for part in ("qweight", "scales")}
            module.weight.data = Groupwise(4).dequantize(plain, module.in_features)
    return changed


@pytest.mark.parametrize(
    "overrides",
    [{}, {"norm": "layernorm", "linear_bias": True, "residual_after_norm": True, "final_norm": False}],
    ids=["published", "every option"],
)
def test_the_network_is_nearer_to_the_original(tmp_path: Path, overrides: dict[str, object]) -> None:
    config = tiny_config(hidden_size=96, ffn_hidden_size=160, **overrides)
    model = outlier_model(config)
    save_model(model, config, tmp_path)
    samples = random_samples(config.vocab_size, 40, seed=1)
    chosen = dict(calibrated_weights(Checkpoint(tmp_path, config), config, INT4, samples))
    nearest = load_model(tmp_path, quantize=INT4)
    assert chosen.keys() == nearest.state_dict().keys()
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in nearest.state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in chosen.items()} == shapes
    unseen = random_samples(config.vocab_size, 4, seed=2)
    reference = log_probabilities(model, unseen)
    kl = [
        float(
            F.kl_div(
                log_probabilities(restored(model, weights), unseen),
                reference,
                log_target=True,
                reduction="sum",
            )
        )
        for weights in (chosen, dict(nearest.state_dict()))
    ]
    assert kl[0] < 0.8 * kl[1], kl


def test_a_calibrated_folder_is_a_quantized_model_like_any_other(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "plain")
    config = ModelConfig.from_folder(source)
    samples = random_samples(config.vocab_size, 6, seed=1)
    told: list[tuple[int, int]] = []
    for name in ("once", "again"):
        write_calibrated(source, tmp_path / name, INT4, samples, progress=lambda *at: told.append(at))
    assert told == [(1, 2), (2, 2)] * 2
    once, again = (load_model(tmp_path / name) for name in ("once", "again"))
    assert is_quantized(once)
    assert once.config == replace(config, quantization=INT4.to_dict())
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in once.state_dict().items())
    plain = load_model(source)
    assert torch.equal(once.layers[0].attention_norm.weight, plain.layers[0].attention_norm.weight)
    assert torch.equal(once.layers[1].qkv.bias, plain.layers[1].qkv.bias)
    assert (log_probabilities(once, samples) - log_probabilities(plain, samples)).abs().mean() < 1
    with pytest.raises(CheckpointError, match="quantized already; give the original weights"):
        write_calibrated(tmp_path / "once", tmp_path / "twice", INT4, samples)


def test_what_cannot_be_calibrated_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source, out = write_tiny_checkpoint(tmp_path / "plain"), tmp_path / "out"
    for quant, samples, device, error, complaint in (
        (QuantConfig("int8"), [[1]], "cpu", InvalidParameterError, "calibration is for int4; int8 loses"),
        (INT4, [], "cpu", InvalidParameterError, "no calibration sample"),
        (INT4, [[1], []], "cpu", InvalidParameterError, "or an empty one"),
        (INT4, [[1, 9999]], "cpu", InvalidParameterError, "the id 9999, and the model knows"),
        (INT4, [[1]], "mps", DeviceError, "runs on cpu and cuda, not on mps"),
    ):
        with pytest.raises(error, match=complaint):
            write_calibrated(source, out, quant, samples, device=device)
    assert not out.exists()


def test_the_packages_own_texts_are_bilingual_and_enough() -> None:
    samples = calibration_samples(tiny_tokenizer(), max_seq_len=512)
    assert FEWEST_TOKENS < sum(map(len, samples)) < MOST_TOKENS + 512
    assert max(map(len, samples)) <= 512
    assert samples == calibration_samples(tiny_tokenizer(), max_seq_len=512)


def test_a_file_of_any_kind_and_size(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    plain = tmp_path / "notes.txt"
    plain.write_text("hello world, 你好世界！\n" * 300, encoding="utf-8")
    pieces = calibration_samples(tokenizer, plain, max_seq_len=200)
    assert all(piece[: len(tokenizer.prefix_ids)] == tokenizer.prefix_ids for piece in pieces)
    body = sum(len(piece) - len(tokenizer.prefix_ids) for piece in pieces)
    assert body == len(tokenizer.encode(plain.read_text(encoding="utf-8")))  # nothing is dropped at a cut
    records = [
        {"text": "hello world " * 40},
        {"prompt": "你好", "response": "hello " * 60},
        {"prompt": "hi", "chosen": "hello " * 40, "rejected": "world"},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello " * 40}]},
    ]
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("".join(json.dumps(record) + "\n" for record in records * 10), encoding="utf-8")
    assert len(calibration_samples(tokenizer, mixed)) == 40
    mixed.write_text("".join(json.dumps(record) + "\n" for record in records * 500), encoding="utf-8")
    assert MOST_TOKENS <= sum(map(len, calibration_samples(tokenizer, mixed))) < MOST_TOKENS + 2048


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.jsonl", b"", "holds no sample"),
        ("empty.txt", b"", "holds 0 tokens, and calibration wants 2048"),
        ("short.jsonl", b'{"text": "hello"}\n', "add text, or leave the file out"),
        ("broken.jsonl", b'{"text": "hello"}\n{"text', "broken.jsonl:2: the line is not JSON"),
        ("odd.jsonl", b'{"question": "hello"}\n', "odd.jsonl:1: .*no known format"),
        ("latin.txt", b"caf\xe9", "byte 3 is not UTF-8"),
        ("absent.txt", None, "is not there; give a text file"),
        ("absent.jsonl", None, "is not there"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes | None, complaint: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingDataError, match=complaint):
        calibration_samples(tiny_tokenizer(), tmp_path / name)
