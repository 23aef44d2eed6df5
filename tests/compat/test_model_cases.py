"""`model(...)` and `model.generate(...)` on the published cases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from chatglm3.compat import AutoConfig, AutoModel
from chatglm3.errors import ChatGLM3Error, PromptTooLongError
from tests.compat.cases import halves

TOLERANCE = {"rtol": 0.0, "atol": 2e-5}


@dataclass
class Published:
    """A checkpoint folder with what the published model computed on it."""

    name: str
    model: AutoModel
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def logits(self, **inputs: Tensor) -> Tensor:
        return self.model(**inputs).logits


def _folders(fixtures: Path) -> Iterator[Path]:
    for path in halves(fixtures, "model/*/config.json"):
        yield path.parent


@pytest.fixture(scope="module")
def plain(fixtures_dir: Path) -> list[Published]:
    """The checkpoints without a prefix."""
    return [
        Published(f"{folder.parts[-3]}/{folder.name}", *_loaded(folder, folder))
        for folder in _folders(fixtures_dir)
        if not AutoConfig.from_pretrained(folder).pre_seq_len
    ]


@pytest.fixture(scope="module")
def prefixed(fixtures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Published]:
    """The P-Tuning prefixes over their base model, given as the published demos give them."""
    found = []
    for folder in _folders(fixtures_dir):
        config = AutoConfig.from_pretrained(folder)
        if not config.pre_seq_len:
            continue
        numbers = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))
        base = (folder / numbers["base_weights"]).resolve()
        config = AutoConfig.from_pretrained(
            base,
            trust_remote_code=True,
            pre_seq_len=config.pre_seq_len,
            prefix_projection=config.prefix_projection,
        )
        model, tensors, _ = _loaded(base, folder, config=config)
        state = torch.load(folder / "pytorch_model.bin", weights_only=True)
        start = "transformer.prefix_encoder."
        model.transformer.prefix_encoder.load_state_dict(
            {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
        )
        found.append(Published(f"{folder.parts[-3]}/{folder.name}", model, tensors, numbers))
    assert found
    return found


def _loaded(
    weights: Path, outputs: Path, **options: Any
) -> tuple[AutoModel, dict[str, Tensor], dict[str, Any]]:
    model = AutoModel.from_pretrained(weights, trust_remote_code=True, device="cpu", **options).float()
    numbers = json.loads((outputs / "outputs.json").read_text(encoding="utf-8"))
    return model, load_file(outputs / "outputs.safetensors"), numbers


def close(ours: Tensor, theirs: Tensor, mask: Tensor | None = None) -> None:
    if mask is not None:
        ours, theirs = ours[mask != 0], theirs[mask != 0]
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


# Logits


def test_whole_prompts(plain: list[Published]) -> None:
    for it in plain:
        t = it.tensors
        close(it.logits(input_ids=t["full.input_ids"]), t["full.logits"])
        ones = torch.ones_like(t["full.input_ids"])
        close(it.logits(input_ids=t["full.input_ids"], attention_mask=ones), t["full.logits"])
        close(it.logits(input_ids=t["batch.input_ids"]), t["batch.logits"])


def test_given_positions(plain: list[Published]) -> None:
    for it in plain:
        t = it.tensors
        for name in ("offset_positions", "odd_positions"):
            positions = t[f"{name}.position_ids"]
            close(it.logits(input_ids=t["full.input_ids"], position_ids=positions), t[f"{name}.logits"])


def test_masks(plain: list[Published]) -> None:
    for it in plain:
        t = it.tensors
        mask = t["padded.attention_mask"]
        padded = {"input_ids": t["padded.input_ids"], "attention_mask": mask}
        logits = it.logits(**padded, position_ids=t["padded.position_ids"])
        close(logits, t["padded.logits"], mask)
        assert not logits[mask == 0].any()
        close(it.logits(**padded), t["padded_no_position_ids.logits"], mask)
        mask = t["mask_hole.attention_mask"]
        close(it.logits(input_ids=t["full.input_ids"], attention_mask=mask), t["mask_hole.logits"], mask)


def test_losses(plain: list[Published]) -> None:
    for it in plain:
        t, n = it.tensors, it.numbers
        loss = it.model(t["loss.input_ids"], labels=t["loss.labels"]).loss
        assert loss.item() == pytest.approx(n["loss.value"], abs=2e-5)
        padded = {name: t[f"padded.{name}"] for name in ("input_ids", "attention_mask", "position_ids")}
        mask, targets = t["padded.attention_mask"][:, :-1] != 0, t["loss_padded.labels"][:, 1:]
        loss = it.model(**padded, labels=t["loss_padded.labels"]).loss
        # Published, padding also predicts the first token of a row; what the tokens predict is the same.
        expected = F.cross_entropy(t["padded.logits"][:, :-1][mask], targets[mask])
        assert loss.item() == pytest.approx(expected.item(), abs=2e-5)
        nothing = torch.full_like(t["loss.labels"], -100)
        assert it.model(t["loss.input_ids"], labels=nothing).loss == 0  # published: NaN


def test_the_longest_prompt(plain: list[Published]) -> None:
    for it in plain:
        limit = it.model.config.seq_length
        prompt = torch.full((1, limit + 1), 5)
        assert it.logits(input_ids=prompt[:, :limit]).shape[1] == limit
        with pytest.raises(PromptTooLongError, match=str(limit)):
            it.logits(input_ids=prompt)
        with pytest.raises(ChatGLM3Error, match=str(limit)):
            it.logits(input_ids=prompt[:, :1], position_ids=torch.tensor([[limit]]))


# Generation


def _new(
    model: AutoModel, inputs: dict[str, Tensor] | list[int], count: int, **options: Any
) -> list[list[int]]:
    """What `generate` adds to the prompts, after a look at what it returns."""
    if isinstance(inputs, list):
        inputs = {"input_ids": torch.tensor([inputs])}
    output = model.generate(**inputs, max_new_tokens=count, **options)
    length = inputs["input_ids"].shape[1]
    assert output[:, :length].equal(inputs["input_ids"])
    return output[:, length:].tolist()


def test_greedy(plain: list[Published], prefixed: list[Published]) -> None:
    for it in plain + prefixed:
        for case in it.numbers["generate"]:
            stop = {"eos_token_id": case["eos_token_id"]} if "eos_token_id" in case else {"eos_token_id": []}
            # 32 tokens were asked for, wherever the answer stopped.
            new = _new(it.model, case["prompt"], 32, do_sample=False, **stop)
            assert new == [case["generated"]], it.name


def test_batches(plain: list[Published]) -> None:
    for it in plain:
        case = it.numbers["generate_batch"]
        inputs = {name: torch.tensor(case[name]) for name in ("input_ids", "attention_mask", "position_ids")}
        count = len(case["generated"][0])
        assert _new(it.model, inputs, count, eos_token_id=[]) == case["generated"], it.name
        del inputs["position_ids"]
        assert _new(it.model, inputs, count, eos_token_id=[]) == case["generated"], it.name
        stops = it.numbers["generate_batch_eos"]
        options = {"eos_token_id": stops["eos_token_id"], "pad_token_id": stops["pad_token_id"]}
        assert _new(it.model, inputs, count, **options) == stops["generated"], it.name


def test_repetition_penalty(plain: list[Published]) -> None:
    for it in plain:
        case = it.numbers["generate_repetition_penalty"]
        penalty = case["repetition_penalty"]
        new = _new(it.model, case["prompt"], len(case["generated"]), repetition_penalty=penalty)
        assert new == [case["generated"]], it.name


def test_beams(plain: list[Published]) -> None:
    for it in plain:
        case = it.numbers["generate_beam3"]
        options = {"num_beams": case["num_beams"], "length_penalty": case["length_penalty"]}
        new = _new(it.model, case["prompt"], len(case["generated"]), **options)
        assert new == [case["generated"]], it.name


# Prefixes


def test_prefixes(prefixed: list[Published]) -> None:
    for it in prefixed:
        t, n = it.tensors, it.numbers
        ids = t["full.input_ids"]
        close(it.logits(input_ids=ids), t["full.logits"])
        ones = torch.ones_like(ids)
        close(it.logits(input_ids=ids, attention_mask=ones), t["full_ones_mask.logits"])
        close(it.logits(input_ids=ids[:, :1]), t["single_token.logits"])
        mask = t["padded.attention_mask"]
        padded = {name: t[f"padded.{name}"] for name in ("input_ids", "attention_mask", "position_ids")}
        close(it.logits(**padded), t["padded.logits"], mask)
        loss = it.model(ids, labels=t["loss.labels"]).loss
        assert loss.item() == pytest.approx(n["loss.value"], abs=2e-5)


def test_a_prefix_beside_its_weights(prefixed: list[Published], fixtures_dir: Path, tmp_path: Path) -> None:
    """A folder that holds both, as `trainer.save_model` wrote it, needs no load_state_dict."""
    for number, folder in enumerate(_folders(fixtures_dir)):
        if not AutoConfig.from_pretrained(folder).pre_seq_len:
            continue
        numbers = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))
        base = (folder / numbers["base_weights"]).resolve()
        state = {**_state(base), **_state(folder)}
        whole = tmp_path / str(number)
        whole.mkdir()
        torch.save(state, whole / "pytorch_model.bin")
        shutil.copy(folder / "config.json", whole)
        model, tensors, _ = _loaded(whole, folder)
        close(model(tensors["full.input_ids"]).logits, tensors["full.logits"])


def _state(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.bin")):
        state |= torch.load(path, weights_only=True)
    for path in sorted(folder.glob("model*.safetensors")):
        state |= load_file(path)
    return state
