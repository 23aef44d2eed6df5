"""The training loop: it learns, it resumes bit by bit, and its weights come out as our checkpoints."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch.optim import AdamW
from transformers import GlmForCausalLM

from chatglm3.attention import packed_batch
from chatglm3.checkpoint import load_model, save_model
from chatglm3.train.encode import Batch, Example, collate
from chatglm3.train.glm import batch_loss, glm_weights, new_glm
from chatglm3.train.loop import Schedule, load_checkpoint, train
from tests.tiny import tiny_config

CONFIG = tiny_config()


def _model() -> GlmForCausalLM:
    torch.manual_seed(0)
    return new_glm(CONFIG, tied=True)


def _batches(step: int) -> list[Batch]:
    """Sequences that repeat a token: easy to learn, another one in each step."""
    tokens = [3 + (7 * step + i) % 50 for i in range(4)]
    return [collate([Example([t] * 12, [True] * 12) for t in tokens[i : i + 2]], 0) for i in (0, 2)]


def _run(folder: Path, steps: int, schedule: Schedule) -> GlmForCausalLM:
    """Train, but be stopped when step `steps` begins."""
    model = _model()
    optimizer = AdamW(model.parameters(), lr=1e-2)

    def batches(step: int) -> list[Batch]:
        if step == steps:
            raise KeyboardInterrupt
        return _batches(step)

    with contextlib.suppress(KeyboardInterrupt):
        train(model, [optimizer], batches, schedule, folder, checkpoint_every=2, log_every=1)
    return model


def test_a_stopped_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    schedule = Schedule(steps=8, warmup=2, decay=0.5)
    whole = _run(tmp_path / "whole", 8, schedule)
    _run(tmp_path / "parts", 5, schedule)  # its last checkpoint is that of step 4
    resumed = _run(tmp_path / "parts", 8, schedule)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_it_learns(tmp_path: Path) -> None:
    model = _model()
    before = batch_loss(model, _batches(0)[0]).item()
    train(model, [AdamW(model.parameters(), lr=1e-2)], _batches, Schedule(30, 2, 0.3), tmp_path)
    assert batch_loss(model, _batches(0)[0]).item() < before / 2


def test_schedule_rises_stays_and_falls() -> None:
    schedule = Schedule(steps=10, warmup=2, decay=0.4)
    factors = [schedule.factor(step) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_the_loss_is_transformers_own(tmp_path: Path) -> None:
    model = _model()
    batch = collate([Example([5, 6, 7, 8], [False, False, True, True]), Example([9, 9], [False, True])], 0)
    own = batch_loss(model, batch) / 3
    theirs = model(input_ids=batch.tokens, labels=batch.labels).loss
    assert own.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_attention_is_that_of_torch() -> None:
    model = _model().eval()
    ids = torch.randint(0, CONFIG.vocab_size, (3, 40))
    with torch.inference_mode():
        plain = model(input_ids=ids).logits
        model.set_attn_implementation("sdpa")
        fused = model(input_ids=ids).logits
    assert float((plain - fused).abs().max()) < 2e-5


def test_trained_weights_are_our_checkpoint(tmp_path: Path) -> None:
    _run(tmp_path / "run", 4, Schedule(steps=4, warmup=1, decay=0.5))
    trained = new_glm(CONFIG, tied=True)
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt", trained).step == 4
    save_model(glm_weights(trained, CONFIG), CONFIG, tmp_path / "out")
    ours = load_model(tmp_path / "out", dtype=torch.float32)
    ids = torch.randint(0, CONFIG.vocab_size, (40,))
    with torch.inference_mode():
        expected = trained.eval()(input_ids=ids[None]).logits[0]
        found = ours.logits(ours(ids, torch.arange(40), packed_batch(CONFIG, [40])))
    assert float((found - expected).abs().max()) < 2e-5
