"""What peft computes with an adapter is what we compute: beside the weights, and merged into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatglm3.adapters import Lora, Prefix, StoredLora, merge, read_adapter, write_prefix
from chatglm3.attention import packed_batch
from chatglm3.checkpoint import load_model
from chatglm3.engine import GREEDY, Engine
from chatglm3.errors import CheckpointError
from chatglm3.lora import LoraBatch
from chatglm3.model import ChatGLMModel
from tests.adapters.conftest import Base, peft_model, their_logits

pytest.importorskip("peft")
from peft import LoraConfig, PrefixTuningConfig

IDS = [7, 300, 12, 99, 41, 41, 5, 260, 18]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]

LORAS: dict[str, dict[str, Any]] = {
    "query": {"target_modules": ["q_proj"]},
    "query and value": {"target_modules": ["q_proj", "v_proj"], "r": 4},
    "all": {"target_modules": LINEARS, "lora_alpha": 32},
    "all-linear": {"target_modules": "all-linear"},
    "rslora": {"target_modules": LINEARS, "use_rslora": True, "lora_alpha": 16, "r": 4},
    "patterns": {
        "target_modules": LINEARS,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 5},
        "alpha_pattern": {"k_proj": 3, "layers.0.self_attn.q_proj": 64},
    },
    "one layer": {"target_modules": LINEARS, "layers_to_transform": [1]},
    "dora": {"target_modules": LINEARS, "use_dora": True},
    "biases": {"target_modules": LINEARS, "bias": "all"},
    "biases of its own": {"target_modules": ["v_proj", "down_proj"], "bias": "lora_only"},
    "dora and biases": {"target_modules": LINEARS, "use_dora": True, "bias": "all"},
}
MERGED_ONLY: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "down_proj"]},
    "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def lora_config(options: dict[str, Any]) -> LoraConfig:
    return LoraConfig(**{"task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 12} | options)


def our_logits(model: ChatGLMModel, ids: list[int], adapter: Lora | Prefix | None = None) -> Tensor:
    length = adapter.length if isinstance(adapter, Prefix) else 0
    batch = packed_batch(model.config, [len(ids)], prefix_length=length)
    if isinstance(adapter, Prefix):
        write_prefix(batch.cache, torch.arange(length), adapter)
    lora = LoraBatch.build([adapter if isinstance(adapter, Lora) else None], [len(ids)], "cpu")
    return model.logits(model(torch.tensor(ids), torch.arange(len(ids)), batch, lora))


@pytest.mark.parametrize("options", LORAS.values(), ids=LORAS)
def test_lora_is_pefts(base: Base, tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = peft_model(base, lora_config(options))
    theirs.save_pretrained(tmp_path / "adapter")
    expected = their_logits(theirs, IDS)
    model = base.ours()
    plain = our_logits(model, IDS)
    assert (expected - plain).abs().max() > 0.1

    stored = read_adapter(tmp_path / "adapter", base.chatglm, base.config)
    assert isinstance(stored, StoredLora)
    torch.testing.assert_close(our_logits(model, IDS, stored.on(model)), expected, atol=2e-4, rtol=1e-4)
    assert torch.equal(our_logits(model, IDS), plain)  # the model itself has not changed

    merge(base.chatglm, tmp_path / "adapter", tmp_path / "merged")
    merged = load_model(tmp_path / "merged")
    torch.testing.assert_close(our_logits(merged, IDS), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("options", MERGED_ONLY.values(), ids=MERGED_ONLY)
def test_what_can_only_be_merged(base: Base, tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = peft_model(base, lora_config(options))
    theirs.save_pretrained(tmp_path / "adapter")
    stored = read_adapter(tmp_path / "adapter", base.chatglm, base.config)
    assert isinstance(stored, StoredLora)
    with pytest.raises(CheckpointError, match="chatglm3 merge"):
        stored.on(base.ours())
    merge(base.glm, tmp_path / "adapter", tmp_path / "merged", layout="glm")
    merged = load_model(tmp_path / "merged")
    torch.testing.assert_close(our_logits(merged, IDS), their_logits(theirs, IDS), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("projection", [False, True])
def test_prefix_tuning_is_pefts(base: Base, tmp_path: Path, projection: bool) -> None:
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, prefix_projection=projection, encoder_hidden_size=32
    )
    theirs = peft_model(base, config)
    theirs.save_pretrained(tmp_path)
    expected = their_logits(theirs, IDS)
    model = base.ours()
    prefix = read_adapter(tmp_path, base.chatglm, base.config)
    assert isinstance(prefix, Prefix)
    assert (expected - our_logits(model, IDS)).abs().max() > 0.1
    torch.testing.assert_close(our_logits(model, IDS, prefix), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_generation_is_pefts(base: Base, tmp_path: Path, kind: str) -> None:
    config = (
        lora_config(LORAS["all"])
        if kind == "lora"
        else PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    )
    theirs = peft_model(base, config)
    theirs.save_pretrained(tmp_path)
    ids = torch.tensor([IDS])
    expected = theirs.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=None,
    )[0, len(IDS) :]
    model = base.ours()
    stored = read_adapter(tmp_path, base.chatglm, base.config)
    adapter = stored.on(model) if isinstance(stored, StoredLora) else stored
    engine = Engine(model, adapters={"tuned": adapter}, block_size=4)
    params = GREEDY.replace(max_tokens=16, adapter="tuned")
    for _ in range(2):  # the second time from the prefix cache
        (completions,) = engine.generate([IDS], params)
        assert completions[0].ids == expected.tolist()
