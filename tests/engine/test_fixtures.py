"""The reference code's own generations, through the engine."""

import json

import pytest
import torch

from chatglm3.checkpoint import load_model, load_prefix
from chatglm3.config import ModelConfig
from chatglm3.engine import GREEDY, Engine


def folders(fixtures_dir):
    """Every folder with a case of generation: (folder, its outputs.json)."""
    found = []
    for path in sorted(fixtures_dir.glob("*/model/*/outputs.json")):
        outputs = json.loads(path.read_text())
        if "generate" in outputs:
            found.append((path.parent, outputs))
    return found


def engine_for(folder, outputs, **options):
    weights = folder / outputs.get("base_weights", ".")
    prefix = load_prefix(folder, dtype=torch.float32)
    config = ModelConfig.from_folder(weights)
    return Engine(load_model(weights, dtype=torch.float32, config=config), prefix=prefix, **options)


def greedy(case):
    """Parameters that a case was generated with."""
    return GREEDY.replace(
        max_tokens=len(case["generated"]),
        stop_ids=case.get("eos_token_id", ()),
        repetition_penalty=case.get("repetition_penalty", 1.0),
    )


def single_prompts(outputs):
    cases = list(outputs["generate"])
    if "generate_repetition_penalty" in outputs:
        cases.append(outputs["generate_repetition_penalty"])
    return cases


@pytest.mark.parametrize(
    "options", [{}, {"max_batch_tokens": 5, "max_sequences": 4, "block_size": 3}], ids=str
)
def test_generations_of_single_prompts(fixtures_dir, options):
    checked = 0
    for folder, outputs in folders(fixtures_dir):
        cases = single_prompts(outputs)
        engine = engine_for(folder, outputs, **options)
        for _ in range(2):  # the second time from the prefix cache
            answers = engine.generate([case["prompt"] for case in cases], [greedy(case) for case in cases])
            for [answer], case in zip(answers, cases):
                assert answer.ids == case["generated"], folder
                stopped = case["generated"][-1] in case.get("eos_token_id", ())
                assert answer.finish_reason == ("stop" if stopped else "length")
                checked += 1
        engine.check()
    assert checked >= 4


def test_generations_of_padded_batches(fixtures_dir):
    checked = 0
    for folder, outputs in folders(fixtures_dir):
        if "generate_batch" not in outputs:
            continue
        batch = outputs["generate_batch"]
        prompts = [
            [token for token, real in zip(ids, mask) if real]
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"])
        ]
        engine = engine_for(folder, outputs)
        params = GREEDY.replace(max_tokens=len(batch["generated"][0]))
        assert [one.ids for [one] in engine.generate(prompts, params)] == batch["generated"]
        stopping = outputs["generate_batch_eos"]
        stops, pad = stopping["eos_token_id"], stopping["pad_token_id"]
        length = len(stopping["generated"][0])
        answers = engine.generate(prompts, GREEDY.replace(max_tokens=length, stop_ids=stops))
        assert [one.ids + [pad] * (length - len(one.ids)) for [one] in answers] == stopping["generated"]
        checked += 1
    assert checked
