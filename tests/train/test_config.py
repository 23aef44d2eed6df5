"""The configuration is small and strict, and its examples are valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatglm3.errors import InvalidParameterError
from chatglm3.train.config import FinetuneConfig, describe_keys, load_config, parse_config

NEEDED = {"output": "out", "train": "train.jsonl"}
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "finetune"


def test_the_least_that_is_needed() -> None:
    config = parse_config(NEEDED)
    assert config.train == ("train.jsonl",)
    assert (config.method, config.rate, config.lora.rank) == ("lora", 1e-4, 8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rat": 1}, "there is no key 'learning_rat'; did you mean 'learning_rate'?"),
        ({"lora": {"rnk": 4}}, "there is no key 'lora.rnk'; did you mean 'rank'?"),
        ({"method": "lorra"}, "method is 'lorra': Input should be 'lora', 'qlora', 'ptuning' or 'full'"),
        (
            {"lora": {"targets": ["query_key_value"]}},
            "lora.targets is 'query_key_value': Input should be 'q_proj'",
        ),
        ({"steps": 0}, "steps is 0: Input should be greater than 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"train": []}, "train: name at least one file"),
        ({"early_stopping": 2}, "early_stopping: it watches the validation loss"),
        ({"samples": {"metrics": "rouge-l"}}, "samples.metrics: they need samples.count"),
        ({"task": "dpo", "packing": True}, "task: dpo takes neither packing nor samples"),
        ({"fsdp": True, "deepspeed": "x.json"}, "fsdp: choose it or deepspeed"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(change: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidParameterError) as raised:
        parse_config(NEEDED | change)
    assert said in str(raised.value)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InvalidParameterError, match="output is missing; give it in the file or as output="):
        parse_config({"train": "a"})


def test_words_change_single_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("output: out\ntrain: a.jsonl\nlora: {rank: 4}\n")
    words = ["lora.alpha=32", "learning_rate=2e-4", "train=[b.jsonl, c.jsonl]", "packing=true", "model=./3"]
    config = load_config(path, words)
    assert (config.lora.rank, config.lora.alpha, config.rate, config.packing) == (4, 32, 2e-4, True)
    assert (config.train, config.model) == (("b.jsonl", "c.jsonl"), "./3")
    with pytest.raises(InvalidParameterError, match="is no key=value"):
        load_config(path, ["packing"])
    path.write_text("a: [")
    with pytest.raises(InvalidParameterError, match="is not YAML"):
        load_config(path)


def test_every_key_is_described_with_its_default() -> None:
    rows = {key: (default, meaning) for key, default, meaning in describe_keys()}
    assert rows["output"][0] == "required"
    assert rows["lora.rank"][0] == "8"
    assert rows["fsdp"][0] == "false"
    assert rows["lora.dora"][1].startswith("Learn each column's length")
    assert set(FinetuneConfig.model_fields) == {key.partition(".")[0] for key in rows}


def test_the_examples_are_valid() -> None:
    found = sorted(EXAMPLES.glob("*.yaml"))
    assert {"lora.yaml", "qlora.yaml", "ptuning.yaml", "full.yaml", "dpo.yaml"} <= {p.name for p in found}
    for path in found:
        config = load_config(path)
        for file in (*config.train, *config.validation):
            assert (EXAMPLES.parents[1] / file).is_file(), f"{path.name}: {file}"
