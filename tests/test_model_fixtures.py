"""The published network's own numbers, over every case that the fixtures hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from chatglm3.adapters import Prefix, write_prefix
from chatglm3.attention import AttentionBatch, KVCache, packed_batch
from chatglm3.checkpoint import empty_model, load_model, load_prefix
from chatglm3.checkpoint.names import IGNORED, NameTable
from chatglm3.config import ModelConfig
from chatglm3.model import ChatGLMModel

TOLERANCE = 2e-5


@dataclass
class Case:
    """A model of the fixtures, with what the published code computed with it."""

    name: str
    model: ChatGLMModel
    prefix: Prefix | None
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def logits(self, rows: list[Tensor], positions: list[Tensor] | None = None) -> list[Tensor]:
        """Logits of whole sequences of any lengths, packed together."""
        model, lengths = self.model, [len(row) for row in rows]
        prefix_length = self.prefix.length if self.prefix else 0
        batch = packed_batch(model.config, lengths, prefix_length=prefix_length, dtype=model.dtype)
        self.begin(batch.cache, len(rows))
        positions = positions or [torch.arange(length) for length in lengths]
        hidden = model(torch.cat(rows), torch.cat(positions), batch)
        return list(model.logits(hidden).split(lengths))

    def begin(self, cache: KVCache, sequences: int) -> None:
        """Fill the prefix, if there is one, into sequences that have one block each."""
        if self.prefix:
            for start in range(0, sequences * cache.block_size, cache.block_size):
                write_prefix(cache, torch.arange(start, start + self.prefix.length), self.prefix)

    def steps(self, tokens: Tensor, positions: Tensor, splits: list[int]) -> list[Tensor]:
        """Logits of one sequence fed in pieces, through a cache of small blocks in a shuffled order."""
        offset, size = self.prefix.length if self.prefix else 0, 4
        count = -(-(offset + len(tokens)) // size)
        table = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
        cache = KVCache(self.model.config, count, size, self.model.dtype)
        if self.prefix:
            slots = torch.tensor([table[i // size] * size + i % size for i in range(offset)])
            write_prefix(cache, slots, self.prefix)
        out, done = [], 0
        for piece, where in zip(tokens.split(splits), positions.split(splits), strict=True):
            done += len(piece)
            batch = AttentionBatch.build(cache, [len(piece)], [offset + done], [table])
            out.append(self.model.logits(self.model(piece, where, batch)))
        return out


def _read(folder: Path) -> Case:
    config = ModelConfig.from_folder(folder)
    tensors = load_file(folder / "outputs.safetensors")
    facts = json.loads((folder / "outputs.json").read_text())
    weights = folder / facts["base_weights"] if "base_weights" in facts else folder
    model = load_model(weights, dtype=torch.float32)
    prefix = load_prefix(folder, config, dtype=torch.float32)
    return Case(f"{folder.parents[1].name}/{folder.name}", model, prefix, tensors, facts)


@pytest.fixture(scope="module")
def networks(fixtures_dir: Path) -> list[Case]:
    """Whole networks in the original layout."""
    folders = sorted(p.parent for p in fixtures_dir.glob("*/model/*/config.json"))
    return [_read(f) for f in folders if not ModelConfig.from_folder(f).prefix_length]


@pytest.fixture(scope="module")
def prefixed(fixtures_dir: Path) -> list[Case]:
    """P-Tuning v2 prefixes on one of the networks."""
    folders = sorted(p.parent for p in fixtures_dir.glob("*/model/*/config.json"))
    return [_read(f) for f in folders if ModelConfig.from_folder(f).prefix_length]


def assert_close(ours: Tensor, theirs: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape, what
    distance = (ours.float() - theirs.float()).abs().max().item()
    assert distance <= tolerance, f"{what}: {distance:.1e}"


def masked_rows(ids: Tensor, mask: Tensor, positions: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What is left of each row where the mask is 1: tokens and positions."""
    return (
        [row[seen] for row, seen in zip(ids, mask.bool(), strict=True)],
        [row[seen] for row, seen in zip(positions, mask.bool(), strict=True)],
    )


def columns(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1]).expand(ids.shape)


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100).item()


def test_every_tensor_of_the_fixtures_is_compared_here(networks: list[Case], prefixed: list[Case]) -> None:
    known = {"full", "full_bf16", "full_fp16", "full_ones_mask", "batch", "offset_positions", "odd_positions"}
    known |= {
        "decode",
        "decode_no_position_ids",
        "chunk",
        "padded",
        "padded_decode",
        "padded_no_position_ids",
    }
    known |= {"mask_hole", "loss", "loss_padded", "prefix_past", "single_token"}
    for case in networks + prefixed:
        assert {name.partition(".")[0] for name in case.tensors} <= known, case.name


def test_one_prompt(networks: list[Case]) -> None:
    for case in networks:
        inputs: list[Tensor] = []

        def keep(_: torch.nn.Module, args: tuple[Tensor, ...], inputs: list[Tensor] = inputs) -> None:
            inputs.append(args[0])

        watched = [*case.model.layers, case.model.final_norm]
        hooks = [module.register_forward_pre_hook(keep) for module in watched]
        ids = case["full.input_ids"][0]
        batch = packed_batch(case.model.config, [len(ids)])
        hidden = case.model(ids, torch.arange(len(ids)), batch)
        for hook in hooks:
            hook.remove()
        assert_close(case.model.logits(hidden), case["full.logits"][0], case.name)
        assert_close(hidden, case["full.last_hidden_normed"][0], case.name)
        assert_close(torch.stack(inputs), case["full.hidden_states"][:, 0], case.name)
        assert_close(batch.cache.slot_keys[0], case["full.key_layer0"][:, 0], case.name)
        assert_close(batch.cache.slot_values[0], case["full.value_layer0"][:, 0], case.name)


@pytest.mark.parametrize(("name", "dtype"), [("full_bf16", torch.bfloat16), ("full_fp16", torch.float16)])
def test_half_precision_is_about_as_near_to_float32_as_the_published_code(
    networks: list[Case], name: str, dtype: torch.dtype
) -> None:
    for case in networks:
        model = case.model
        ids = case["full.input_ids"][0]
        half = load_like(model, dtype)
        batch = packed_batch(model.config, [len(ids)], dtype=dtype)
        logits = half.logits(half(ids, torch.arange(len(ids)), batch))
        published = case.facts[f"{name}.max_abs_diff_to_fp32"]
        assert_close(logits, case["full.logits"][0], f"{case.name} {name}", 2 * published)
        assert_close(logits, case[f"{name}.logits"][0], f"{case.name} {name}", 3 * published)


def load_like(model: ChatGLMModel, dtype: torch.dtype) -> ChatGLMModel:
    copy = ChatGLMModel(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.to(dtype)


def test_several_prompts_at_once(networks: list[Case]) -> None:
    for case in networks:
        for name in ("batch", "loss"):
            logits = case.logits(list(case[f"{name}.input_ids"]))
            assert_close(torch.stack(logits), case[f"{name}.logits"], f"{case.name} {name}")


def test_given_positions(networks: list[Case]) -> None:
    for case in networks:
        names = [name for name in case.tensors if name.endswith("_positions.position_ids")]
        assert names, case.name
        for name in names:
            (logits,) = case.logits([case["full.input_ids"][0]], [case[name][0]])
            assert_close(logits, case[name.replace("position_ids", "logits")][0], f"{case.name} {name}")


def test_padded_prompts(networks: list[Case], prefixed: list[Case]) -> None:
    for case in networks + prefixed:
        ids, mask = case["padded.input_ids"], case["padded.attention_mask"]
        rows, positions = masked_rows(ids, mask, case["padded.position_ids"])
        expected = case["padded.logits"][mask.bool()]
        assert_close(torch.cat(case.logits(rows, positions)), expected, case.name)


def test_padded_prompts_whose_columns_are_counted(networks: list[Case]) -> None:
    for case in networks:
        ids, mask = case["padded.input_ids"], case["padded.attention_mask"]
        logits = case.logits(*masked_rows(ids, mask, columns(ids)))
        assert_close(torch.cat(logits), case["padded_no_position_ids.logits"][mask.bool()], case.name)


def test_holes_in_the_mask(networks: list[Case]) -> None:
    for case in networks:
        ids, mask = case["full.input_ids"], case["mask_hole.attention_mask"]
        logits = case.logits(*masked_rows(ids, mask, columns(ids)))
        assert_close(torch.cat(logits), case["mask_hole.logits"][mask.bool()], case.name)


def test_decoding(networks: list[Case]) -> None:
    for case in networks:
        ids = case["decode.input_ids"][0]
        prefill, steps = case["decode.prefill_logits"][0], case["decode.step_logits"][0]
        splits = [len(prefill)] + [1] * len(steps)
        logits = case.steps(ids, torch.arange(len(ids)), splits)
        assert_close(torch.cat(logits), torch.cat((prefill, steps)), case.name)


def test_decoding_at_position_0(networks: list[Case]) -> None:
    for case in networks:
        start = case["decode.prefill_logits"].shape[1]
        ids = case["decode.input_ids"][0, : start + 1]
        positions = torch.tensor([*range(start), 0])
        _, logits = case.steps(ids, positions, [start, 1])
        assert_close(logits, case["decode_no_position_ids.logits"][0], case.name)


def test_a_prompt_in_two_chunks(networks: list[Case]) -> None:
    for case in networks:
        ids = case["decode.input_ids"][0]
        logits = case.steps(ids, torch.arange(len(ids)), case.facts["chunk.split"])
        assert_close(logits[1], case["chunk.second_logits"][0], case.name)


def test_decoding_of_padded_prompts(networks: list[Case]) -> None:
    for case in networks:
        mask = case["padded.attention_mask"]
        rows, _ = masked_rows(case["padded.input_ids"], mask, case["padded.position_ids"])
        lengths, more = [len(row) for row in rows], case["padded_decode.input_ids"]
        cache = KVCache(case.model.config, len(rows), max(lengths) + more.shape[1])
        tables = [[i] for i in range(len(rows))]
        batch = AttentionBatch.build(cache, lengths, lengths, tables)
        case.model(torch.cat(rows), torch.cat([torch.arange(n) for n in lengths]), batch)
        for step in range(more.shape[1]):
            contexts = [n + step + 1 for n in lengths]
            batch = AttentionBatch.build(cache, [1] * len(rows), contexts, tables)
            hidden = case.model(more[:, step], torch.tensor(contexts) - 1, batch)
            expected = case["padded_decode.logits"][:, step]
            assert_close(case.model.logits(hidden), expected, f"{case.name} step {step}")


def test_losses(networks: list[Case], prefixed: list[Case]) -> None:
    for case in networks + prefixed:
        ids = case.tensors.get("loss.input_ids", case.tensors.get("full.input_ids"))
        assert ids is not None
        logits = torch.stack(case.logits(list(ids)))
        assert mean_loss(logits, case["loss.labels"]) == pytest.approx(
            case.facts["loss.value"], abs=TOLERANCE
        )
        if "loss_padded.labels" not in case.tensors:
            continue
        mask = case["padded.attention_mask"].bool()
        rows, positions = masked_rows(case["padded.input_ids"], mask, case["padded.position_ids"])
        padded = case["padded.logits"].clone()  # what a pad itself predicts is the published code's affair
        padded[mask] = torch.cat(case.logits(rows, positions))
        expected = case.facts["loss_padded.value"]
        assert mean_loss(padded, case["loss_padded.labels"]) == pytest.approx(expected, abs=TOLERANCE)


def test_prefix(prefixed: list[Case]) -> None:
    for case in prefixed:
        assert case.prefix is not None
        past = case["prefix_past"][:, :, :, 0]
        assert_close(case.prefix.keys, past[:, 0], case.name)
        assert_close(case.prefix.values, past[:, 1], case.name)
        ids = case["full.input_ids"][0]
        batch = packed_batch(case.model.config, [len(ids)], prefix_length=case.prefix.length)
        case.begin(batch.cache, 1)
        logits = case.model.logits(case.model(ids, torch.arange(len(ids)), batch))
        for name in ("full.logits", "full_ones_mask.logits"):
            assert_close(logits, case[name][0], f"{case.name} {name}")
        assert_close(batch.cache.slot_keys[0], case["full.key_layer0"][:, 0], case.name)
        assert_close(batch.cache.slot_values[0], case["full.value_layer0"][:, 0], case.name)


def test_prefix_decoding(prefixed: list[Case]) -> None:
    for case in prefixed:
        ids, start = case["full.input_ids"][0], case.facts["decode.start"]
        steps = case["decode.step_logits"][0]
        logits = case.steps(ids, torch.arange(len(ids)), [start] + [1] * len(steps))
        assert_close(torch.cat(logits[1:]), steps, case.name)
        (single,) = case.logits([ids[:1]])
        assert_close(single, case["single_token.logits"][0], case.name)


def _options(fixtures_dir: Path) -> Iterator[tuple[str, ModelConfig, dict[str, Tensor], dict[str, Tensor]]]:
    for folder in sorted(fixtures_dir.glob("*/model/options")):
        outputs = load_file(folder / "outputs.safetensors")
        weights = load_file(folder / "weights.safetensors")
        for option, facts in json.loads((folder / "outputs.json").read_text()).items():
            config = ModelConfig.from_dict(facts["config"])
            stem = f"{option}/"
            yield (
                option,
                config,
                {name.removeprefix(stem): t for name, t in weights.items() if name.startswith(stem)},
                {name.removeprefix(stem): t for name, t in outputs.items() if name.startswith(stem)},
            )


def test_every_option_of_the_config(fixtures_dir: Path) -> None:
    for option, config, weights, outputs in _options(fixtures_dir):
        table = NameTable(config, "chatglm")
        state = {name: table.merge(name, weights) for name in empty_model(config).state_dict()}
        used = {part.name for name in state for part in table.parts(name)}
        assert used == set(weights) - IGNORED, option
        model = ChatGLMModel(config)
        model.load_state_dict(state)
        case = Case(option, model, None, outputs, {})
        assert set(outputs) == {"input_ids", "logits"}, option
        assert_close(torch.stack(case.logits(list(outputs["input_ids"]))), outputs["logits"], option)


def test_published_quantized_checkpoints(fixtures_dir: Path) -> None:
    for folder in sorted(fixtures_dir.glob("*/quant/*/config.json")):
        case = Case(str(folder), load_model(folder.parent, dtype=torch.float32), None, {}, {})
        outputs = load_file(folder.parent / "outputs.safetensors")
        logits = torch.stack(case.logits(list(outputs["input_ids"])))
        assert_close(logits, outputs["logits_fp32_compute"], case.name)
