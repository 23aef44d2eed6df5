"""The published tokenizer's calls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from chatglm3.compat import AutoTokenizer, BatchEncoding
from chatglm3.errors import InvalidMessageError, InvalidParameterError, TokenizerError
from tests.compat.cases import jsonl
from tests.tokenizers import tiny_tokenizer_file

TINY = AutoTokenizer(tiny_tokenizer_file())
GMASK, SOP = TINY.get_prefix_tokens()


@pytest.fixture(scope="module")
def published(fixtures_dir: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(fixtures_dir, trust_remote_code=True)


# The published cases


def test_batches(published: AutoTokenizer, fixtures_dir: Path) -> None:
    for case in jsonl(fixtures_dir, "tokenizer/batch_cases"):
        texts = case["texts"] if "texts" in case else case["text"]
        kwargs = case.get("kwargs", {})
        assert published(texts, case.get("text_pair"), **kwargs) == case["output"], case["id"]
        if kwargs.get("padding"):
            tensors = published(texts, **kwargs, return_tensors="pt")
            assert {name: rows.tolist() for name, rows in tensors.items()} == case["output"], case["id"]


def test_texts_with_and_without_the_prefix(published: AutoTokenizer, fixtures_dir: Path) -> None:
    for case in jsonl(fixtures_dir, "tokenizer/tokenizer_cases"):
        assert published.encode(case["text"], add_special_tokens=False) == case["ids"], case["id"]
        assert published.encode(case["text"]) == case["ids_special"], case["id"]
        assert published.tokenize(case["text"]) == case["pieces"], case["id"]
        assert published.convert_tokens_to_ids(case["pieces"]) == case["ids"], case["id"]
        assert published.decode(case["ids_special"]) == case["decode_special"], case["id"]


def test_role_tokens_in_texts_are_read_only_on_request(published: AutoTokenizer, fixtures_dir: Path) -> None:
    trusting = AutoTokenizer.from_pretrained(fixtures_dir, encode_special_tokens=True)
    for case in jsonl(fixtures_dir, "tokenizer/tokenizer_cases"):
        expected = case.get("ids_role_tokens", case["ids"])
        assert trusting.encode(case["text"], add_special_tokens=False) == expected, case["id"]


def test_ids(published: AutoTokenizer, fixtures_dir: Path) -> None:
    for case in jsonl(fixtures_dir, "tokenizer/decode_cases"):
        assert published.convert_ids_to_tokens(case["ids"]) == case["tokens"], case["id"]
        ids = torch.tensor(case["ids"], dtype=torch.long)
        assert published.decode(ids) == case["decode"], case["id"]
        assert published.decode(ids, skip_special_tokens=True) == case["decode_skip_special"], case["id"]
        assert published.batch_decode([case["ids"], ids]) == [case["decode"]] * 2, case["id"]


def test_conversations(published: AutoTokenizer, fixtures_dir: Path) -> None:
    for case in jsonl(fixtures_dir, "chat/chat_cases"):
        arguments = {"query": case["query"], "history": case["history"], "role": case["role"]}
        if "error" in case:
            with pytest.raises(InvalidMessageError):
                published.build_chat_input(**arguments)
            continue
        inputs = published.build_chat_input(**arguments)
        if any(item.get("metadata", "") is None for item in case["history"]):  # published as the text "None"
            arguments["history"] = [
                {**item, "metadata": item.get("metadata") or ""} for item in case["history"]
            ]
            assert inputs.input_ids.equal(published.build_chat_input(**arguments).input_ids)
            continue
        length = len(case["input_ids"])
        assert inputs.input_ids.tolist() == [case["input_ids"]], case["id"]
        assert inputs.attention_mask.tolist() == [[1] * length], case["id"]
        assert inputs.position_ids.tolist() == [list(range(length))], case["id"]


def test_templates(published: AutoTokenizer, fixtures_dir: Path) -> None:
    for case in jsonl(fixtures_dir, "chat/chat_cases"):
        if "template" not in case:
            continue
        messages = [*case["history"], {"role": case["role"], "content": case["query"]}]
        if any(item.get("metadata", "") is None for item in messages):
            continue
        ids = published.apply_chat_template(messages, add_generation_prompt=True)
        assert ids == case["input_ids"], case["id"]
        assert published.apply_chat_template(messages) == ids[:-1], case["id"]
        text = published.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if all(item["content"] for item in messages):  # the templates put a space before no content, too
            assert text == case["template"]["32k_tokenizer_config"]["text"], case["id"]


def test_single_messages(published: AutoTokenizer, fixtures_dir: Path) -> None:
    for case in jsonl(fixtures_dir, "chat/single_message_cases"):
        ids = published.build_single_message(case["role"], case["metadata"], case["message"])
        assert ids == case["ids"], case["id"]


def test_special_tokens(published: AutoTokenizer, fixtures_dir: Path) -> None:
    expected = json.loads((fixtures_dir / "special_tokens.json").read_text(encoding="utf-8"))
    assert published.vocab_size == len(published) == expected["vocab_size"]
    assert published.get_prefix_tokens() == expected["prefix_tokens"]
    assert published.padding_side == expected["padding_side"]
    assert list(published.model_input_names) == expected["model_input_names"]
    for token, token_id in expected["special_tokens"].items():
        assert published.get_command(token) == published.convert_tokens_to_ids(token) == token_id
        assert published.convert_ids_to_tokens(token_id) == token
    assert published.eos_token_id == published.get_command("<eos>") == expected["eos_id"]
    assert published.pad_token_id == published.get_command("<pad>") == expected["pad_id"]
    assert published.bos_token_id == published.get_command("<bos>") == expected["bos_id"]
    assert published.unk_token_id == expected["unk_id"]


# Any vocabulary


def test_an_encoding_is_a_mapping_and_has_attributes() -> None:
    inputs = TINY(["hello", "hello world"], return_tensors="pt", padding=True)
    assert dict(**inputs).keys() == {"input_ids", "attention_mask", "position_ids"}
    assert inputs["input_ids"] is inputs.input_ids
    assert inputs.to("cpu") is inputs
    inputs.position_ids += 3
    assert inputs["position_ids"][1, 0] == 3
    with pytest.raises(AttributeError, match="labels"):
        _ = inputs.labels


def test_padding_stands_on_the_left_and_is_masked() -> None:
    long, short = TINY.encode("hello world"), TINY.encode("hello")
    pad = len(long) - len(short)
    inputs = TINY(["hello world", "hello"], padding="longest")
    assert inputs["input_ids"] == [long, [TINY.pad_token_id] * pad + short]
    assert inputs["attention_mask"] == [[1] * len(long), [0] * pad + [1] * len(short)]
    assert inputs["position_ids"][1] == [0] * pad + list(range(len(short)))


def test_tensors_always_have_a_batch_dimension() -> None:
    ids = TINY.encode("hello")
    assert TINY("hello").input_ids == ids
    assert TINY(["hello"]).input_ids == [ids]
    assert TINY("hello", return_tensors="pt").input_ids.tolist() == [ids]
    array = TINY("hello", return_tensors="np").input_ids
    assert isinstance(array, np.ndarray)
    assert array.tolist() == [ids]
    assert TINY.decode(array) == TINY.decode(ids)


def test_text_cannot_forge_a_role() -> None:
    user = TINY.get_command("<|user|>")
    assert user not in TINY.encode("<|user|>\nhi")
    trusting = AutoTokenizer(tiny_tokenizer_file(), encode_special_tokens=True)
    assert trusting.encode("<|user|>\nhi")[2] == user
    trusting.encode_special_tokens = False
    assert trusting.encode("<|user|>\nhi") == TINY.encode("<|user|>\nhi")


def test_a_template_can_give_tensors_and_an_encoding() -> None:
    messages = [{"role": "user", "content": "hello"}]
    ids = TINY.apply_chat_template(messages, add_generation_prompt=True)
    assert ids[-1] == TINY.get_command("<|assistant|>")
    inputs = TINY.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert isinstance(inputs, BatchEncoding)
    assert inputs.input_ids.tolist() == [ids]
    assert inputs.input_ids.equal(TINY.build_chat_input("hello").input_ids)


def test_save_and_load_again(tmp_path: Path) -> None:
    TINY.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path)  # onto itself
    assert again.encode("hello world, 你好") == TINY.encode("hello world, 你好")


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(InvalidParameterError, match="padding=True"):
        TINY(["a", "a b c"], return_tensors="pt")
    with pytest.raises(InvalidParameterError, match="max_length"):
        TINY("a", truncation=True)
    with pytest.raises(InvalidParameterError, match="max_length"):
        TINY("a", padding="max_length")
    with pytest.raises(InvalidParameterError, match="prefix"):
        TINY("a", truncation=True, max_length=1)
    with pytest.raises(InvalidParameterError, match="'tf'"):
        TINY("a", return_tensors="tf")  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterError, match="'right'"):
        TINY("a", padding="right")  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterError, match="return_tensors"):
        TINY("a").to("cpu")
    with pytest.raises(TokenizerError, match="bot"):
        TINY.get_command("<|bot|>")
    with pytest.raises(TypeError, match="paddding"):
        TINY("a", paddding=True)  # type: ignore[call-arg]
