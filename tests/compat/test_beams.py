"""Beam search against transformers' own, and against a search without any cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatglm3.adapters import Prefix
from chatglm3.checkpoint import save_model
from chatglm3.compat import AutoModel
from chatglm3.compat.beams import beam_search
from chatglm3.compat.scoring import score
from tests.tiny import tiny_config, tiny_model

PROMPT = [7, 100, 42, 9, 250]
MODEL = tiny_model()


def test_against_transformers(tmp_path: Path) -> None:
    """With length_penalty 0 a score is a plain sum, in which all versions of transformers agree."""
    transformers = pytest.importorskip("transformers")
    save_model(MODEL, tiny_config(), tmp_path, layout="glm")
    theirs = transformers.GlmForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = AutoModel.from_pretrained(tmp_path, device="cpu").float()
    generator = torch.Generator().manual_seed(0)
    stopped = 0
    for beams in (2, 3, 4, 5):
        prompt = torch.randint(3, 320, (1, 6), generator=generator)
        # Ids that a greedy answer runs into, so that hypotheses end at different steps.
        greedy = ours.generate(prompt, max_new_tokens=12, eos_token_id=[])[0, 6:].tolist()
        for stop in ([], greedy[3:4], greedy[2:8:3]):
            options = {
                "attention_mask": torch.ones_like(prompt),
                "num_beams": beams,
                "num_return_sequences": beams,
                "max_new_tokens": 12,
                "length_penalty": 0.0,
                "do_sample": False,
                "pad_token_id": 1,  # 0 would count as none there
            }
            expected = theirs.generate(prompt, eos_token_id=stop or None, **options)
            output = ours.generate(prompt, eos_token_id=stop, **options)
            assert output.tolist() == expected.tolist(), (beams, stop)
            stopped += (output == 1).any().item()
    assert stopped, "no search has ended beams at different lengths"


def test_early_stopping_takes_the_first_answers_that_end() -> None:
    stop_ids = range(0, 320, 2)

    def search(early_stopping: bool) -> list[list[int]]:
        return beam_search(
            MODEL, None, PROMPT, num_beams=3, max_new_tokens=12, stop_ids=stop_ids,
            length_penalty=4.0, early_stopping=early_stopping,
        )  # fmt: skip

    early = search(early_stopping=True)
    assert len(early) == 3
    assert all(ids[-1] in stop_ids for ids in early)
    assert max(map(len, early)) < max(map(len, search(early_stopping=False)))


def test_beams_are_the_best_of_all_continuations_of_the_last() -> None:
    """Every step again from the prompt on, with nothing kept but the token ids."""
    beams: list[tuple[float, list[int]]] = [(0.0, PROMPT)]
    for _ in range(4):
        rows = torch.tensor([ids for _, ids in beams])
        log_probs = score(MODEL, None, rows, None, None)[:, -1].log_softmax(dim=-1)
        totals = log_probs + torch.tensor([[total] for total, _ in beams])
        best = totals.flatten().topk(3)
        beams = [
            (total, [*beams[index // 320][1], index % 320])
            for total, index in zip(best.values.tolist(), best.indices.tolist())
        ]
    found = beam_search(MODEL, None, PROMPT, num_beams=3, max_new_tokens=4, stop_ids=())
    assert found == [ids[len(PROMPT) :] for _, ids in beams]


def test_longer_answers_win_with_a_length_penalty() -> None:
    free = beam_search(MODEL, None, PROMPT, num_beams=4, max_new_tokens=10, stop_ids=())
    options = {"num_beams": 4, "max_new_tokens": 10, "stop_ids": {free[0][2]}}
    short, long = (
        len(beam_search(MODEL, None, PROMPT, length_penalty=penalty, **options)[0])  # type: ignore[arg-type]
        for penalty in (-4.0, 8.0)
    )
    assert short < long


def test_a_prefix_is_seen_by_every_beam() -> None:
    shape = (2, 3, 2, 16)  # layers, entries, heads, head_dim
    generator = torch.Generator().manual_seed(1)
    prefix = Prefix(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))
    ids = list(PROMPT)
    for _ in range(5):
        ids.append(int(score(MODEL, prefix, torch.tensor([ids]), None, None)[0, -1].argmax()))
    (greedy,) = beam_search(MODEL, prefix, PROMPT, num_beams=1, max_new_tokens=5, stop_ids=())
    assert greedy == ids[len(PROMPT) :]
    beams = beam_search(MODEL, prefix, PROMPT, num_beams=3, max_new_tokens=5, stop_ids=())
    assert len(beams) == 3
    assert beams != beam_search(MODEL, None, PROMPT, num_beams=3, max_new_tokens=5, stop_ids=())
