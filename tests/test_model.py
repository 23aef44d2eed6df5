"""Invariants of the network on tiny random weights, and parity with transformers' GlmForCausalLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GlmConfig, GlmForCausalLM

from chatglm3.attention import AttentionBatch, KVCache, packed_batch
from chatglm3.checkpoint import NameTable
from chatglm3.config import ModelConfig
from chatglm3.model import ChatGLMModel, Rotary, rotate
from tests.tiny import tiny_config, tiny_model


def logits_of(model: ChatGLMModel, rows: list[Tensor], offset: int = 0) -> list[Tensor]:
    """Logits of whole sequences packed together, with positions from `offset` on."""
    lengths = [len(row) for row in rows]
    positions = torch.cat([torch.arange(offset, offset + n) for n in lengths])
    batch = packed_batch(model.config, lengths, dtype=model.dtype)
    return list(model.logits(model(torch.cat(rows), positions, batch)).split(lengths))


def prompts(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 320, (length,), generator=generator) for length in lengths]


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def test_batched_is_alone() -> None:
    model, rows = tiny_model(), prompts(7, 1, 30, 12)
    for together, row in zip(logits_of(model, rows), rows, strict=True):
        close(together, logits_of(model, [row])[0])


@pytest.mark.parametrize("splits", [[1] * 20, [7, 13], [1, 18, 1], [19, 1]])
def test_fed_in_pieces_is_fed_as_a_whole(splits: list[int]) -> None:
    model, (ids,) = tiny_model(), prompts(20)
    cache = KVCache(model.config, num_blocks=8, block_size=4)
    pieces, done = [], 0
    for piece in ids.split(splits):
        positions = torch.arange(done, done + len(piece))
        done += len(piece)
        batch = AttentionBatch.build(cache, [len(piece)], [done], [[6, 1, 0, 7, 3]])
        pieces.append(model.logits(model(piece, positions, batch)))
    close(torch.cat(pieces), logits_of(model, [ids])[0])


def test_a_later_token_changes_nothing_before_it() -> None:
    model, (ids,) = tiny_model(), prompts(20)
    changed = ids.clone()
    changed[12] += 1
    before, after = logits_of(model, [ids])[0], logits_of(model, [changed])[0]
    close(after[:12], before[:12], 1e-6)
    assert (after[12:] - before[12:]).abs().amax(1).min() > 1e-2


def test_only_differences_of_positions_count() -> None:
    model, rows = tiny_model(), prompts(20)
    close(logits_of(model, rows, offset=200)[0], logits_of(model, rows)[0], 1e-3)


def test_positions_do_count() -> None:
    model, (ids,) = tiny_model(), prompts(20)
    batch = packed_batch(model.config, [20])
    spread = model.logits(model(ids, torch.arange(0, 40, 2), batch))
    assert (spread - logits_of(model, [ids])[0]).abs().max() > 1e-2


def test_logits_are_float32_for_the_rows_asked_for() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    hidden = torch.randn(2, model.config.hidden_size, dtype=torch.bfloat16)
    logits = model.logits(hidden)
    assert logits.shape == (2, model.config.vocab_size)
    assert logits.dtype == torch.float32


def test_no_parameter_asks_for_a_gradient() -> None:
    assert not any(parameter.requires_grad for parameter in tiny_model().parameters())


def test_rotary_angles_stay_float32_and_outside_the_state_dict() -> None:
    rotary = Rotary(tiny_config())
    cos = rotary.cos.clone()
    assert rotary.half().bfloat16().cos.dtype == torch.float32
    assert torch.equal(rotary.cos, cos)
    assert not rotary.state_dict()
    with torch.device("meta"):
        assert torch.equal(Rotary(tiny_config()).cos, cos)


def test_rotate_turns_adjacent_pairs_of_the_first_half() -> None:
    rotary = Rotary(tiny_config(head_dim=8, rope_theta=100.0))
    x = torch.randn(2, 3, 8)
    positions = torch.tensor([3, 5])
    turned = rotate(x.clone(), *rotary(positions))
    # Pair i is one complex number, multiplied by exp(1j * position * theta ** (-2 i / 4)).
    angles = positions[:, None] * torch.tensor([1.0, 100.0**-0.5])
    pairs = (
        torch.view_as_complex(x[..., :4].unflatten(-1, (2, 2)))
        * torch.polar(torch.ones(2, 2), angles)[:, None]
    )
    close(turned[..., :4], torch.view_as_real(pairs).flatten(-2), 1e-6)
    assert torch.equal(turned[..., 4:], x[..., 4:])


def glm_twin(model: ChatGLMModel) -> GlmForCausalLM:
    """The same weights in transformers' own class, through the name table."""
    config = model.config
    glm = GlmForCausalLM(GlmConfig(**config.to_dict("glm"), attn_implementation="sdpa"))
    table = NameTable(config, "glm")
    state = dict(part for name, tensor in model.state_dict().items() for part in table.split(name, tensor))
    glm.load_state_dict(state)
    return glm.eval()


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, id="grouped queries"),
        pytest.param({"num_kv_heads": 1, "head_dim": 32}, id="one key/value head, wide"),
        pytest.param({"num_kv_heads": 4, "num_layers": 3}, id="as many key/value heads as queries"),
        pytest.param({"rope_theta": 5e6, "norm_eps": 1.5625e-7}, id="rotary base and epsilon of glm-4"),
        pytest.param({"qkv_bias": False}, id="no bias"),
    ],
)
def test_parity_with_transformers(overrides: dict[str, Any]) -> None:
    model = tiny_model(tiny_config(**overrides))
    glm = glm_twin(model)
    rows = prompts(24, 9)
    with torch.no_grad():
        for ours, row in zip(logits_of(model, rows), rows, strict=True):
            # 2e-5 of logits around 1; these are some ten times as large.
            close(ours, glm(row[None]).logits[0], 2e-5 * ours.abs().max().clamp(min=1).item())


def test_the_full_shape_has_the_published_size() -> None:
    config = ModelConfig(
        num_layers=28, hidden_size=4096, num_heads=32, num_kv_heads=2, head_dim=128,
        ffn_hidden_size=13696, vocab_size=65024, max_seq_len=8192,
    )  # fmt: skip
    with torch.device("meta"):
        model = ChatGLMModel(config).half()
    inv_freq = 32 * 2  # stored in published checkpoints, in float16
    assert sum(t.nbytes for t in model.state_dict().values()) + inv_freq == 12_487_168_064
