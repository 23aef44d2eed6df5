"""`chat`, `stream_chat` and `process_response` on the published cases."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from chatglm3.checkpoint import save_model
from chatglm3.compat import AutoModel, AutoTokenizer
from chatglm3.compat.replies import read_text
from chatglm3.config import ModelConfig
from chatglm3.model import ChatGLMModel
from tests.compat.cases import halves, jsonl


@dataclass
class Scripted:
    """A one-layer model whose weights make it say what a case expects."""

    case: dict[str, Any]
    tokenizer: AutoTokenizer
    model: AutoModel

    @property
    def arguments(self) -> dict[str, Any]:
        names = ("query", "role", "max_length", "do_sample")
        return {name: self.case[name] for name in names} | {"history": copy.deepcopy(self.case["history"])}

    @property
    def stopped(self) -> bool:
        return self.case["generated_ids_with_stop"][-1] in self.tokenizer.tokenizer.stop_ids


@pytest.fixture(scope="module")
def scripted(fixtures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Scripted]]:
    """Every case with its model: zeros, but for norms and the rows that the case names."""
    found = []
    folder = tmp_path_factory.mktemp("scripted")
    for half in halves(fixtures_dir, "chat_e2e"):
        config = ModelConfig.from_folder(half)
        rows = load_file(half / "rows.safetensors")
        for line in (half / "cases.jsonl").read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            model = ChatGLMModel(config)
            for name, parameter in model.named_parameters():
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
            model.embedding.weight[rows[f"{case['name']}/emb_ids"]] = rows[f"{case['name']}/emb_rows"]
            model.output.weight[rows[f"{case['name']}/out_ids"]] = rows[f"{case['name']}/out_rows"]
            place = folder / half.parent.name / case["name"]
            save_model(model, config, place)
            shutil.copy(fixtures_dir / "tokenizer.model", place)
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=True)
            drop_in = AutoModel.from_pretrained(place, trust_remote_code=True, device="cpu").float().eval()
            found.append(Scripted(case, tokenizer, drop_in))
    yield found
    shutil.rmtree(folder)


def test_generated_ids(scripted: list[Scripted]) -> None:
    for it in scripted:
        case, arguments = it.case, it.arguments
        inputs = it.tokenizer.build_chat_input(arguments["query"], arguments["history"], arguments["role"])
        assert inputs.input_ids.shape[1] == case["prompt_len"]
        stop_ids = sorted(it.tokenizer.tokenizer.stop_ids)
        output = it.model.generate(**inputs, eos_token_id=stop_ids, max_length=case["max_length"])
        assert output[0, case["prompt_len"] :].tolist() == case["generated_ids_with_stop"], case["name"]
        *_, last = it.model.stream_generate(**inputs, eos_token_id=stop_ids, max_length=case["max_length"])
        assert last.equal(output), case["name"]


def test_responses(scripted: list[Scripted]) -> None:
    for it in scripted:
        case, arguments = it.case, it.arguments
        response, history = it.model.chat(it.tokenizer, **arguments)
        assert arguments["history"] == case["history"], "the caller's history is as it was"
        if it.stopped:
            assert response == case["response"], case["name"]
            assert history == case["new_history"], case["name"]
        else:  # the published code drops the last token where the length ends a reply
            text = it.tokenizer.decode(case["generated_ids_with_stop"]).strip()
            assert response == text, case["name"]
            assert text.startswith(case["response"]), case["name"]
            assert history == [*case["new_history"][:-1], {**case["new_history"][-1], "content": text}]


def test_streams(scripted: list[Scripted]) -> None:
    for it in scripted:
        case, arguments = it.case, it.arguments
        items = list(it.model.stream_chat(it.tokenizer, **arguments))
        assert arguments["history"] == case["history"], "the caller's history is as it was"
        assert items[-1] == it.model.chat(it.tokenizer, **arguments), case["name"]
        published = [(item["response"], item["last_turn"]) for item in case["stream"]]
        if isinstance(case["response"], str):
            ours = [(response, history[-1]) for response, history in items]
            assert ours[: len(published)] == published, case["name"]
            assert len(ours) - len(published) == (0 if it.stopped else 1), case["name"]
        else:  # a first line may be a call's name or text: it is a call once that is sure
            calls = [response for response, _ in items if isinstance(response, dict)]
            assert calls[-1] == published[-1][0]
            assert all(call in [response for response, _ in published] for call in calls), case["name"]


def test_streams_come_with_the_place_of_past_key_values(scripted: list[Scripted]) -> None:
    for it in scripted:
        pairs = list(it.model.stream_chat(it.tokenizer, **it.arguments))
        triples = it.model.stream_chat(
            it.tokenizer, **it.arguments, past_key_values=None, return_past_key_values=True
        )
        assert list(triples) == [(response, history, None) for response, history in pairs]


def test_process_response(scripted: list[Scripted], fixtures_dir: Path) -> None:
    for case in jsonl(fixtures_dir, "chat/process_response_cases"):
        history = copy.deepcopy(case["history"])
        response, new_history = scripted[0].model.process_response(case["output"], history)
        assert history == case["history"], case["id"]
        turns = new_history[len(history) :]
        assert new_history[: len(history)] == history
        assert all(turn["role"] == "assistant" for turn in turns)
        if "error" in case:  # what cannot be read as a call is a text, whole or as a call after all
            assert isinstance(response, str | dict), case["id"]
        elif _is_misread_answer(case):
            assert response == case["output"], case["id"]
            assert turns[-1] == {"role": "assistant", "metadata": "", "content": case["output"]}
        else:
            assert response == case["content"], case["id"]
            assert new_history == case["new_history"], case["id"]


def _is_misread_answer(case: dict[str, Any]) -> bool:
    """Published, the first line of any answer is a name, even where nothing else speaks for a call."""
    name = case["new_history"][-1]["metadata"].strip()
    offered = [tool["name"] for turn in case["history"] for tool in turn.get("tools") or ()]
    return bool(name) and name not in offered and "```" not in case["output"]


def test_read_text_keeps_the_callers_turns_apart() -> None:
    history = [{"role": "user", "content": "hi"}]
    _, new_history = read_text("\n hello", history)
    new_history[0]["content"] = "changed"
    assert history == [{"role": "user", "content": "hi"}]
