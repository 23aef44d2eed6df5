"""Folders of adapters: every published form is read, and whatever is wrong with one is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chatglm3.adapters import Prefix, StoredLora, merge, read_adapter, write_base
from chatglm3.checkpoint import base_fingerprint, load_model, load_prefix, save_model
from chatglm3.config import Layout
from chatglm3.errors import ChatGLM3Error, CheckpointError, ConfigError
from chatglm3.quant import QuantConfig, quantize_model
from tests.adapters.files import lora_tensors, random_lora, write_lora
from tests.tiny import tiny_config, tiny_model

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_model(tiny_model(CONFIG), CONFIG, folder)
    return folder


def assert_same(one: Any, other: Any) -> None:
    assert isinstance(one, StoredLora)
    assert isinstance(other, StoredLora)
    assert one.updates.keys() == other.updates.keys()
    for name in one.updates:
        for a, b in zip(one.updates[name], other.updates[name], strict=True):
            assert a.rows == b.rows
            assert torch.equal(a.a, b.a)
            assert torch.equal(a.b, b.b)


def test_peft_bin_and_published_pt_files(base: Path, tmp_path: Path) -> None:
    tensors = lora_tensors(CONFIG, "chatglm")
    expected = read_adapter(write_lora(tmp_path / "safe", tensors), base, CONFIG)
    for name in ("adapter_model.bin", "pytorch_model.pt"):
        folder = tmp_path / name.partition(".")[0]
        write_lora(folder, {})
        (folder / "adapter_model.safetensors").unlink()
        # The published scripts saved parameters by their names in the training model.
        trained = {key.replace(".weight", ".default.weight"): tensor for key, tensor in tensors.items()}
        torch.save(trained if name.endswith("pt") else tensors, folder / name)
        assert_same(read_adapter(folder, base, CONFIG), expected)
        assert_same(read_adapter(folder / name, base, CONFIG), expected)


def test_a_pt_file_alone_does_not_tell_its_scaling(base: Path, tmp_path: Path) -> None:
    torch.save(lora_tensors(CONFIG, "chatglm"), tmp_path / "lora.pt")
    for path in (tmp_path, tmp_path / "lora.pt"):
        with pytest.raises(CheckpointError, match=r"adapter_config.json does not exist.*\"lora_alpha\": 32"):
            read_adapter(path, base, CONFIG)


def test_rows_stored_head_by_head(tmp_path: Path) -> None:
    """Without multi-query attention the ChatGLM layout mixes queries, keys and values: so do the updates."""
    config = tiny_config(num_kv_heads=4, qkv_per_head=True)
    save_model(tiny_model(config), config, tmp_path / "base")
    tensors = lora_tensors(config, "chatglm")
    merge(tmp_path / "base", write_lora(tmp_path / "lora", tensors), tmp_path / "merged")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    stem = "transformer.encoder.layers.1.self_attention.query_key_value"
    sides = [tensors[f"base_model.model.{stem}.lora_{side}.weight"] for side in "BA"]
    torch.testing.assert_close(after[f"{stem}.weight"], before[f"{stem}.weight"] + 2 * sides[0] @ sides[1])


def published_prefix(folder: Path, length: int = 5, **config: Any) -> Tensor:
    """A folder of the published P-Tuning v2; returns what it learnt."""
    config = tiny_config(prefix_length=length, **config)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(5)
    learnt = torch.randn(length, config.kv_values_per_token, generator=generator)
    torch.save({"transformer.prefix_encoder.embedding.weight": learnt}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return learnt


def test_published_p_tuning(base: Path, tmp_path: Path) -> None:
    learnt = published_prefix(tmp_path)
    prefix = read_adapter(tmp_path, base, CONFIG)
    assert isinstance(prefix, Prefix)
    assert torch.equal(prefix.encoded(), learnt)


def test_a_prefix_merged_is_the_prefix(base: Path, tmp_path: Path) -> None:
    published_prefix(tmp_path / "prefix")
    for quantize in (None, "int8"):
        merged = tmp_path / f"merged-{quantize}"
        merge(base, tmp_path / "prefix", merged, quantize=quantize)
        ours, theirs = load_prefix(merged), load_prefix(tmp_path / "prefix", dtype=torch.float32)
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
    assert torch.equal(load_model(tmp_path / "merged-None").output.weight, load_model(base).output.weight)
    with pytest.raises(ConfigError, match="Glm layout"):
        merge(base, tmp_path / "prefix", tmp_path / "glm", layout="glm")
    with pytest.raises(CheckpointError, match="prefix of its own"):
        merge(tmp_path / "merged-None", tmp_path / "prefix", tmp_path / "twice")


@pytest.mark.parametrize("layout", ["chatglm", "glm"])
def test_merged_into_either_layout_and_quantized(base: Path, tmp_path: Path, layout: Layout) -> None:
    adapter = random_lora(tmp_path / "lora", CONFIG)
    merge(base, adapter, tmp_path / "merged", layout=layout)
    expected = load_model(tmp_path / "merged")
    stored = read_adapter(adapter, base, CONFIG)
    assert isinstance(stored, StoredLora)
    for name, tensor in load_model(base).state_dict().items():
        assert torch.equal(expected.state_dict()[name], stored.weight(name, tensor))
    merge(base, adapter, tmp_path / "small", quantize="int4")
    quantize_model(expected, QuantConfig("int4"))
    small = load_model(tmp_path / "small").state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(small[name], tensor), name


def test_merging_keeps_the_dtype(tmp_path: Path) -> None:
    config = tiny_config(dtype="float16")
    save_model(tiny_model(config, dtype=torch.float16), config, tmp_path / "base")
    merge(tmp_path / "base", random_lora(tmp_path / "lora", config), tmp_path / "merged")
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_merging_refuses_what_is_no_original(base: Path, tmp_path: Path) -> None:
    adapter = random_lora(tmp_path / "lora", CONFIG)
    merge(base, adapter, tmp_path / "small", quantize="int8")
    with pytest.raises(CheckpointError, match="merge into the original weights"):
        merge(tmp_path / "small", adapter, tmp_path / "again")
    with pytest.raises(CheckpointError, match="holds weights already"):
        merge(base, adapter, tmp_path / "small")


def test_the_base_must_be_the_one_it_was_trained_on(base: Path, tmp_path: Path) -> None:
    adapter = random_lora(tmp_path / "lora", CONFIG)
    write_base(adapter, "the-base", base)
    assert json.loads((adapter / "base.json").read_text()) == {
        "base": "the-base",
        "fingerprint": base_fingerprint(base),
    }
    model = load_model(base)
    save_model(model, CONFIG, tmp_path / "glm", layout="glm")
    read_adapter(adapter, base, CONFIG)
    read_adapter(adapter, tmp_path / "glm", CONFIG)

    save_model(tiny_model(CONFIG, seed=9), CONFIG, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"trained on the-base, and .*other holds other weights"):
        read_adapter(adapter, tmp_path / "other", CONFIG)

    quantize_model(model, QuantConfig("int8"))
    small = tiny_config(quantization=QuantConfig("int8").to_dict())
    save_model(model, small, tmp_path / "int8")
    with pytest.raises(CheckpointError, match="holds other weights"):
        read_adapter(adapter, tmp_path / "int8", small)
    write_base(tmp_path / "int8", "the-base", base)  # as `chatglm3 quantize` does
    read_adapter(adapter, tmp_path / "int8", small)

    (adapter / "base.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"base\.json is damaged"):
        read_adapter(adapter, base, CONFIG)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


def changed(**more: Tensor) -> dict[str, Tensor]:
    return lora_tensors(CONFIG) | {name.replace("Q", Q): tensor for name, tensor in more.items()}


REFUSED: list[tuple[dict[str, Tensor], dict[str, Any], str]] = [
    (changed(), {"peft_type": "IA3"}, "peft_type is 'IA3'"),
    (changed(), {"r": 8}, r"is \[4, 80\], but adapter_config.json and this network make it \[8, 80\]"),
    (changed(), {"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    (changed(), {"fan_in_fan_out": True}, "fan_in_fan_out"),
    ({}, {}, "holds no tensors"),
    (changed(**{"Q.lora_A.other.weight": torch.ones(4, 48)}), {}, "keep one adapter"),
    (changed(), {"lora_alpha": None}, "r and lora_alpha are numbers"),
    (changed(), {"r": 0}, "rank and alpha of model.layers.0.mlp.down_proj cannot be read"),
    (changed(), {"lora_alpha": "much"}, "could not convert string to float: 'much'"),
    (changed(), {"rank_pattern": {"(": 2}}, "adapter_config.json: rank and alpha of .* unterminated"),
    (changed(), {"alpha_pattern": [3]}, "rank and alpha of"),
    (
        {"base_model.model.model.layers.0.self_attn.o_proj.bias": torch.ones(48)},
        {},
        "o_proj.bias, which is no",
    ),
    ({"base_model.model.model.norm.lora_A.weight": torch.ones(4, 48)}, {}, "where lora_A, lora_B belong"),
    (changed(), {"lora_bias": True}, "lora_bias is True, a variant"),
    (changed(), {"use_qalora": True}, "use_qalora"),
    (changed(), {"something_new": {"x": 1}}, "something_new"),
    (changed(), {"use_dora": True}, "where lora_A, lora_B, lora_magnitude_vector belong"),
    (changed(**{"Q.lora_magnitude_vector": torch.ones(64)}), {}, "where lora_A, lora_B belong"),
    (changed(**{"Q.lora_C.weight": torch.ones(4)}), {}, "q_proj.lora_C.weight, which is no part"),
    (changed(**{"Q.lora_B.bias": torch.ones(4)}), {}, "q_proj.lora_B.bias, which is no part"),
    (changed(**{"Q.lora_A.weight": torch.ones(4, 64)}), {}, r"q_proj.lora_A.weight is \[4, 64\]"),
    (changed(**{"Q.lora_A.weight": torch.full((4, 48), torch.nan)}), {}, "values that are no numbers"),
    (
        {"base_model.model.model.layers.2.mlp.down_proj.lora_A.weight": torch.ones(4, 80)},
        {},
        "layers.2.mlp.down_proj.lora_A.weight, which is no part of a LoRA for this network",
    ),
    (
        {"base_model.model.lm_head.weight": torch.ones(400, 48)},
        {},
        r"lm_head.weight is \[400, 48\], but .* make it \[320, 48\]",
    ),
]


@pytest.mark.parametrize(("tensors", "settings", "complaint"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_honoured_is_named(
    base: Path, tmp_path: Path, tensors: dict[str, Tensor], settings: dict[str, Any], complaint: str
) -> None:
    folder = write_lora(tmp_path / "lora", tensors, **settings)
    with pytest.raises(CheckpointError, match=complaint):
        read_adapter(folder, base, CONFIG)


def test_folders_that_are_no_adapter(base: Path, tmp_path: Path) -> None:
    cases: list[tuple[Path, str]] = [
        (tmp_path / "nowhere", "there is no adapter"),
        (tmp_path, "is no adapter"),
    ]
    cases.append((base, "is a whole model"))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    cases.append((empty, "holds neither adapter_model.safetensors nor adapter_model.bin"))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    cases.append((broken, "not valid JSON"))
    cut = random_lora(tmp_path / "cut", CONFIG)
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    cases.append((cut, "truncated or damaged"))
    wide = tmp_path / "wide"
    published_prefix(wide, num_kv_heads=4)
    cases.append((wide, "was it trained for another model"))
    theirs = tmp_path / "peft-prefix"
    theirs.mkdir()
    (theirs / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    save_file({"prompt_embeddings": torch.zeros(5, 64)}, theirs / "adapter_model.safetensors")
    cases.append((theirs, r"the prefix is \[5, 64\], but this network's are \[tokens, 128\]"))
    for path, complaint in cases:
        with pytest.raises(CheckpointError, match=complaint):
            read_adapter(path, base, CONFIG)


def test_a_pickle_with_code_is_not_run(base: Path, tmp_path: Path) -> None:
    folder = write_lora(tmp_path, {})
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"a": Path("x")}, folder / "adapter_model.bin")
    with pytest.raises(ChatGLM3Error, match="was not loaded"):
        read_adapter(folder, base, CONFIG)
